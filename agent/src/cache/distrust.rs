//! What hangs on an authority that the server has tainted or taken back is replaced at once: the agent's own SVID
//! first, then X.509-SVIDs, spread over a few seconds where they are many. Such JWT-SVIDs are forgotten.
//!
//! What hangs on which authority is decided by signatures and by the key that a token names, never by names of issuers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use vouchsafe_identity::{Bundle, X509Authority};
use vouchsafe_runtime::Clock;

use super::slots::X509Svid;
use super::{JwtCache, X509Cache};
use crate::entry::EntryId;
use crate::knowledge::KnowledgeBase;
use crate::node::OwnSvid;

/// So many SVIDs are replaced without any delay.
const FEW: usize = 16;
/// Each SVID beyond them lengthens the span over which all are spread by this much.
const SPREAD_EACH: Duration = Duration::from_millis(2);
/// Longest such span.
const LONGEST_SPREAD: Duration = Duration::from_secs(5);
/// SVIDs are replaced in groups that are this far apart: one call for each group.
const STEP: Duration = Duration::from_millis(250);
/// How long the SVIDs of workloads wait for the agent's own to be replaced.
const OWN_FIRST: Duration = Duration::from_secs(5);

/// Authorities of the own trust domain whose signatures count no more.
#[derive(Debug, Default)]
pub struct Distrust {
    x509: Vec<X509Authority>,
    jwt: BTreeSet<String>,
}

impl Distrust {
    /// Those that the bundle has as tainted, and those that left it since `before`.
    pub fn between(before: Option<&Bundle>, now: &Bundle) -> Self {
        let mut distrust = Self::default();
        let left = before.into_iter().flat_map(|bundle| &bundle.x509_authorities);
        let left = left.filter(|known| {
            let mut all = now.x509_authorities.iter();
            all.all(|authority| authority.certificate != known.certificate)
        });
        let tainted = now.x509_authorities.iter().filter(|authority| authority.tainted);
        distrust.x509.extend(left.chain(tainted).cloned());
        let left = before.into_iter().flat_map(|bundle| &bundle.jwt_authorities);
        let left = left.filter(|known| now.jwt_authority(&known.key_id).is_none());
        let tainted = now.jwt_authorities.iter().filter(|authority| authority.tainted);
        distrust
            .jwt
            .extend(left.chain(tainted).map(|authority| authority.key_id.clone()));
        distrust
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.x509.is_empty() && self.jwt.is_empty()
    }

    /// Whether one of them signed one of these certificates (DER, one after another).
    pub fn covers_chain(&self, certificates: &[u8]) -> bool {
        self.x509
            .iter()
            .any(|authority| authority.signed_any(certificates))
    }

    /// Whether one of them signed a token that names this key. A token that names none could be of any of them.
    pub fn covers_key(&self, key_id: Option<&str>) -> bool {
        key_id.map_or(!self.jwt.is_empty(), |key_id| self.jwt.contains(key_id))
    }
}

/// Keeps the caches free of what hangs on distrusted authorities, for as long as the process runs.
pub async fn watch(
    knowledge: KnowledgeBase,
    x509: X509Cache,
    jwt: Arc<JwtCache>,
    mut own: watch::Receiver<Option<Arc<OwnSvid>>>,
    clock: Clock,
) {
    let mut changes = knowledge.changes();
    let mut before: Option<Arc<Bundle>> = None;
    loop {
        let now = changes.borrow_and_update().own_bundle().cloned();
        let changed = now.filter(|now| before.as_ref().is_none_or(|before| !Arc::ptr_eq(before, now)));
        if let Some(now) = changed {
            let distrust = Arc::new(Distrust::between(before.as_deref(), &now));
            jwt.distrust(Arc::clone(&distrust));
            x509.distrust(Arc::clone(&distrust));
            if !distrust.x509.is_empty() {
                own_first(&mut own, &distrust).await;
            }
            // Before the first look there may have been other authorities: what was sealed hung on some of them.
            let first = before.is_none().then(|| Arc::clone(&now));
            if !distrust.x509.is_empty() || first.is_some() {
                replace(&x509, &distrust, first, &clock).await;
            }
            before = Some(now);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Waits until the agent's own SVID hangs on none of these authorities, and not for long.
async fn own_first(own: &mut watch::Receiver<Option<Arc<OwnSvid>>>, distrust: &Distrust) {
    let clean = |own: &Option<Arc<OwnSvid>>| {
        own.as_ref()
            .is_some_and(|own| !distrust.covers_chain(&own.certificates()))
    };
    if tokio::time::timeout(OWN_FIRST, own.wait_for(clean))
        .await
        .is_err()
    {
        tracing::warn!(
            "the agent's own SVID hangs on a distrusted authority still; those of workloads go first"
        );
    }
}

/// Whether an authority of the bundle signed one of these certificates.
fn is_known(bundle: &Bundle, certificates: &[u8]) -> bool {
    let mut authorities = bundle.x509_authorities.iter();
    authorities.any(|authority| authority.signed_any(certificates))
}

/// Has what hangs on these authorities replaced, and where a bundle is given what hangs on none of it.
async fn replace(cache: &X509Cache, distrust: &Arc<Distrust>, bundle: Option<Arc<Bundle>>, clock: &Clock) {
    let now = clock.now();
    let (held, by) = (cache.unhurried(), Arc::clone(distrust));
    let covered = move || -> Vec<(EntryId, Arc<X509Svid>)> {
        let in_vain = |certificates: &[u8]| {
            by.covers_chain(certificates)
                || bundle
                    .as_ref()
                    .is_some_and(|bundle| !is_known(bundle, certificates))
        };
        held.into_iter()
            .filter(|(_, svid)| in_vain(&svid.certificates))
            .collect()
    };
    let found = match tokio::task::spawn_blocking(covered).await {
        Ok(found) if !found.is_empty() => found,
        _ => return,
    };
    let span = spread(found.len());
    tracing::warn!(
        svids = found.len(),
        over_ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
        "an authority is distrusted: what it signed is issued anew"
    );
    let hurried = found.into_iter().enumerate().map(|(place, (id, svid))| {
        let wait = match place < FEW {
            true => Duration::ZERO,
            false => place_in(span, clock.jitter()),
        };
        (id, svid, now + wait)
    });
    cache.hurry(hurried.collect());
}

/// Over which span so many SVIDs are spread.
fn spread(count: usize) -> Duration {
    let beyond = u32::try_from(count.saturating_sub(FEW)).unwrap_or(u32::MAX);
    SPREAD_EACH.saturating_mul(beyond).min(LONGEST_SPREAD)
}

/// A group within the span. `jitter` is a random number from -1 to 1.
fn place_in(span: Duration, jitter: f64) -> Duration {
    let steps = (span.div_duration_f64(STEP) * f64::midpoint(jitter, 1.0)).clamp(0.0, f64::from(u16::MAX));
    STEP.mul_f64(steps.round())
}

#[cfg(test)]
mod tests;
