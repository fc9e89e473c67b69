//! Keeps what the agent knows in step with the server: a source brings news, [`follow`] takes them in and waits
//! longer and longer while there are none.

pub mod polling;
pub mod protocol;
pub mod push;
pub mod source;

use std::sync::Arc;
use std::time::Duration;

use vouchsafe_runtime::{Clock, ReadyGuard};

use crate::knowledge::KnowledgeBase;
use crate::random::FullJitter;
use crate::status::{Status, SyncMode};
use crate::upstream::{EntrySource, UpstreamError};

/// The longest wait after a first failure. All agents lose a server that ends at the same moment: they come back spread
/// over this time, so that 5,000 of them are no more than a thousand in a second.
pub const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest wait of all: a server that comes back is heard within it.
pub const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Takes in what the source brings, for as long as the process runs.
pub async fn follow(
    mut source: Box<dyn EntrySource>,
    knowledge: KnowledgeBase,
    status: Arc<Status>,
    clock: Clock,
    mut ready: Option<ReadyGuard>,
) {
    let mut backoff = FullJitter::new(&clock, FIRST_RETRY, LONGEST_RETRY);
    loop {
        match source.next(&knowledge.get()).await {
            Ok(news) => {
                // What does not agree with the server may be followed by an error, again and again.
                if news.is_agreed() || source.mode() == SyncMode::Poll {
                    backoff.reset();
                }
                if knowledge.learn(news) {
                    let known = knowledge.get();
                    let (entries, bundles) = (known.entries.len(), known.bundles.len());
                    let revision = known.resume.as_ref().map(|resume| resume.revision);
                    tracing::info!(entries, bundles, revision, "entries and bundles changed");
                }
                status.heard(source.mode(), clock.now());
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
