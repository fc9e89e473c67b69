//! `vouchsafe-agent`.

fn main() -> std::process::ExitCode {
    vouchsafe_agent::command::main().into()
}
