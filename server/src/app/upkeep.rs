//! What has to be done now and then: entries and tokens that ended are removed, runs that should not live are ended, idle
//! rate buckets forgotten.

use std::convert::Infallible;
use std::time::Duration;

use crate::api::Parts;
use crate::errors::chain;
use crate::usecases::Origin;

/// How often runs and rate buckets are looked at.
const EVERY: Duration = Duration::from_secs(60);
/// Every so many rounds, what has ended is removed: every five minutes, as in SPIRE.
const ROUNDS_BETWEEN_PRUNES: u32 = 5;
/// Entries removed in one commit.
const BATCH: usize = 500;

/// Goes on for ever.
pub(super) async fn run(parts: Parts) -> Result<(), Infallible> {
    let mut round = 0_u32;
    loop {
        if round.is_multiple_of(ROUNDS_BETWEEN_PRUNES) {
            prune(&parts).await;
        }
        tidy_runs(&parts).await;
        parts.rates.forget_idle();
        round = round.wrapping_add(1);
        parts.clock.sleep(EVERY).await;
    }
}

async fn tidy_runs(parts: &Parts) {
    let origin = Origin::system("upkeep", parts.clock.now());
    if let Err(error) = parts.runs.tidy(&origin).await {
        tracing::warn!(
            error = chain(&error),
            "runs that are over could not be ended or forgotten"
        );
    }
}

async fn prune(parts: &Parts) {
    let origin = Origin::system("upkeep", parts.clock.now());
    loop {
        let ended = parts.index.ended_entries(origin.at, BATCH);
        let count = ended.len();
        let outcomes = parts.registry.delete(&origin, ended).await;
        let failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
        if let Some(error) = failed {
            tracing::warn!(
                error = chain(error),
                "entries that have ended could not be removed"
            );
            break;
        }
        if count < BATCH {
            break;
        }
    }
    if let Err(error) = parts.tokens.prune(&origin).await {
        tracing::warn!(
            error = chain(&error),
            "join tokens that have expired could not be removed"
        );
    }
}
