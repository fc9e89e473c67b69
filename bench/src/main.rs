//! `vouchsafe-bench`: measures the figures and prints them beside their limits.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    vouchsafe_bench::command::run().await
}
