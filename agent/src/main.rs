//! `vouchsafe-agent`.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    vouchsafe_agent::command::main().await.into()
}
