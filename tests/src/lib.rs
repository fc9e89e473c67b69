//! End-to-end tests: real daemons, real clients. What the test binaries under `suites/` share stands here:
//! what a test needs from its surroundings, and the programs under `clients/` that speak to our sockets
//! with libraries that we did not write.

pub mod block;
pub mod clients;
pub mod daemons;
pub mod demos;
pub mod disk;
pub mod link;
pub mod needs;
pub mod network;
pub mod node;
pub mod running;
pub mod sealed;
pub mod upstream;
pub mod wait;
pub mod workload;

use std::path::{Path, PathBuf};

/// The top of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// Where `make deps` puts what it installs.
#[must_use]
pub fn dependencies() -> PathBuf {
    repository().join(".deps")
}
