//! Readiness as a guard: each part that must be up holds one, and the log names what is still missing.

use std::time::Duration;

use tokio::sync::watch;

/// While something is missing, the log says so this often.
const REMIND_EVERY: Duration = Duration::from_secs(10);

/// Knows which parts of the process are not up yet. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    missing: watch::Sender<Vec<&'static str>>,
}

/// Held by a part that is not up yet. A part that ends without [`ReadyGuard::ready`] never was up, and stays missing.
#[derive(Debug)]
#[must_use = "a guard that is dropped leaves its part missing for good"]
pub struct ReadyGuard {
    name: &'static str,
    missing: watch::Sender<Vec<&'static str>>,
}

impl Readiness {
    /// Nothing is missing until a guard is taken.
    pub fn new() -> Self {
        Self {
            missing: watch::Sender::new(Vec::new()),
        }
    }

    /// Names a part that must be up; take all guards before [`Readiness::ready`] is awaited.
    pub fn guard(&self, name: &'static str) -> ReadyGuard {
        self.missing.send_modify(|missing| missing.push(name));
        ReadyGuard {
            name,
            missing: self.missing.clone(),
        }
    }

    /// The parts that are not up, in the order in which they were named.
    pub fn missing(&self) -> Vec<&'static str> {
        self.missing.borrow().clone()
    }

    /// Whether every part is up.
    pub fn is_ready(&self) -> bool {
        self.missing.borrow().is_empty()
    }

    /// Waits until every part is up, and reminds the log of those that are not.
    pub async fn ready(&self) {
        let mut changes = self.missing.subscribe();
        loop {
            let waited = tokio::time::timeout(REMIND_EVERY, changes.wait_for(Vec::is_empty)).await;
            match waited {
                Ok(_ready) => return,
                Err(_elapsed) => tracing::warn!(missing = ?self.missing(), "not ready yet"),
            }
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl ReadyGuard {
    /// Says that the part is up.
    pub fn ready(self) {
        self.missing.send_modify(|missing| {
            if let Some(at) = missing.iter().position(|name| *name == self.name) {
                missing.remove(at);
            }
            tracing::debug!(part = self.name, missing = ?missing, "part is up");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ready_waits_for_the_last_part_and_missing_names_it() {
        let readiness = Readiness::new();
        let (listener, index) = (readiness.guard("listener"), readiness.guard("index"));
        assert_eq!(readiness.missing(), ["listener", "index"]);
        listener.ready();
        let waiting = tokio::time::timeout(Duration::from_secs(60), readiness.ready());
        assert!(waiting.await.is_err(), "the index is not up");
        assert_eq!(readiness.missing(), ["index"]);
        index.ready();
        readiness.ready().await;
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_part_that_failed_on_its_way_up_stays_missing() {
        let readiness = Readiness::new();
        drop(readiness.guard("identity"));
        assert_eq!(readiness.missing(), ["identity"]);
    }

    #[tokio::test]
    async fn two_parts_of_one_name_are_both_waited_for() {
        let readiness = Readiness::new();
        let (one, two) = (readiness.guard("listener"), readiness.guard("listener"));
        one.ready();
        assert!(!readiness.is_ready());
        two.ready();
        assert!(readiness.is_ready());
    }
}
