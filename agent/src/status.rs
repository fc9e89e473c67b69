//! How the agent is: filled in by the parts, read by the admin socket.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;

/// How well the server is heard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncState {
    /// When it last said what it knows.
    pub last_heard: Option<OffsetDateTime>,
    /// Whether the latest try succeeded.
    pub reachable: bool,
    /// Why it did not.
    pub problem: Option<String>,
}

/// Shared by the parts.
#[derive(Debug, Default)]
pub struct Status(Mutex<SyncState>);

impl Status {
    /// The server was heard.
    pub fn heard(&self, now: OffsetDateTime) {
        *self.lock() = SyncState {
            last_heard: Some(now),
            reachable: true,
            problem: None,
        };
    }

    /// The server was not heard.
    pub fn unheard(&self, problem: &str) {
        let mut state = self.lock();
        state.reachable = false;
        state.problem = Some(problem.to_owned());
    }

    /// How well the server is heard.
    pub fn sync(&self) -> SyncState {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SyncState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
