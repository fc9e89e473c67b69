//! Carries out what the life cycle decides, and hands out SVIDs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Mutex, Notify, watch};
use vouchsafe_audit::Draft;
use vouchsafe_identity::jwt::LaunchLease;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::{Bundle, KeyAlgorithm, X509Authority};
use vouchsafe_runtime::{Clock, KeyManager};
use vouchsafe_store::{ChangeKind, Commit, CommitError, Key, Record, SharedStore};

use crate::error::chain;
use crate::issue::{Active, IssuedJwt, JwtRequest, Known, Signing, X509Request};
use crate::life_cycle::{Action, KEEP_EXPIRED};
use crate::purpose::{JwtSigner, Purpose, X509Ca};
use crate::record::by_schedule;
use crate::slots::{Slots, Tools};
use crate::steps::{Authority, Kind, Step, StepError};
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
    listing: ArcSwap<Listing>,
    /// Wakes [`CaManager::run`].
    stepped: Notify,
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
    /// A commit failed, and what is in the store may differ from what is here.
    doubtful: bool,
}

/// The journal's authorities, the newest first.
#[derive(Debug, Default)]
struct Listing {
    x509: Vec<Authority>,
    jwt: Vec<Authority>,
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
        let tools = Tools {
            store: &store,
            keys: keys.as_ref(),
            config: &config,
        };
        let rotation = load(tools, clock.now()).await?;
        let manager = Arc::new(Self {
            bundle: watch::Sender::new(Arc::new(Bundle::empty(config.trust_domain.clone()))),
            rotation: Mutex::new(rotation),
            listing: ArcSwap::default(),
            signing: ArcSwap::default(),
            stepped: Notify::new(),
            store: StoreHandle(store),
            config,
            keys,
            clock,
        });
        manager.rotate().await?;
        manager.forget_unused_keys().await?;
        Ok(manager)
    }

    fn tools(&self) -> Tools<'_> {
        Tools {
            store: &self.store.0,
            keys: self.keys.as_ref(),
            config: &self.config,
        }
    }

    /// Rotates keys for as long as the server runs; a failure is logged and tried again.
    ///
    /// # Errors
    /// Never by itself: the task group's stop ends it.
    pub async fn run(self: Arc<Self>) -> Result<(), CaError> {
        loop {
            let now = self.clock.now();
            match self.rotate().await {
                // What is done by hand changes when the next step is due.
                Ok(next) => tokio::select! {
                    () = self.clock.sleep_until_or_back(now, next.min(now + PRUNE_EVERY)) => {}
                    () = self.stepped.notified() => {}
                },
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
        self.settle_doubt(&mut rotation, now).await?;
        let done = self.rotate_all(&mut rotation, now).await;
        rotation.doubtful |= done.is_err();
        let shown = self.show(&rotation, now).await;
        let next = done?;
        shown?;
        Ok(next)
    }

    async fn rotate_all(
        &self,
        rotation: &mut Rotation,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, CaError> {
        let (bundle, _) = self.tools().bundle_for_update().await?;
        let x509 = self.advance(&mut rotation.x509, &bundle, now).await?;
        let jwt = self.advance(&mut rotation.jwt, &bundle, now).await?;
        self.prune(rotation, now).await?;
        Ok(x509.min(jwt))
    }

    async fn advance<P: Purpose>(
        &self,
        slots: &mut Slots<P>,
        bundle: &Bundle,
        now: OffsetDateTime,
    ) -> Result<OffsetDateTime, CaError> {
        let by = by_schedule(now);
        loop {
            match slots.due(bundle, now) {
                Action::Prepare => {
                    let name = slots.slot_in_need(now)?;
                    slots.prepare(self.tools(), &by, name).await?;
                }
                Action::Activate => slots.activate(self.tools(), &by).await?,
                Action::WaitUntil(then) => return Ok(then),
            }
        }
    }

    /// Takes a step that an operator asked for. `by` begins the record of it: who asked, in which call and when.
    ///
    /// # Errors
    /// [`StepError`] when the authority is not in the state that the step needs, or store or key manager fail.
    pub async fn step(&self, kind: Kind, step: Step<'_>, by: &Draft) -> Result<Authority, StepError> {
        let mut rotation = self.rotation.lock().await;
        let was_doubtful = rotation.doubtful;
        self.settle_doubt(&mut rotation, by.at).await?;
        let taken = match kind {
            Kind::X509 => rotation.x509.take(step, self.tools(), by).await,
            Kind::Jwt => rotation.jwt.take(step, self.tools(), by).await,
        };
        if let Err(StepError::Ca(_)) = &taken {
            rotation.doubtful = true;
        }
        // A step before this one may have been taken after all, though that one failed.
        if taken.is_ok() || was_doubtful {
            self.show(&rotation, by.at).await?;
        }
        self.stepped.notify_one();
        taken
    }

    /// The authorities of the journal, the newest first.
    pub fn authorities(&self, kind: Kind) -> Vec<Authority> {
        let listing = self.listing.load();
        match kind {
            Kind::X509 => listing.x509.clone(),
            Kind::Jwt => listing.jwt.clone(),
        }
    }

    /// After a commit of which it is not known whether it was made, the store alone knows the journal.
    async fn settle_doubt(&self, rotation: &mut Rotation, now: OffsetDateTime) -> Result<(), CaError> {
        if rotation.doubtful {
            *rotation = load(self.tools(), now).await?;
        }
        Ok(())
    }

    /// Takes old keys that have ended out of the journal, and authorities out of the bundle that ended more than
    /// [`KEEP_EXPIRED`] ago.
    async fn prune(&self, rotation: &mut Rotation, now: OffsetDateTime) -> Result<(), CaError> {
        let tools = self.tools();
        let (mut bundle, unchanged) = tools.bundle_for_update().await?;
        let before = (bundle.x509_authorities.len(), bundle.jwt_authorities.len());
        let keep = |expires_at: Option<OffsetDateTime>| expires_at.is_none_or(|at| at + KEEP_EXPIRED > now);
        bundle.x509_authorities.retain(|a| keep(a.expires_at()));
        bundle.jwt_authorities.retain(|a| keep(a.expires_at));
        let mut commit = Commit::default();
        if before != (bundle.x509_authorities.len(), bundle.jwt_authorities.len()) {
            bundle.sequence += 1;
            commit = commit
                .expect(unchanged)
                .put(Record::Bundle(bundle))
                .change(ChangeKind::Bundle(self.config.trust_domain.clone()));
        }
        let by = by_schedule(now);
        commit = rotation.x509.without_ended(commit, &by);
        commit = rotation.jwt.without_ended(commit, &by);
        if commit.mutations.is_empty() {
            return Ok(());
        }
        match tools.store.commit(commit).await {
            Ok(_) => {
                rotation.x509.forget_ended(tools, now).await;
                rotation.jwt.forget_ended(tools, now).await;
                Ok(())
            }
            // Someone else changed the bundle: it is looked at again at the next turn.
            Err(CommitError::Conflict(Key::Bundle(_))) => Ok(()),
            Err(refused) => Err(refused.into()),
        }
    }

    /// Lets callers see the present state: what signs, the bundle, the authorities.
    async fn show(&self, rotation: &Rotation, now: OffsetDateTime) -> Result<(), CaError> {
        let (bundle, _) = self.tools().bundle_for_update().await?;
        self.signing.store(Arc::new(Signing {
            x509: active(&rotation.x509, &bundle),
            jwt: active(&rotation.jwt, &bundle),
            trusted: trusted(&rotation.x509, &bundle),
        }));
        self.listing.store(Arc::new(Listing {
            x509: rotation.x509.authorities(&bundle),
            jwt: rotation.jwt.authorities(&bundle),
        }));
        self.load_bundle(rotation, bundle, now)
    }

    fn load_bundle(&self, rotation: &Rotation, bundle: Bundle, now: OffsetDateTime) -> Result<(), CaError> {
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

    /// Removes keys that no slot refers to: left over from a crash between making and recording one, or between
    /// revoking one and deleting it.
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

    /// The keys that sign or will sign, each with its id, for a backup that seals them at once.
    ///
    /// # Errors
    /// [`CaError`] when the key manager cannot give one out.
    pub async fn export_keys(&self) -> Result<Vec<(String, Secret<Vec<u8>>)>, CaError> {
        let rotation = self.rotation.lock().await;
        let mut exported = Vec::new();
        for key_id in rotation.x509.live_key_ids().chain(rotation.jwt.live_key_ids()) {
            if let Some(key) = self.keys.export(key_id).await? {
                exported.push((key_id.to_owned(), key));
            }
        }
        Ok(exported)
    }

    /// Issues an X.509-SVID. Reads no store.
    ///
    /// # Errors
    /// [`CaError`] when no key is active or the certificate cannot be made.
    pub fn issue_x509(&self, request: &X509Request) -> Result<CertifiedChain, CaError> {
        self.signing.load().x509(&self.config, request, self.clock.now())
    }

    /// Issues an X.509-SVID that the server itself shows. Who hears of authorities from the server must know that of the
    /// server's SVID before: for as long as the authority that signs is not known for `heard_within`, as after one that
    /// had to be replaced at once, it is signed by that which is known for longest of those that are not tainted.
    ///
    /// # Errors
    /// As [`CaManager::issue_x509`].
    pub fn issue_x509_for_server(
        &self,
        request: &X509Request,
        heard_within: Duration,
    ) -> Result<CertifiedChain, CaError> {
        let at = (heard_within, self.clock.now());
        self.signing.load().x509_for_server(&self.config, request, at)
    }

    /// Issues a JWT-SVID. Reads no store.
    ///
    /// # Errors
    /// [`CaError`] when no key is active, or the request has no audience.
    pub fn issue_jwt(&self, request: &JwtRequest) -> Result<IssuedJwt, CaError> {
        self.signing.load().jwt(&self.config, request, self.clock.now())
    }

    /// Signs a launch lease. It ends as it says, or with the JWT key that signs it.
    ///
    /// # Errors
    /// [`CaError`] when no key is active.
    pub fn issue_lease(&self, lease: LaunchLease) -> Result<(String, LaunchLease), CaError> {
        self.signing.load().lease(lease, self.clock.now())
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

async fn load(tools: Tools<'_>, now: OffsetDateTime) -> Result<Rotation, CaError> {
    let by = by_schedule(now);
    let rows = tools.store.journal(tools.store.server_id()).await?;
    Ok(Rotation {
        x509: Slots::load(rows.clone(), KeyAlgorithm::EcP256, tools, &by).await?,
        jwt: Slots::load(rows, KeyAlgorithm::EcP256, tools, &by).await?,
        doubtful: false,
    })
}

/// In the order in which they came into the bundle: the clock may have been put back since.
fn trusted(slots: &Slots<X509Ca>, bundle: &Bundle) -> Vec<Known> {
    let known = |authority: &X509Authority| {
        let slot = slots.find(&authority.key_id()?)?;
        let issuer = Arc::clone(slot.issuer.as_ref()?);
        let since = slot.row.issued_at;
        Some(Known { since, issuer })
    };
    let trusted = bundle
        .x509_authorities
        .iter()
        .filter(|authority| !authority.tainted);
    trusted.filter_map(known).collect()
}

/// What signs. A tainted key does not.
fn active<P: Purpose>(slots: &Slots<P>, bundle: &Bundle) -> Active<P::Issuer> {
    let Some(slot) = slots.active() else {
        return Active::None;
    };
    let authority_id = &slot.row.authority_id;
    match &slot.issuer {
        _ if P::tainted(bundle, authority_id) == Some(true) => Active::Tainted(authority_id.clone()),
        Some(issuer) => Active::Issuer(Arc::clone(issuer)),
        None => Active::None,
    }
}
