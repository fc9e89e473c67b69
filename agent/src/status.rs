//! How the agent is: filled in by the parts, read by the admin socket and by whoever waits for the server.

use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::watch;
use vouchsafe_runtime::Clock;

/// How well the server is heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncState {
    /// When it last said what it knows; before the agent's last start, if that was sealed.
    pub last_heard: Option<OffsetDateTime>,
    /// Whether the latest try succeeded.
    pub reachable: bool,
    /// Since when every try has failed.
    pub unreachable_since: Option<OffsetDateTime>,
    /// Why the latest one did.
    pub problem: Option<String>,
    /// Whether what is known was sealed before the agent's last start, and the server has not been heard since.
    pub restored: bool,
    /// How changes are heard of; `None` before the server was heard.
    pub mode: Option<SyncMode>,
}

/// How well the state is sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealState {
    /// Whether it is to be.
    pub wanted: bool,
    /// When that was last done.
    pub sealed_at: Option<OffsetDateTime>,
    /// Why the latest try failed.
    pub problem: Option<String>,
}

/// How the agent hears of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// The server tells of each at once.
    Push,
    /// The agent asks every few seconds.
    Poll,
}

/// Shared by the parts.
#[derive(Debug)]
pub struct Status {
    clock: Clock,
    sync: watch::Sender<SyncState>,
    seal: Mutex<SealState>,
}

impl Default for Status {
    fn default() -> Self {
        Self::new(Clock::system())
    }
}

impl Status {
    /// Nothing has been heard or sealed yet.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            sync: watch::Sender::default(),
            seal: Mutex::default(),
        }
    }

    /// The server was heard.
    pub fn heard(&self, mode: SyncMode, now: OffsetDateTime) {
        self.sync.send_replace(SyncState {
            last_heard: Some(now),
            reachable: true,
            mode: Some(mode),
            ..SyncState::default()
        });
    }

    /// The server was not heard.
    pub fn unheard(&self, problem: &str) {
        let now = self.clock.now();
        self.sync.send_modify(|state| {
            state.reachable = false;
            state.unreachable_since.get_or_insert(now);
            state.problem = Some(problem.to_owned());
        });
    }

    /// What was sealed before the agent's last start is known again.
    pub fn restored(&self, last_heard: Option<OffsetDateTime>) {
        self.sync.send_modify(|state| {
            state.last_heard = last_heard;
            state.restored = true;
        });
    }

    /// How well the server is heard.
    pub fn sync(&self) -> SyncState {
        self.sync.borrow().clone()
    }

    /// To wait for changes of that.
    pub fn changes(&self) -> watch::Receiver<SyncState> {
        self.sync.subscribe()
    }

    /// The state is to be sealed.
    pub fn seal_wanted(&self) {
        self.seals().wanted = true;
    }

    /// The state was sealed; whether that had failed before.
    pub fn sealed(&self, now: OffsetDateTime) -> bool {
        let mut state = self.seals();
        state.sealed_at = Some(now);
        state.problem.take().is_some()
    }

    /// The state could not be sealed; whether that is news.
    pub fn unsealed(&self, problem: &str) -> bool {
        let before = self.seals().problem.replace(problem.to_owned());
        before.as_deref() != Some(problem)
    }

    /// How well the state is sealed.
    pub fn seal(&self) -> SealState {
        self.seals().clone()
    }

    fn seals(&self) -> MutexGuard<'_, SealState> {
        self.seal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_counts_until_the_server_is_heard() {
        let clock = Clock::manual(at(0));
        let status = Status::new(clock.clone());
        status.restored(Some(at(-60)));
        status.unheard("away");
        let since = clock.now();
        clock.jump(time::Duration::seconds(5));
        status.unheard("still away");
        let sync = status.sync();
        assert_eq!(sync.unreachable_since, Some(since));
        assert_eq!(sync.last_heard, Some(at(-60)));
        assert_eq!(sync.problem.as_deref(), Some("still away"));
        assert!(sync.restored && !sync.reachable);
        status.heard(SyncMode::Poll, clock.now());
        let sync = status.sync();
        assert!(sync.reachable && !sync.restored && sync.unreachable_since.is_none());
    }

    #[test]
    fn a_failure_to_seal_is_news_once() {
        let status = Status::default();
        assert!(status.unsealed("full"));
        assert!(!status.unsealed("full"));
        assert!(status.unsealed("gone"));
        assert!(status.sealed(at(0)));
        assert!(!status.sealed(at(1)));
    }
}
