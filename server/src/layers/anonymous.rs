//! What callers without an SVID do, gathered by source, method and outcome, one record each a minute; with it go the
//! polls of agents.
//!
//! The number of sources that are told apart is limited; what comes from more is gathered as one.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Code;
use vouchsafe_audit::{Draft, Principal};
use vouchsafe_runtime::Clock;
use vouchsafe_store::{AuditError, AuditSink};

use super::call::outcome;
use super::polls::Polls;
use crate::caller::Source;
use crate::usecases::Origin;

/// How long calls are gathered.
const SPAN: Duration = Duration::from_secs(60);
/// How sources beyond the limit are named.
const OTHERS: &str = "other addresses";

/// Gathers calls.
#[derive(Debug)]
pub struct AnonymousCalls {
    max_sources: usize,
    gathered: Mutex<Gathered>,
    late: Mutex<Vec<Draft>>,
    pub(super) polls: Polls,
}

#[derive(Debug, Default)]
struct Gathered {
    sources: HashSet<Source>,
    counts: HashMap<(Option<Source>, &'static str, Code), u64>,
}

impl AnonymousCalls {
    /// Tells at most so many sources apart within a minute.
    pub fn new(max_sources: usize) -> Arc<Self> {
        Arc::new(Self {
            max_sources,
            gathered: Mutex::default(),
            late: Mutex::default(),
            polls: Polls::default(),
        })
    }

    /// Counts one call.
    pub fn note(&self, source: Source, method: &'static str, code: Code) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let told_apart = gathered.sources.contains(&source)
            || (gathered.sources.len() < self.max_sources && gathered.sources.insert(source));
        let key = (told_apart.then_some(source), method, code);
        *gathered.counts.entry(key).or_default() += 1;
    }

    /// Keeps a record that found no room in the log at once; it is written with what was gathered.
    pub fn keep(&self, draft: Draft) {
        self.late
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(draft);
    }

    /// Writes what was gathered, each minute and once more after `done`.
    ///
    /// # Errors
    /// [`AuditError`] when the log takes no records.
    pub async fn run(
        self: Arc<Self>,
        clock: Clock,
        sink: AuditSink,
        done: CancellationToken,
    ) -> Result<(), AuditError> {
        while !done.is_cancelled() {
            tokio::select! {
                () = done.cancelled() => {}
                () = clock.sleep(SPAN) => {}
            }
            for draft in self.take(&clock).into_iter().chain(self.polls.take(&clock)) {
                sink.record(draft).await?;
            }
        }
        Ok(())
    }

    fn take(&self, clock: &Clock) -> Vec<Draft> {
        let gathered = std::mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rows: Vec<_> = gathered.counts.into_iter().collect();
        rows.sort_by_key(|((source, method, code), _)| {
            (source.map(|s| s.to_string()), *method, i32::from(*code))
        });
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        let gathered = rows.into_iter().map(|((source, method, code), count)| {
            let source = source.map_or_else(|| OTHERS.to_owned(), |source| source.to_string());
            let origin = Origin {
                principal: Principal::Anonymous { source },
                scope: "none",
                ..Origin::system("anonymous", clock.now())
            };
            Draft {
                outcome: outcome(code),
                code: Some(format!("{code:?}").into()),
                ..origin.change(method, [("count", count.to_string())])
            }
        });
        late.into_iter().chain(gathered).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_from_many_addresses_makes_few_records_and_loses_no_count() {
        let clock = Clock::manual(time::OffsetDateTime::UNIX_EPOCH);
        let calls = AnonymousCalls::new(3);
        for n in 0..1000_u32 {
            let source = Source::of(std::net::Ipv4Addr::from(n / 10).into());
            calls.note(source, "/m", Code::PermissionDenied);
        }
        let drafts = calls.take(&clock);
        assert_eq!(drafts.len(), 4);
        let counts: u64 = drafts
            .iter()
            .map(|d| d.facts["count"].parse::<u64>().unwrap())
            .sum();
        assert_eq!(counts, 1000);
        assert!(calls.take(&clock).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_found_no_room_is_written_later_and_once() {
        let clock = Clock::manual(time::OffsetDateTime::UNIX_EPOCH);
        let calls = AnonymousCalls::new(1);
        let late = Origin::system("late", clock.now()).change("/m", []);
        calls.keep(late.clone());
        assert_eq!(calls.take(&clock), [late]);
        assert!(calls.take(&clock).is_empty());
    }
}
