//! Runs on real processes: who gets which identity, who may launch, how a run ends, and what an agent that was killed
//! finds again.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

#[path = "runs/children.rs"]
mod children;
#[path = "runs/commands.rs"]
mod commands;
#[path = "runs/container.rs"]
mod container;
#[path = "runs/escapes.rs"]
mod escapes;
#[path = "runs/identity.rs"]
mod identity;
#[path = "runs/leases.rs"]
mod leases;
#[path = "runs/left.rs"]
mod left;
#[path = "runs/life.rs"]
mod life;
#[path = "runs/made_of.rs"]
mod made_of;
#[path = "runs/many.rs"]
mod many;
#[path = "runs/measured.rs"]
mod measured;
#[path = "runs/nested.rs"]
mod nested;
#[path = "runs/ordinary.rs"]
mod ordinary;
#[path = "runs/pythons.rs"]
mod pythons;
#[path = "runs/recovery.rs"]
mod recovery;
#[path = "runs/revoked.rs"]
mod revoked;
#[path = "runs/stage.rs"]
mod stage;
