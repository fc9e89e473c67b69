//! Starts a measured program isolated: from an execute-only copy, in a cgroup of its own, under a uid of its own,
//! with a gate that it passes only when the caller has registered it. `Launcher` is the way in; docs/isolation.md
//! says what is promised. It must not know servers, identities or gRPC.

pub mod cgroups;
mod channel;
pub mod copies;
mod digest;
mod doors;
pub mod environment;
mod error;
pub mod harden;
mod launcher;
pub mod measure;

mod order;
mod plan;
pub mod record;
mod stage;
mod supervisor;
pub mod verify;

pub use digest::{Digest, DigestError};
pub use error::LaunchError;
pub use launcher::{Config, InForce, Launched, Launcher, PATIENCE, Prepared, Recovered};
pub use plan::{Expected, Isolation, OnEnd, Plan, Stdio, User};
pub use record::Outcome;
pub use supervisor::main as supervisor_main;
