//! Keeps what the agent knows in step with the server: a source brings news, [`follow`] takes them in and waits
//! longer and longer while there are none.

pub mod polling;
pub mod protocol;

use std::sync::Arc;
use std::time::Duration;

use vouchsafe_runtime::{Clock, ReadyGuard};

use crate::knowledge::KnowledgeBase;
use crate::random::Backoff;
use crate::status::Status;
use crate::upstream::{EntrySource, UpstreamError};

/// Wait after the first failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait, give or take a fifth: a server that comes back is heard within it.
pub const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Takes in what the source brings, for as long as the process runs.
pub async fn follow(
    mut source: Box<dyn EntrySource>,
    knowledge: KnowledgeBase,
    status: Arc<Status>,
    clock: Clock,
    mut ready: Option<ReadyGuard>,
) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        match source.next(&knowledge.get()).await {
            Ok(news) => {
                backoff.reset();
                if knowledge.learn(news) {
                    let known = knowledge.get();
                    tracing::info!(
                        entries = known.entries.len(),
                        bundles = known.bundles.len(),
                        "entries and bundles changed"
                    );
                }
                status.heard(clock.now());
                if let Some(ready) = ready.take() {
                    ready.ready();
                }
            }
            Err(error) => {
                let wait = backoff.wait_at_least(error.retry_after());
                status.unheard(&error.to_string());
                tell(&error, wait);
                clock.sleep(wait).await;
            }
        }
    }
}

fn tell(error: &UpstreamError, wait: Duration) {
    let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    tracing::warn!(%error, retry_in_ms, "entries could not be fetched from the server");
}
