//! The figures of docs/performance.md: real daemons under load from this process, each figure beside the limit that it
//! has to hold. Machines differ and are noisy, so what counts are ratios to raw cryptography or to a bare server,
//! measured in the same run. Nothing here is a timed test: a miss is reported, not hidden.

// The deployment of real binaries is the tests' own; `tests/` itself is no library for others.
#[path = "../../tests/src/daemons.rs"]
pub mod daemons;
#[path = "../../tests/src/network.rs"]
pub mod network;
#[path = "../../tests/src/wait.rs"]
pub mod wait;

pub mod attesting;
pub mod bare;
pub mod bare_issuer;
pub mod command;
pub mod entries;
pub mod figures;
pub mod fleet;
pub mod guard;
pub mod hot;
pub mod plan;
pub mod raw;
pub mod report;
pub mod rig;
pub mod usage;
pub mod workload;
