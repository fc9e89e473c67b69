//! `vouchsafe-supervisor`: stands beside one run. A program of its own, and not the agent under another name: there is
//! one for each run, so it must be small and start at once; and it runs as root, so it links no gRPC.

fn main() -> std::process::ExitCode {
    vouchsafe_launch::supervisor_main()
}
