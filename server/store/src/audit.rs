//! The audit log as the store keeps it: written with commits, read in order.
//!
//! A change's record goes in its own commit. Records of calls go through an [`AuditSink`], from which one
//! [`AuditWriter`] commits them in batches; none is dropped silently: when they cannot be written the
//! queue fills, and then the sink refuses, and so must the call.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{sleep, timeout};
use vouchsafe_audit::{Draft, Record};

use crate::{Commit, CommitError, SharedStore, StoreError};

/// Most records in one commit.
const MAX_BATCH: usize = 1024;
/// How long records gather for which nobody waits, while the queue has places: a commit costs more than a hundred records in it.
const GATHER: Duration = Duration::from_millis(25);
/// How long the writer waits before it tries a batch again that the store did not take.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reads the audit log.
#[async_trait]
pub trait AuditReader: Send + Sync {
    /// Up to `limit` records with `seq` from `from` on, in order.
    async fn audit_records(&self, from: u64, limit: usize) -> Result<Vec<Record>, StoreError>;
    /// `seq` of the last record; 0 while there is none.
    async fn audit_head(&self) -> Result<u64, StoreError>;
}

/// Limits of the queue before the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// Most records that wait to be written.
    pub queue_records: usize,
    /// How long a call waits for a place in a full queue.
    pub longest_wait: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            queue_records: 4096,
            longest_wait: Duration::from_secs(2),
        }
    }
}

/// Why a record is not in the log; the call that it is about must be refused.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The queue stayed full: the store is too slow, or takes no writes.
    #[error("the audit log takes no records: its queue was full for {0:?}")]
    Busy(Duration),
    /// The writer has ended.
    #[error("the audit log is shut down")]
    Closed,
    /// The record has no form in which the store could take it ([`StoreError::Unstorable`]).
    #[error("the audit record could not be written")]
    Store(#[source] StoreError),
    /// At shutdown the store did not take the last records.
    #[error("{count} audit records could not be written before the end")]
    Lost {
        /// How many at least.
        count: usize,
        /// Why.
        source: StoreError,
    },
}

/// Where records of calls are handed in. Cheap to clone.
#[derive(Clone)]
pub struct AuditSink {
    queue: mpsc::Sender<Arc<Draft>>,
    longest_wait: Duration,
    full: Arc<Notify>,
}

impl AuditSink {
    /// Records that wait to be written, places that are kept for calls under way among them.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Returns when the record is queued; it is durable soon after.
    ///
    /// # Errors
    /// [`AuditError::Busy`] when the queue stays full, [`AuditError::Closed`] when the writer has ended,
    /// [`AuditError::Store`] when the record has no form in which it can be stored.
    pub async fn record(&self, draft: Draft) -> Result<(), AuditError> {
        // Found out here, where the caller hears of it: in a batch it would hold up all others.
        serde_json::to_writer(std::io::sink(), &draft)
            .map_err(|e| AuditError::Store(StoreError::Unstorable(format!("audit record: {e}"))))?;
        self.reserve().await?.record(draft);
        Ok(())
    }

    /// Takes a place in the queue for a record that will be known later, so that the call can be refused now.
    ///
    /// # Errors
    /// As [`AuditSink::record`].
    pub async fn reserve(&self) -> Result<AuditPlace, AuditError> {
        let queue = match self.queue.clone().try_reserve_owned() {
            Ok(place) => return Ok(AuditPlace(place)),
            Err(TrySendError::Closed(_)) => return Err(AuditError::Closed),
            Err(TrySendError::Full(queue)) => queue,
        };
        self.full.notify_one();
        match timeout(self.longest_wait, queue.reserve_owned()).await {
            Ok(Ok(place)) => Ok(AuditPlace(place)),
            Ok(Err(_closed)) => Err(AuditError::Closed),
            Err(_late) => Err(AuditError::Busy(self.longest_wait)),
        }
    }

    /// Queues a record if there is room now; else gives it back.
    ///
    /// # Errors
    /// The record, when the queue is full or the writer has ended.
    pub fn try_record(&self, draft: Draft) -> Result<(), Box<Draft>> {
        let sent = self.queue.try_send(Arc::new(draft));
        sent.map_err(|unsent| Box::new(Arc::unwrap_or_clone(unsent.into_inner())))
    }
}

impl fmt::Debug for AuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditSink({} places free)", self.queue.capacity())
    }
}

/// A place in the queue that is kept for one record.
#[derive(Debug)]
pub struct AuditPlace(mpsc::OwnedPermit<Arc<Draft>>);

impl AuditPlace {
    /// Hands in the record; this cannot fail any more.
    pub fn record(self, draft: Draft) {
        let _sender = self.0.send(Arc::new(draft));
    }
}

/// Commits what comes in through the sinks.
pub struct AuditWriter {
    store: SharedStore,
    queue: mpsc::Receiver<Arc<Draft>>,
    /// Told when a call waits for a place.
    full: Arc<Notify>,
}

impl AuditWriter {
    /// A writer to the store, and the sink before it.
    pub fn new(store: SharedStore, config: &AuditConfig) -> (AuditSink, Self) {
        let (sender, queue) = mpsc::channel(config.queue_records.max(1));
        let sink = AuditSink {
            queue: sender,
            longest_wait: config.longest_wait,
            full: Arc::default(),
        };
        let full = Arc::clone(&sink.full);
        (sink, Self { store, queue, full })
    }

    /// Writes until every sink is gone, or until `stop` and then what is queued.
    ///
    /// A batch that the store does not take is tried again for as long as it runs.
    ///
    /// # Errors
    /// [`AuditError::Lost`] when records were left at the end that the store did not take.
    pub async fn run(mut self, stop: impl Future<Output = ()> + Send) -> Result<(), AuditError> {
        let mut stop = pin!(stop);
        let mut stopping = false;
        loop {
            let mut drafts = Vec::new();
            tokio::select! {
                biased;
                () = &mut stop, if !stopping => {
                    self.queue.close();
                    stopping = true;
                }
                count = self.queue.recv_many(&mut drafts, MAX_BATCH) => {
                    if count == 0 {
                        return Ok(());
                    }
                    if !stopping && count < MAX_BATCH {
                        stopping = self.gather(stop.as_mut()).await;
                        self.take_more(&mut drafts);
                    }
                    while let Err(source) = self.write(&drafts).await {
                        if stopping {
                            let count = drafts.len() + self.queue.len();
                            return Err(AuditError::Lost { count, source });
                        }
                        tracing::error!(error = %source, records = drafts.len(), "audit records wait: the store does not take them");
                        stopping = self.pause(RETRY_AFTER, stop.as_mut()).await;
                    }
                }
            }
        }
    }

    /// As [`Self::pause`] for [`GATHER`], but not longer than there are places for those who come.
    async fn gather(&mut self, stop: impl Future<Output = ()> + Send) -> bool {
        let full = Arc::clone(&self.full);
        tokio::select! {
            stopping = self.pause(GATHER, stop) => stopping,
            () = full.notified() => false,
        }
    }

    /// Waits so long, or until `stop`: whether that came. Then nothing more is queued.
    async fn pause(&mut self, span: Duration, stop: impl Future<Output = ()> + Send) -> bool {
        tokio::select! {
            () = stop => {
                self.queue.close();
                true
            }
            () = sleep(span) => false,
        }
    }

    /// Fills a batch with what is queued by now.
    fn take_more(&mut self, drafts: &mut Vec<Arc<Draft>>) {
        while drafts.len() < MAX_BATCH
            && let Ok(draft) = self.queue.try_recv()
        {
            drafts.push(draft);
        }
    }

    /// Commits one batch.
    async fn write(&self, drafts: &[Arc<Draft>]) -> Result<(), StoreError> {
        let commit = Commit {
            audit: drafts.to_vec(),
            ..Commit::default()
        };
        match self.store.commit(commit).await {
            Ok(_revision) => Ok(()),
            Err(CommitError::Store(error)) => Err(error),
            Err(conflict @ CommitError::Conflict(_)) => Err(StoreError::Io(conflict.to_string())),
        }
    }
}

impl fmt::Debug for AuditWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditWriter({} queued)", self.queue.len())
    }
}

#[cfg(test)]
mod tests;
