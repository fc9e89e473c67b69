//! Carries out what the life cycle decides, and hands out SVIDs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Mutex, watch};
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::{Bundle, KeyAlgorithm};
use vouchsafe_runtime::{Clock, KeyManager};
use vouchsafe_store::{ChangeKind, Commit, CommitError, Record, SharedStore};

use crate::issue::{IssuedJwt, JwtRequest, Signing, X509Request};
use crate::life_cycle::{Action, KEEP_EXPIRED};
use crate::purpose::{JwtSigner, Purpose, X509Ca};
use crate::slots::{Slots, bundle_for_update};
use crate::{CaConfig, CaError};

/// How long a failed rotation waits before it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// How often expired authorities are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);

/// The certificate authority of one server.
#[derive(Debug)]
pub struct CaManager {
    config: CaConfig,
    keys: Arc<dyn KeyManager>,
    clock: Clock,
    store: StoreHandle,
    rotation: Mutex<Rotation>,
    signing: ArcSwap<Signing>,
    bundle: watch::Sender<Arc<Bundle>>,
}

struct StoreHandle(SharedStore);

impl std::fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

#[derive(Debug)]
struct Rotation {
    x509: Slots<X509Ca>,
    jwt: Slots<JwtSigner>,
}

impl CaManager {
    /// Loads the key journal, prepares and activates what is missing, and publishes the bundle.
    ///
    /// # Errors
    /// [`CaError`] when store or key manager fail, or a stored authority is damaged.
    pub async fn start(
        config: CaConfig,
        store: SharedStore,
        keys: Arc<dyn KeyManager>,
        clock: Clock,
    ) -> Result<Arc<Self>, CaError> {
        let rows = store.journal(store.server_id()).await?;
        let x509 = Slots::load(rows.clone(), keys.as_ref(), KeyAlgorithm::EcP256).await?;
        let jwt = Slots::load(rows, keys.as_ref(), KeyAlgorithm::EcP256).await?;
        let manager = Arc::new(Self {
            bundle: watch::Sender::new(Arc::new(Bundle::empty(config.trust_domain.clone()))),
            rotation: Mutex::new(Rotation { x509, jwt }),
            signing: ArcSwap::default(),
            store: StoreHandle(store),
            config,
            keys,
            clock,
        });
        manager.rotate().await?;
        manager.forget_unused_keys().await?;
        Ok(manager)
    }

    /// Rotates keys for as long as the server runs; a failure is logged and tried again.
    ///
    /// # Errors
    /// Never by itself: the task group's stop ends it.
    pub async fn run(self: Arc<Self>) -> Result<(), CaError> {
        loop {
            let now = self.clock.now();
            match self.rotate().await {
                Ok(next) => self.clock.sleep_until(next.min(now + PRUNE_EVERY)).await,
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "key rotation failed; the active keys go on signing"
                    );
                    self.clock.sleep(RETRY).await;
                }
            }
        }
    }

    /// Does all that is due and says when to look again.
    ///
    /// # Errors
    /// [`CaError`] when store or key manager fail; what was done before stands.
    pub async fn rotate(&self) -> Result<OffsetDateTime, CaError> {
        let now = self.clock.now();
        let mut rotation = self.rotation.lock().await;
        let Rotation { x509, jwt } = &mut *rotation;
        let next = self.advance(x509, now).await?.min(self.advance(jwt, now).await?);
        self.signing.store(Arc::new(Signing {
            x509: x509.active().map(|slot| slot.issuer.clone()),
            jwt: jwt.active().map(|slot| slot.issuer.clone()),
        }));
        self.prune(now).await?;
        self.load_bundle(&rotation, now).await?;
        Ok(next)
    }

    async fn advance<P: Purpose>(
        &self,
        slots: &mut Slots<P>,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, CaError> {
        loop {
            match slots.due(now) {
                Action::Prepare => {
                    slots
                        .prepare(&self.store.0, self.keys.as_ref(), &self.config, now)
                        .await?
                }
                Action::Activate => slots.activate(&self.store.0, now).await?,
                Action::WaitUntil(then) => return Ok(then),
            }
        }
    }

    /// Takes authorities out of the bundle that expired more than [`KEEP_EXPIRED`] ago.
    async fn prune(&self, now: OffsetDateTime) -> Result<(), CaError> {
        let (mut bundle, unchanged) = bundle_for_update(&self.store.0, &self.config).await?;
        let before = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        let keep = |expires_at: Option<OffsetDateTime>| expires_at.is_none_or(|at| at + KEEP_EXPIRED > now);
        bundle.x509_authorities.retain(|a| keep(a.expires_at()));
        bundle.jwt_authorities.retain(|a| keep(a.expires_at));
        if before == (bundle.x509_authorities.len(), bundle.jwt_authorities.len()) {
            return Ok(());
        }
        bundle.sequence += 1;
        let commit = Commit::default()
            .expect(unchanged)
            .put(Record::Bundle(bundle))
            .change(ChangeKind::Bundle(self.config.trust_domain.clone()));
        match self.store.0.commit(commit).await {
            // Someone else changed the bundle: it is looked at again at the next turn.
            Ok(_) | Err(CommitError::Conflict(_)) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    async fn load_bundle(&self, rotation: &Rotation, now: OffsetDateTime) -> Result<(), CaError> {
        let (bundle, _) = bundle_for_update(&self.store.0, &self.config).await?;
        if !rotation.x509.all_published(&bundle, now) || !rotation.jwt.all_published(&bundle, now) {
            return Err(CaError::Slot {
                slot: "bundle".to_owned(),
                reason: format!(
                    "a key of the journal does not stand in the bundle of trust domain `{}`; if the data belongs to \
                     another trust domain, use another data_dir",
                    self.config.trust_domain
                ),
            });
        }
        self.bundle.send_if_modified(|known| {
            let changed = **known != bundle;
            if changed {
                *known = Arc::new(bundle);
            }
            changed
        });
        Ok(())
    }

    /// Removes keys that no slot refers to: left over from a crash between making and recording one.
    async fn forget_unused_keys(&self) -> Result<(), CaError> {
        let rotation = self.rotation.lock().await;
        let used: BTreeSet<&str> = rotation.x509.key_ids().chain(rotation.jwt.key_ids()).collect();
        for key_id in self.keys.list().await? {
            let ours = [X509Ca::PURPOSE, JwtSigner::PURPOSE]
                .iter()
                .any(|p| key_id.starts_with(p.name()));
            if ours && !used.contains(key_id.as_str()) {
                self.keys.remove(&key_id).await?;
            }
        }
        Ok(())
    }

    /// Issues an X.509-SVID. Reads no store.
    ///
    /// # Errors
    /// [`CaError`] when no key is active or the certificate cannot be made.
    pub fn issue_x509(&self, request: &X509Request) -> Result<CertifiedChain, CaError> {
        self.signing.load().x509(&self.config, request, self.clock.now())
    }

    /// Issues a JWT-SVID. Reads no store.
    ///
    /// # Errors
    /// [`CaError`] when no key is active, or the request has no audience.
    pub fn issue_jwt(&self, request: &JwtRequest) -> Result<IssuedJwt, CaError> {
        self.signing.load().jwt(&self.config, request, self.clock.now())
    }

    /// The bundle of our trust domain.
    pub fn bundle(&self) -> Arc<Bundle> {
        self.bundle.borrow().clone()
    }

    /// The bundle and news of each change of it.
    pub fn bundle_changes(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// The settings that it runs by.
    pub fn config(&self) -> &CaConfig {
        &self.config
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
