//! `vouchsafe-server`.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    vouchsafe_server::command::main().await.into()
}
