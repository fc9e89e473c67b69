//! The agent's own identity: joins, keeps its SVID current, and obeys a server that refuses it.
//!
//! Renewal is in two phases: the new key and the new SVID are on disk before they are used, and until then the old SVID
//! serves. So the agent can be killed at any moment and comes back without a new token.

pub mod attest;
mod renewal;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use vouchsafe_attestors::NodeProver;
use vouchsafe_identity::x509::{self, LeafInfo};
use vouchsafe_identity::{Bundle, KeyAlgorithm, Signer, SpiffeId, TrustDomain};
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_runtime::tls::{BundleHandle, ServerAddress, SvidHandle, TlsError};
use vouchsafe_runtime::{Clock, KeyError, KeyManager, ReadyGuard};

use crate::bootstrap::Bootstrap;
use crate::cache::X509Cache;
use crate::cache::rotation::Lifetime;
use crate::knowledge::KnowledgeBase;
use crate::random::Backoff;
use crate::sealed::Seal;
use crate::upstream::{Refusal, Upstream};
use attest::{AttestError, Attestation};
use state::{StateDir, StateError, StoredSvid};

/// The two places of the agent's key: one is in use while the other gets the next key.
const KEY_SLOTS: [&str; 2] = ["agent-svid-a", "agent-svid-b"];
/// Wait after the first failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The agent's own SVID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSvid {
    /// Who the agent is.
    pub spiffe_id: SpiffeId,
    /// From when to when it is valid.
    pub lifetime: Lifetime,
    /// In lower-case hex.
    pub serial: String,
    stored: StoredSvid,
}

/// Why the agent cannot go on. None of these passes by itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The server refuses this agent; what was stored of its identity is gone.
    #[error("{0}; the stored SVID was removed: start the agent with a new join token")]
    Expelled(Refusal),
    /// The server did not believe the node.
    #[error("the server refused this node: {0}")]
    NotAdmitted(String),
    /// The own SVID expired before the server could be reached.
    #[error(
        "the SVID of this agent expired at {0} and could not be renewed: start the agent with a new join token"
    )]
    Expired(OffsetDateTime),
    /// There is no stored SVID and nothing to join with.
    #[error(
        "this agent has no valid SVID and nothing to join with: make a token with `vouchsafe token generate` on the \
         server and start the agent with `--join-token`"
    )]
    NothingToJoinWith,
    /// The folder of the agent's state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key manager failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The SVID and its key cannot be shown.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The stored key is gone.
    #[error("the key `{0}` of the stored SVID is missing: remove `agent-svid.json` and join anew")]
    KeyMissing(String),
    /// The stored key is damaged, or the key that it was sealed with is another one.
    #[error(
        "the key of the stored SVID cannot be used: bring back the sealing key that belongs to it, or remove \
         `agent-svid.json` and start the agent with a new join token"
    )]
    KeyUnusable(#[source] KeyError),
    /// The library refused to make a request.
    #[error("a certificate request could not be made: {0}")]
    Request(String),
}

/// What the agent's identity is made from.
pub struct Node {
    /// The own trust domain.
    pub trust_domain: TrustDomain,
    /// The server.
    pub address: ServerAddress,
    /// How the server is known at first.
    pub bootstrap: Bootstrap,
    /// What proves the node, if anything.
    pub prover: Option<Arc<dyn NodeProver>>,
    /// What outlives the process.
    pub state: StateDir,
    /// The agent's own keys.
    pub keys: Arc<dyn KeyManager>,
    /// The SVID that is shown to the server.
    pub svid: SvidHandle,
    /// The bundle by which the server is known.
    pub bundles: BundleHandle,
    /// The server.
    pub upstream: Upstream,
    /// Entries and bundles.
    pub knowledge: KnowledgeBase,
    /// X.509-SVIDs of workloads: while some are valid, an agent whose own SVID has ended goes on.
    pub x509: X509Cache,
    /// What is wiped when the server refuses this agent.
    pub seal: Option<Seal>,
    /// Tells the time.
    pub clock: Clock,
    /// Where the other parts see the agent's own SVID.
    pub own: watch::Sender<Option<Arc<OwnSvid>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Joins and keeps the SVID current, for as long as the process runs.
    ///
    /// # Errors
    /// [`NodeError`]: the agent cannot go on.
    pub async fn run(self, ready: Option<ReadyGuard>) -> Result<(), NodeError> {
        let own = self.join().await?;
        if let Some(ready) = ready {
            ready.ready();
        }
        let distrusted = Notify::new();
        let kept = async {
            tokio::try_join!(
                self.keep(own, &distrusted),
                self.follow_bundle(&distrusted),
                self.report()
            )?;
            Ok(())
        };
        tokio::select! {
            refusal = self.expelled() => {
                tracing::error!(reason = refusal.reason.as_str_name(), answer = refusal.message, "the server refuses this agent");
                self.forget().await;
                Err(NodeError::Expelled(refusal))
            }
            ended = kept => ended,
        }
    }

    /// Waits until the server refuses this agent. That an SVID has ended which has ended by our own clock is known.
    async fn expelled(&self) -> Refusal {
        let refusal = self.upstream.refused().await;
        let own = self.own.borrow().clone();
        let lapsed = own.is_some_and(|own| own.lifetime.is_over(self.clock.now()));
        if lapsed && refusal.reason == Reason::AgentExpired {
            std::future::pending::<()>().await;
        }
        refusal
    }

    /// Forgets the identity that the server no longer takes, with its keys and with what was sealed under it.
    async fn forget(&self) {
        if let Err(error) = self.state.forget_svid().await {
            tracing::error!(error = %error, "the stored SVID could not be removed");
        }
        for slot in KEY_SLOTS {
            if let Err(error) = self.keys.remove(slot).await {
                tracing::error!(error = %error, slot, "a key of the removed SVID could not be removed");
            }
        }
        if let Some(seal) = &self.seal
            && let Err(error) = seal.wipe().await
        {
            tracing::error!(error = %error, "the sealed state could not be removed");
        }
    }

    /// Whether the agent can come up: it has a valid SVID, something to join with, or SVIDs of workloads to serve.
    ///
    /// # Errors
    /// [`NodeError`], before anything is served.
    pub fn check(&self) -> Result<(), NodeError> {
        let now = self.clock.now();
        let serves = || self.x509.ends(now).is_some();
        match stored(&self.state, &self.trust_domain)? {
            _ if self.prover.is_some() => Ok(()),
            Some(own) if !own.lifetime.is_over(now) || serves() => Ok(()),
            _ => Err(NodeError::NothingToJoinWith),
        }
    }

    async fn join(&self) -> Result<OwnSvid, NodeError> {
        let own = stored(&self.state, &self.trust_domain)?;
        let now = self.clock.now();
        let lapsed = own.as_ref().filter(|own| own.lifetime.is_over(now));
        if let Some(own) = lapsed {
            tracing::warn!(expired_at = %own.lifetime.not_after, "the stored SVID has expired");
            if self.prover.is_none() {
                return Err(self.outlive(own).await);
            }
        }
        if let Some(own) = own.filter(|own| !own.lifetime.is_over(now)) {
            let signer = match self.keys.get(&own.stored.key_id).await {
                Err(error @ KeyError::Damaged { .. }) => return Err(NodeError::KeyUnusable(error)),
                signer => signer?.ok_or_else(|| NodeError::KeyMissing(own.stored.key_id.clone()))?,
            };
            match (self.state.load_bundle(&self.trust_domain)?, &self.bootstrap) {
                (Some(bundle), _) => self.bundles.set(bundle),
                (None, Bootstrap::Bundle(bundle)) => self.bundles.set(bundle.clone()),
                (None, Bootstrap::Insecure) => {}
            }
            tracing::info!(spiffe_id = %own.spiffe_id, expires_at = %own.lifetime.not_after, "going on with the stored SVID");
            self.show(&own, signer)?;
            return Ok(own);
        }
        let prover = self.prover.as_ref().ok_or(NodeError::NothingToJoinWith)?;
        let signer = self.joining_key(KEY_SLOTS[0]).await?;
        let mut backoff = Backoff::new(&self.clock, FIRST_RETRY, LONGEST_RETRY);
        loop {
            match self.attest(prover.as_ref(), KEY_SLOTS[0], &signer).await? {
                Ok(own) => return Ok(own),
                Err(AttestError::Final(reason)) => return Err(NodeError::NotAdmitted(reason)),
                Err(AttestError::Temporary { reason, retry_after }) => {
                    let wait = backoff.wait_at_least(retry_after);
                    let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
                    tracing::warn!(server = %self.address, reason, retry_in_ms, "cannot join yet");
                    self.clock.sleep(wait).await;
                }
            }
        }
    }

    /// The key to join with: that of a try whose answer was lost, if there was one. By it the server knows that the
    /// token is shown by the node that it has admitted already.
    async fn joining_key(&self, slot: &str) -> Result<Arc<dyn Signer>, NodeError> {
        let begun = match self.state.load_svid()? {
            None => self.keys.get(slot).await?,
            Some(_expired) => None,
        };
        match begun {
            Some(signer) => Ok(signer),
            None => Ok(self.keys.generate(slot, KeyAlgorithm::EcP256).await?),
        }
    }

    /// Attests anew, on a connection without an SVID.
    async fn attest(
        &self,
        prover: &dyn NodeProver,
        slot: &str,
        signer: &Arc<dyn Signer>,
    ) -> Result<Result<OwnSvid, AttestError>, NodeError> {
        let csr = request(signer.as_ref())?;
        let joined = attest::attest(
            &self.address,
            &self.trust_domain,
            &self.bootstrap,
            prover,
            csr,
            &self.clock,
        )
        .await;
        let Attestation {
            chain,
            reattestable,
            bundle,
        } = match joined {
            Ok(joined) => joined,
            Err(error) => return Ok(Err(error)),
        };
        let stored = StoredSvid::new(chain, slot, reattestable);
        let own = match self.accept(stored, signer.as_ref(), &bundle) {
            Ok(own) => own,
            Err(reason) => return Ok(Err(AttestError::Final(reason))),
        };
        let stored = async {
            self.state.save_bundle(&bundle).await?;
            self.state.save_svid(&own.stored).await
        };
        if let Err(error) = stored.await {
            // The proof is spent, so the agent goes on; the next renewal stores again.
            tracing::error!(error = %error, "the SVID of this agent could not be stored: a restart now needs a new join token");
        }
        self.bundles.set(bundle);
        self.show(&own, Arc::clone(signer))?;
        tracing::info!(spiffe_id = %own.spiffe_id, expires_at = %own.lifetime.not_after, "joined");
        Ok(Ok(own))
    }

    /// Checks an SVID that the server gave.
    fn accept(&self, stored: StoredSvid, signer: &dyn Signer, bundle: &Bundle) -> Result<OwnSvid, String> {
        let leaf = x509::verify_svid(&stored.chain, bundle, self.clock.now())
            .map_err(|e| format!("the server gave an SVID that cannot be used: {e}"))?;
        if leaf.public_key != signer.public_key_spki() {
            return Err("the server gave an SVID for another key".to_owned());
        }
        OwnSvid::read(stored, &self.trust_domain).map_err(|e| e.to_string())
    }

    fn show(&self, own: &OwnSvid, signer: Arc<dyn Signer>) -> Result<(), NodeError> {
        self.svid.set_signer(&own.stored.chain, signer)?;
        self.upstream.reconnect();
        self.own.send_replace(Some(Arc::new(own.clone())));
        Ok(())
    }

    /// Keeps the bundle by which the server is known, here and on disk, in step with what the server says.
    async fn follow_bundle(&self, distrusted: &Notify) -> Result<(), NodeError> {
        let mut changes = self.knowledge.changes();
        loop {
            let bundle = changes.borrow_and_update().own_bundle().cloned();
            if let Some(bundle) = bundle
                && self.bundles.get(&self.trust_domain).as_deref() != Some(bundle.as_ref())
                && !bundle.x509_authorities.is_empty()
            {
                self.bundles.set(Bundle::clone(&bundle));
                distrusted.notify_one();
                if let Err(error) = self.state.save_bundle(&bundle).await {
                    tracing::error!(error = %error, "the bundle could not be stored");
                }
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells the server once which program this is. A server need not take it.
    async fn report(&self) -> Result<(), NodeError> {
        let sequence = self
            .bundles
            .get(&self.trust_domain)
            .map_or(0, |bundle| bundle.sequence);
        if let Err(error) = self.upstream.post_status(sequence).await {
            tracing::debug!(%error, "the server did not take this agent's status");
        }
        std::future::pending().await
    }
}

/// The stored SVID, valid or not.
fn stored(state: &StateDir, trust_domain: &TrustDomain) -> Result<Option<OwnSvid>, StateError> {
    let stored = state.load_svid()?;
    stored
        .map(|stored| OwnSvid::read(stored, trust_domain))
        .transpose()
}

/// Who this agent was when it last ran.
///
/// # Errors
/// [`StateError`] when the stored SVID cannot be read.
pub fn stored_id(state: &StateDir, trust_domain: &TrustDomain) -> Result<Option<SpiffeId>, StateError> {
    Ok(stored(state, trust_domain)?.map(|own| own.spiffe_id))
}

impl OwnSvid {
    /// The chain, DER, leaf first, one after another.
    pub fn certificates(&self) -> Vec<u8> {
        self.stored.chain.concat()
    }

    pub(crate) fn read(stored: StoredSvid, trust_domain: &TrustDomain) -> Result<Self, StateError> {
        let leaf: LeafInfo = stored.leaf()?;
        if !leaf.spiffe_id.is_member_of(trust_domain) {
            return Err(StateError::ForeignSvid {
                id: leaf.spiffe_id,
                trust_domain: trust_domain.clone(),
            });
        }
        Ok(Self {
            spiffe_id: leaf.spiffe_id,
            lifetime: Lifetime {
                not_before: leaf.not_before,
                not_after: leaf.not_after,
            },
            serial: leaf.serial,
            stored,
        })
    }
}

fn request(signer: &dyn Signer) -> Result<Vec<u8>, NodeError> {
    x509::csr::create(signer, None, &[]).map_err(|e| NodeError::Request(e.to_string()))
}
