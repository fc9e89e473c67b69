//! `vouchsafe-bench`: measures the figures and prints them beside their limits.

/// The server's, so that the bare servers which it is compared with have the same.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use std::process::ExitCode;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    vouchsafe_bench::command::run().await
}
