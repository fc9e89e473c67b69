//! Keeps the agent's own SVID current, in two phases: what is new is on disk before it is shown, and only its first use
//! ends the old one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use vouchsafe_identity::KeyAlgorithm;

use super::attest::AttestError;
use super::state::StoredSvid;
use super::{FIRST_RETRY, KEY_SLOTS, LONGEST_RETRY, Node, NodeError, OwnSvid, request};
use crate::random::Backoff;
use crate::upstream::UpstreamError;

impl Node {
    /// Renews the SVID at its time, again and again; before its time when its authority is distrusted.
    pub(super) async fn keep(&self, mut own: OwnSvid, distrusted: &Notify) -> Result<(), NodeError> {
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        loop {
            let due = own.lifetime.rotate_at(self.clock.now(), self.clock.jitter());
            tokio::select! {
                () = self.clock.sleep_until(due) => {}
                () = distrusted.notified() => {}
            }
            if self.clock.now() < due && !self.is_distrusted(&own) {
                continue;
            }
            loop {
                own = match self.renew(&own).await {
                    Err(NodeError::Expired(_)) => return Err(self.outlive(&own).await),
                    renewed => renewed?,
                };
                if !self.is_distrusted(&own) {
                    backoff.reset();
                    break;
                }
                tracing::warn!(
                    serial = own.serial,
                    "the server signed the SVID of this agent with an authority that is tainted: it is renewed again"
                );
                self.clock.sleep(backoff.wait()).await;
            }
        }
    }

    /// Whether the SVID hangs on an authority that is tainted, or on none of the bundle.
    fn is_distrusted(&self, own: &OwnSvid) -> bool {
        let Some(bundle) = self.bundles.get(&self.trust_domain) else {
            return false;
        };
        let certificates = own.certificates();
        let authorities = bundle.x509_authorities.iter();
        let mut trusted = authorities.filter(|authority| !authority.tainted);
        !trusted.any(|authority| authority.signed_any(&certificates))
    }

    /// Goes on without a valid SVID as long as one of a workload can be served; gives the reason to end then.
    pub(super) async fn outlive(&self, own: &OwnSvid) -> NodeError {
        self.own.send_replace(Some(Arc::new(own.clone())));
        let expired_at = own.lifetime.not_after;
        while let Some((_, latest)) = self.x509.ends(self.clock.now()) {
            tracing::error!(
                %expired_at,
                expires_at = %latest,
                "the SVID of this agent has expired, so it must join again with a new join token: until then it serves \
                 the SVIDs that are still valid"
            );
            self.clock.sleep_until(latest).await;
        }
        NodeError::Expired(expired_at)
    }

    async fn renew(&self, own: &OwnSvid) -> Result<OwnSvid, NodeError> {
        let slot = own.stored.other_slot(&KEY_SLOTS);
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        loop {
            let Unrenewed { reason, retry_after } = match self.renew_once(own, slot).await? {
                Ok(new) => return Ok(new),
                Err(unrenewed) => unrenewed,
            };
            if own.lifetime.is_over(self.clock.now()) {
                return Err(NodeError::Expired(own.lifetime.not_after));
            }
            let wait = backoff.wait_at_least(retry_after);
            let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(reason, retry_in_ms, expires_at = %own.lifetime.not_after, "the SVID of this agent could not be renewed");
            self.clock.sleep(wait).await;
        }
    }

    async fn renew_once(&self, own: &OwnSvid, slot: &str) -> Result<Result<OwnSvid, Unrenewed>, NodeError> {
        if let (true, Some(prover)) = (own.stored.reattestable, &self.prover) {
            let signer = self.keys.generate(slot, KeyAlgorithm::EcP256).await?;
            let attested = self.attest(prover.as_ref(), slot, &signer).await?;
            return Ok(attested.map_err(Unrenewed::from));
        }
        let signer = match self.keys.generate(slot, KeyAlgorithm::EcP256).await {
            Ok(signer) => signer,
            Err(error) => return Ok(Err(Unrenewed::because(error))),
        };
        let csr = request(signer.as_ref())?;
        let chain = match self.upstream.renew(&csr).await {
            Ok(chain) => chain,
            Err(UpstreamError::Refused(_)) => return std::future::pending().await,
            Err(error) => {
                return Ok(Err(Unrenewed {
                    retry_after: error.retry_after(),
                    reason: error.to_string(),
                }));
            }
        };
        let Some(bundle) = self.bundles.get(&self.trust_domain) else {
            return Ok(Err(Unrenewed::because(
                "the bundle of the trust domain is not known",
            )));
        };
        let stored = StoredSvid::new(chain, slot, own.stored.reattestable);
        let new = match self.accept(stored, signer.as_ref(), &bundle) {
            Ok(new) => new,
            Err(reason) => return Ok(Err(Unrenewed::because(reason))),
        };
        // What is not on disk is not used: the first use of the new SVID ends the old one.
        if let Err(error) = self.state.save_svid(&new.stored).await {
            return Ok(Err(Unrenewed::because(error)));
        }
        self.show(&new, signer)?;
        tracing::info!(serial = new.serial, expires_at = %new.lifetime.not_after, "the SVID of this agent was renewed");
        Ok(Ok(new))
    }
}

/// Why the SVID was not renewed this time.
#[derive(Debug)]
struct Unrenewed {
    reason: String,
    retry_after: Option<Duration>,
}

impl Unrenewed {
    fn because(reason: impl ToString) -> Self {
        Self {
            reason: reason.to_string(),
            retry_after: None,
        }
    }
}

impl From<AttestError> for Unrenewed {
    fn from(error: AttestError) -> Self {
        match error {
            AttestError::Final(reason) => Self::because(reason),
            AttestError::Temporary { reason, retry_after } => Self { reason, retry_after },
        }
    }
}
