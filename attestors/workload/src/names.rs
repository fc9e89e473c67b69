//! Names of users and groups. To ask for one reads files, or asks a directory over the network; so an answer is kept
//! for a moment.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

/// How long an answer counts: a user that was renamed is known by its new name after that.
const KEPT: Duration = Duration::from_secs(1);

/// Answers that are remembered.
const MAX_KEPT: usize = 1024;

/// The name that an id has, if any.
type Found = Result<Option<String>, Errno>;

/// Looks names up.
#[derive(Debug)]
pub(crate) struct Names {
    ask: fn(u32) -> Found,
    kept: Mutex<HashMap<u32, (Instant, Option<String>)>>,
}

impl Names {
    /// Names that `ask` gives.
    pub(crate) fn new(ask: fn(u32) -> Found) -> Self {
        Self {
            ask,
            kept: Mutex::default(),
        }
    }

    /// The name of an id.
    pub(crate) fn of(&self, id: u32) -> Found {
        let now = Instant::now();
        if let Some((until, name)) = self.lock().get(&id)
            && now < *until
        {
            return Ok(name.clone());
        }
        // Failures are not kept.
        let name = (self.ask)(id)?;
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(id, (now + KEPT, name.clone()));
        Ok(name)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, (Instant, Option<String>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_a_moment_and_a_failure_for_none() {
        static ASKED: AtomicU32 = AtomicU32::new(0);
        let names = Names::new(|id| match (id, ASKED.fetch_add(1, Ordering::Relaxed)) {
            (0, _) => Err(Errno::EIO),
            (1, _) => Ok(None),
            (_, asked) => Ok(Some(asked.to_string())),
        });
        assert_eq!(names.of(0), Err(Errno::EIO));
        assert_eq!(names.of(0), Err(Errno::EIO));
        assert_eq!(names.of(1), Ok(None));
        assert_eq!(names.of(1), Ok(None));
        assert_eq!(names.of(2), Ok(Some("3".to_owned())));
        assert_eq!(names.of(2), Ok(Some("3".to_owned())));
        tokio::time::advance(KEPT).await;
        assert_eq!(names.of(2), Ok(Some("4".to_owned())));
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let names = Names::new(|_| Ok(None));
        for id in 0..3000 {
            names.of(id).unwrap();
        }
        assert!(names.lock().len() <= MAX_KEPT);
    }
}
