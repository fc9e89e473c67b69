//! Has X.509-SVIDs issued: makes the keys here, sends requests in batches, checks what comes back.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{KeyAlgorithm, LocalKey, Signer, x509};
use vouchsafe_runtime::Clock;

use super::X509Cache;
use super::rotation::Lifetime;
use super::slots::{Lane, X509Svid};
use super::x509::Outcome;
use crate::entry::{Entry, EntryId};
use crate::random::Backoff;
use crate::upstream::{Authority, UpstreamError, X509Request};

/// Most requests in one call, as SPIRE's agents send.
pub const MAX_BATCH: usize = 500;
/// Wait after a call that failed as a whole.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait between such calls.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// An entry with the key that was made for its next SVID.
struct Prepared {
    entry: Arc<Entry>,
    key: LocalKey,
}

/// Has issued what is due in a lane, for as long as the process runs.
pub async fn issue(cache: X509Cache, lane: Lane, authority: Arc<dyn Authority>, clock: Clock) {
    let mut backoff = Backoff::new(&clock, FIRST_RETRY, LONGEST_RETRY);
    let mut batch = MAX_BATCH;
    loop {
        let now = clock.now();
        let due = cache.take_due(lane, now, batch);
        if due.is_empty() {
            wait(&cache, lane, &clock, now).await;
            continue;
        }
        let caller = cache.waiting(lane, &due);
        match caller.does(issue_batch(authority.as_ref(), &due, &clock)).await {
            Ok(outcomes) => {
                backoff.reset();
                batch = (batch * 2).min(MAX_BATCH);
                tell(&outcomes);
                cache.settle(outcomes, clock.now());
            }
            Err(error) => {
                let pause = backoff.wait_at_least(error.retry_after());
                tracing::warn!(%error, svids = due.len(), "X.509-SVIDs could not be had from the server");
                // A batch may be too large for the server; a smaller one shows whether it is.
                batch = (batch / 2).max(1);
                cache.unasked(&due, &error.to_string(), clock.now());
                clock.sleep(pause).await;
            }
        }
    }
}

async fn wait(cache: &X509Cache, lane: Lane, clock: &Clock, now: OffsetDateTime) {
    let next = cache.next_due(lane, now);
    let time = async {
        match next {
            Some(due) => clock.sleep_until_or_back(now, due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = cache.work(lane) => {}
        () = time => {}
    }
}

async fn issue_batch(
    authority: &dyn Authority,
    due: &[Arc<Entry>],
    clock: &Clock,
) -> Result<Vec<(EntryId, Outcome)>, UpstreamError> {
    let entries = due.to_vec();
    let made = tokio::task::spawn_blocking(move || prepare(entries)).await;
    let (prepared, requests) = made.map_err(|e| UpstreamError::Local(e.to_string()))??;
    let answers = authority.issue_x509(&requests).await?;
    if answers.len() != prepared.len() {
        let text = format!("{} answers to {} requests", answers.len(), prepared.len());
        return Err(UpstreamError::Nonsense(text));
    }
    Ok(prepared
        .into_iter()
        .zip(answers)
        .map(|(prepared, answer)| {
            let id = prepared.entry.id.clone();
            (id, answer.and_then(|chain| accept(&prepared, &chain, clock)))
        })
        .collect())
}

/// Makes a key and a request for each entry.
fn prepare(entries: Vec<Arc<Entry>>) -> Result<(Vec<Prepared>, Vec<X509Request>), UpstreamError> {
    let local = |error: &dyn std::fmt::Display| UpstreamError::Local(error.to_string());
    let mut prepared = Vec::with_capacity(entries.len());
    let mut requests = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = LocalKey::generate(entry.id.as_str(), KeyAlgorithm::EcP256).map_err(|e| local(&e))?;
        let csr = x509::csr::create(&key, Some(&entry.spiffe_id), &[]).map_err(|e| local(&e))?;
        requests.push(X509Request {
            entry: entry.id.clone(),
            csr,
        });
        prepared.push(Prepared { entry, key });
    }
    Ok((prepared, requests))
}

/// Takes an SVID only for the identity and the key that it was asked for.
fn accept(prepared: &Prepared, chain: &[Vec<u8>], clock: &Clock) -> Outcome {
    let now = clock.now();
    let leaf = chain.first().ok_or("the server sent no certificate")?;
    let leaf = x509::parse_leaf(leaf).map_err(|e| format!("the server sent what is no X.509-SVID: {e}"))?;
    let entry = &prepared.entry;
    if leaf.spiffe_id != entry.spiffe_id {
        return Err(format!(
            "the server sent an X.509-SVID of `{}` for entry `{}`",
            leaf.spiffe_id, entry.id
        ));
    }
    if leaf.public_key != prepared.key.public_key_spki() {
        return Err("the server sent an X.509-SVID for another key".to_owned());
    }
    let lifetime = Lifetime {
        not_before: leaf.not_before,
        not_after: leaf.not_after,
    };
    if lifetime.is_over(now) {
        return Err(format!(
            "the server sent an X.509-SVID that expired at {}: compare the clocks of this host and the server",
            leaf.not_after
        ));
    }
    if !lifetime.has_begun(now) {
        return Err(format!(
            "the server sent an X.509-SVID that begins at {}: compare the clocks of this host and the server",
            leaf.not_before
        ));
    }
    Ok(X509Svid {
        spiffe_id: leaf.spiffe_id,
        version: entry.version,
        certificates: chain.concat(),
        key: Secret::from(prepared.key.to_pkcs8()),
        lifetime,
        rotate_at: lifetime.rotate_at(now, clock.jitter()),
        serial: leaf.serial,
    })
}

fn tell(outcomes: &[(EntryId, Outcome)]) {
    for (entry_id, outcome) in outcomes {
        match outcome {
            Ok(svid) => tracing::info!(
                %entry_id,
                spiffe_id = %svid.spiffe_id,
                serial = svid.serial,
                expires_at = %svid.lifetime.not_after,
                "X.509-SVID issued"
            ),
            Err(reason) => tracing::warn!(%entry_id, reason, "no X.509-SVID for this entry"),
        }
    }
}

#[cfg(test)]
mod tests;
