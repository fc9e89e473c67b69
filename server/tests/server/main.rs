//! A whole server in this process, called over its real sockets: TLS and unix.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail loudly"
)]

mod attest;
mod audit;
mod authority;
mod callers;
mod classes;
mod clock;
mod enforced;
mod entries;
mod follow;
mod follow_runs;
mod leases;
mod life;
mod limits;
mod restored;
mod runs;
mod support;
mod svids;
mod sync;
