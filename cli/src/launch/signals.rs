//! Signals that are for the run. They are blocked and waited for, so that no handler is needed; one that was ignored when
//! this process began, as under `nohup`, stays ignored.

use std::process::ExitCode;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use tokio::sync::mpsc;

/// All that are passed on, or that change what is passed on.
const HEARD: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

/// What a shell adds to a signal's number.
const ENDED_BY_SIGNAL: i32 = 128;

/// The signals, blocked.
#[derive(Debug)]
pub(crate) struct Signals(SigSet);

/// Signals as they come.
pub(super) type Heard = mpsc::UnboundedReceiver<Signal>;

impl Signals {
    /// Blocks them in this thread, and in those that it starts from now on: so there must be no others yet.
    pub(crate) fn block() -> nix::Result<Self> {
        let ignored = ignored();
        let set: SigSet = HEARD
            .into_iter()
            .filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0)
            .collect();
        set.thread_block()?;
        Ok(Self(set))
    }

    /// Has a thread of its own wait for them.
    pub(super) fn listen(self) -> Heard {
        let (heard, signals) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while let Ok(signal) = self.0.wait() {
                if heard.send(signal).is_err() {
                    return;
                }
            }
        });
        signals
    }
}

/// The mask of signals that are ignored.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}

/// Whether a process that does nothing about a signal ends by it.
pub(super) fn is_deadly(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGWINCH | Signal::SIGTSTP | Signal::SIGCONT)
}

/// Waits for a signal that is to end this process, while there is no run yet that it could be for.
pub(super) async fn deadly(heard: &mut Heard) -> Signal {
    loop {
        match heard.recv().await {
            Some(Signal::SIGTSTP) => stop(),
            Some(signal) if is_deadly(signal) => return signal,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Stops this process as a shell's `^Z` would; returns when it is continued.
pub(super) fn stop() {
    let _cannot_fail = raise(Signal::SIGSTOP);
}

/// Ends this process by the signal by which the run ended, so that a shell sees the same; without a core of our own.
pub(crate) fn end_by(signal: i32) -> ExitCode {
    if let Ok(known) = Signal::try_from(signal) {
        let _larger_core = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        let set: SigSet = std::iter::once(known).collect();
        let _stays_blocked = set.thread_unblock();
        // A second time, for of some Rust's own handler comes first, which then makes way.
        for _ in 0..2 {
            let _goes_on = raise(known);
        }
    }
    ExitCode::from(u8::try_from(ENDED_BY_SIGNAL + signal).unwrap_or(u8::MAX))
}
