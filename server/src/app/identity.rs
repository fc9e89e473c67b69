//! The server's own identity, `spiffe://<trust domain>/spire/server`: made in memory, renewed at half its life
//! and whenever the bundle changes, and shown by the TLS listener.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use time::OffsetDateTime;
use vouchsafe_ca::{CaManager, X509Request};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::{KeyAlgorithm, LocalKey, Signer, SpiffeId, TrustDomain};
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{self, BundleHandle, ClientAuth, PeerRule, SvidHandle};

use super::AppError;
use crate::errors::chain;

/// Path of the server's id.
const PATH: &str = "/spire/server";
/// How long after a failure the next try is made.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the listener's SVID and bundle current.
pub(super) struct ServerIdentity {
    id: SpiffeId,
    ca: Arc<CaManager>,
    clock: Clock,
    svid: SvidHandle,
    bundles: BundleHandle,
    /// How long an agent may be without its server and still come back.
    longest_away: Duration,
    due: OffsetDateTime,
    /// What the clock showed when `due` was reckoned.
    seen: OffsetDateTime,
}

impl ServerIdentity {
    /// Makes the first SVID.
    pub(super) fn start(
        trust_domain: &TrustDomain,
        ca: Arc<CaManager>,
        clock: Clock,
        longest_away: Duration,
    ) -> Result<Self, AppError> {
        let id = trust_domain
            .with_path(PATH)
            .map_err(|e| AppError::Identity(e.to_string()))?;
        let mut identity = Self {
            id,
            ca,
            svid: SvidHandle::new(),
            bundles: BundleHandle::new(),
            longest_away,
            due: clock.now(),
            seen: clock.now(),
            clock,
        };
        identity.bundles.set(identity.ca.bundle().as_ref().clone());
        identity.due = identity.renew()?;
        Ok(identity)
    }

    /// The listener's TLS: clients come without an SVID, or with one of this trust domain.
    pub(super) fn tls(&self, trust_domain: &TrustDomain) -> Result<Arc<ServerConfig>, AppError> {
        let rule = PeerRule::MemberOf(trust_domain.clone());
        Ok(tls::server_config(
            &self.svid,
            &self.bundles,
            &self.clock,
            ClientAuth::Optional,
            rule,
        )?)
    }

    /// Renews for ever.
    pub(super) async fn run(mut self) -> Result<(), Infallible> {
        let mut changes = self.ca.bundle_changes();
        loop {
            tokio::select! {
                () = self.clock.sleep_until_or_back(self.seen, self.due) => {}
                changed = changes.changed() => if changed.is_ok() {
                    self.bundles.set(changes.borrow_and_update().as_ref().clone());
                },
            }
            self.seen = self.clock.now();
            self.due = match self.renew() {
                Ok(due) => due,
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the server's own SVID could not be renewed"
                    );
                    self.clock.now() + RETRY
                }
            };
        }
    }

    /// Makes a new key and SVID; returns when it is half through its life.
    fn renew(&self) -> Result<OffsetDateTime, AppError> {
        let failed = |e: &dyn std::error::Error| AppError::Identity(chain(e));
        let key = LocalKey::generate("server", KeyAlgorithm::EcP256).map_err(|e| failed(&e))?;
        let request = X509Request {
            spiffe_id: self.id.clone(),
            public_key: CheckedKey::new(key.public_key_spki()).map_err(|e| failed(&e))?,
            dns_names: Vec::new(),
            ttl: None,
            not_after: None,
        };
        let issued = self.ca.issue_x509_for_server(&request, self.longest_away)?;
        self.svid.set(&issued.chain, &key.to_pkcs8())?;
        tracing::debug!(serial = issued.serial, "the server shows a new SVID");
        let now = self.clock.now();
        Ok(now + (issued.not_after - now) / 2)
    }
}
