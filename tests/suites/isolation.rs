//! Starting a measured program isolated, on real processes: what a child of the same uid reaches of its parent, the gate,
//! files that change, control groups, and what is left behind. Each defence is tried with it off where it can be off.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "isolation/again.rs"]
mod again;
#[path = "isolation/files.rs"]
mod files;
#[path = "isolation/gate.rs"]
mod gate;
#[path = "isolation/groups.rs"]
mod groups;
#[path = "isolation/harden.rs"]
mod harden;
#[path = "isolation/hung.rs"]
mod hung;
#[path = "isolation/memory.rs"]
mod memory;
#[path = "isolation/rig.rs"]
mod rig;
#[path = "isolation/streams.rs"]
mod streams;
