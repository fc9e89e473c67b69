//! Authorities by hand: what is refused, what a step leaves behind, and that the schedule goes on beside it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says by a panic what went wrong"
)]

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use time::{Duration as Span, OffsetDateTime};
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_ca::{Authority, CaConfig, CaError, CaManager, JwtRequest, Kind, Step, StepError, X509Request};
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{Bundle, KeyAlgorithm, Signer, SpiffeId, TrustDomain, x509};
use vouchsafe_runtime::keys::{KeyError, MemoryKeys};
use vouchsafe_runtime::{Clock, KeyManager};
use vouchsafe_store::{Commit, MemoryStore, Record, SharedStore, SlotState};

const BOTH: [Kind; 2] = [Kind::X509, Kind::Jwt];

struct Bench {
    store: SharedStore,
    keys: Arc<dyn KeyManager>,
    clock: Clock,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new("server-1")),
            keys: Arc::new(MemoryKeys::new()),
            clock: Clock::manual(OffsetDateTime::UNIX_EPOCH + Span::days(20_000)),
        }
    }

    async fn start(&self) -> Arc<CaManager> {
        let config = CaConfig::new(TrustDomain::new("example.org").unwrap());
        let (store, keys) = (self.store.clone(), self.keys.clone());
        CaManager::start(config, store, keys, self.clock.clone())
            .await
            .unwrap()
    }

    fn operator(&self) -> Draft {
        Draft {
            at: self.clock.now(),
            request_id: "call-1".to_owned(),
            traceparent: None,
            principal: Principal::Local { uid: 7, pid: 8 },
            scope: "local".into(),
            action: "".into(),
            outcome: Outcome::Done,
            code: None,
            reason: None,
            facts: std::iter::empty().collect(),
        }
    }

    async fn step(&self, ca: &CaManager, kind: Kind, step: Step<'_>) -> Result<Authority, StepError> {
        ca.step(kind, step, &self.operator()).await
    }

    /// Prepares and activates: the id of the authority that signed before, and of the one that signs now.
    async fn replaced(&self, ca: &CaManager, kind: Kind) -> (String, String) {
        let before = in_state(ca, kind, SlotState::Active).unwrap().id;
        let prepared = self.step(ca, kind, Step::Prepare).await.unwrap();
        self.step(ca, kind, Step::Activate(&prepared.id)).await.unwrap();
        (before, prepared.id)
    }

    async fn refused(&self, ca: &CaManager, kind: Kind, step: Step<'_>, text: &str) {
        let refused = self.step(ca, kind, step).await.unwrap_err();
        assert!(
            refused.to_string().starts_with(text),
            "{kind:?} {step:?}: `{refused}` instead of `{text}`"
        );
        self.agrees(ca).await;
    }

    /// Journal, key manager, bundle and what is shown of them say the same.
    async fn agrees(&self, ca: &CaManager) {
        let rows = self.store.journal("server-1").await.unwrap();
        let bundle = ca.bundle();
        let stored = self.store.bundle(&bundle.trust_domain).await.unwrap().unwrap();
        assert_eq!(stored.value, *bundle, "what is handed out is what is stored");
        let needed: BTreeSet<String> = rows.iter().map(|row| row.value.key_id.clone()).collect();
        let there: BTreeSet<String> = self.keys.list().await.unwrap().into_iter().collect();
        assert_eq!(needed, there, "each slot has its key, and no key is left over");
        let ids: BTreeSet<String> = rows.iter().map(|row| row.value.authority_id.clone()).collect();
        let published = bundle.x509_authorities.iter().filter_map(|a| a.key_id());
        let published: BTreeSet<String> = published
            .chain(bundle.jwt_authorities.iter().map(|a| a.key_id.clone()))
            .collect();
        assert!(ids.is_subset(&published), "each authority is published");
        for kind in BOTH {
            let active = ca
                .authorities(kind)
                .into_iter()
                .filter(|a| a.state == SlotState::Active);
            assert_eq!(active.count(), 1);
        }
    }

    async fn actions_of_the_operator(&self) -> Vec<String> {
        let records = self.store.audit_records(1, 1000).await.unwrap();
        let ours = records.iter().filter(|record| {
            record.draft.principal == Principal::Local { uid: 7, pid: 8 }
                && record.draft.request_id == "call-1"
        });
        ours.map(|record| format!("{} {}", record.draft.action, record.draft.facts["authority_id"]))
            .collect()
    }
}

fn in_state(ca: &CaManager, kind: Kind, state: SlotState) -> Option<Authority> {
    ca.authorities(kind).into_iter().find(|a| a.state == state)
}

fn x509_request() -> X509Request {
    let key = LocalKey::generate("workload", KeyAlgorithm::EcP256).unwrap();
    X509Request {
        spiffe_id: SpiffeId::new("spiffe://example.org/agent").unwrap(),
        public_key: CheckedKey::new(key.public_key_spki()).unwrap(),
        dns_names: Vec::new(),
        ttl: None,
        not_after: None,
    }
}

fn x509_svid(ca: &CaManager) -> Vec<Vec<u8>> {
    ca.issue_x509(&x509_request()).unwrap().chain
}

fn x509_issuer(ca: &CaManager) -> String {
    let chain = x509_svid(ca);
    x509::parse_leaf(&chain[0]).unwrap().authority_key_id.unwrap()
}

fn jwt_request() -> JwtRequest {
    JwtRequest {
        spiffe_id: SpiffeId::new("spiffe://example.org/agent").unwrap(),
        audience: vec!["db".to_owned()],
        ttl: None,
        include_jti: false,
        not_after: None,
        run: None,
    }
}

fn tainted(bundle: &Bundle) -> Vec<String> {
    let x509 = bundle.x509_authorities.iter().filter(|a| a.tainted);
    let jwt = bundle.jwt_authorities.iter().filter(|a| a.tainted);
    x509.filter_map(|a| a.key_id())
        .chain(jwt.map(|a| a.key_id.clone()))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_step_without_an_id_or_with_an_unknown_one_is_refused() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        for step in [Step::Activate(""), Step::Taint(""), Step::Revoke("")] {
            bench.refused(&ca, kind, step, "no authority ID provided").await;
        }
        for step in [Step::Activate("nope"), Step::Taint("nope")] {
            bench.refused(&ca, kind, step, "unexpected authority ID").await;
        }
        bench
            .refused(&ca, kind, Step::Revoke("nope"), "invalid authority ID")
            .await;
    }
    assert!(bench.actions_of_the_operator().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_signs_is_neither_activated_nor_tainted_nor_revoked() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        let active = in_state(&ca, kind, SlotState::Active).unwrap().id;
        let text = "only Prepared authorities can be activated";
        bench.refused(&ca, kind, Step::Activate(&active), text).await;
        let text = "unable to taint current local authority";
        bench.refused(&ca, kind, Step::Taint(&active), text).await;
        let text = "invalid authority ID: unable to use current authority";
        bench.refused(&ca, kind, Step::Revoke(&active), text).await;
        assert_eq!(in_state(&ca, kind, SlotState::Active).unwrap().id, active);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_prepared_is_neither_tainted_nor_revoked() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        let prepared = bench.step(&ca, kind, Step::Prepare).await.unwrap().id;
        let text = "only Old local authorities can be tainted";
        bench.refused(&ca, kind, Step::Taint(&prepared), text).await;
        let text = "invalid authority ID: unable to use a prepared";
        bench.refused(&ca, kind, Step::Revoke(&prepared), text).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_old_is_not_activated_and_not_revoked_before_it_is_tainted() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        let (old, _) = bench.replaced(&ca, kind).await;
        let text = "only Prepared authorities can be activated";
        bench.refused(&ca, kind, Step::Activate(&old), text).await;
        let text = "it is not possible to revoke an untainted";
        bench.refused(&ca, kind, Step::Revoke(&old), text).await;
        bench.step(&ca, kind, Step::Taint(&old)).await.unwrap();
        let text = &format!("authority `{old}` is already tainted");
        bench.refused(&ca, kind, Step::Taint(&old), text).await;
        bench.step(&ca, kind, Step::Revoke(&old)).await.unwrap();
        bench
            .refused(&ca, kind, Step::Revoke(&old), "invalid authority ID")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_shows_in_the_bundle_and_is_recorded_with_who_asked() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        let before = ca.bundle();
        let (old, new) = bench.replaced(&ca, kind).await;
        bench.agrees(&ca).await;
        assert!(tainted(&ca.bundle()).is_empty());
        bench.step(&ca, kind, Step::Taint(&old)).await.unwrap();
        bench.agrees(&ca).await;
        assert_eq!(tainted(&ca.bundle()), std::slice::from_ref(&old));
        assert!(in_state(&ca, kind, SlotState::Old).unwrap().tainted);
        let revoked = bench.step(&ca, kind, Step::Revoke(&old)).await.unwrap();
        assert_eq!(revoked.id, old);
        bench.agrees(&ca).await;
        assert!(tainted(&ca.bundle()).is_empty());
        assert_eq!(ca.bundle().x509_authorities.len(), before.x509_authorities.len());
        assert_eq!(ca.bundle().jwt_authorities.len(), before.jwt_authorities.len());
        assert_eq!(ca.bundle().sequence, before.sequence + 3);
        let actions = bench.actions_of_the_operator().await;
        let last = actions.get(actions.len() - 4..).unwrap();
        assert_eq!(
            last,
            [
                format!("authority.prepare {new}"),
                format!("authority.activate {new}"),
                format!("authority.taint {old}"),
                format!("authority.revoke {old}"),
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_verifies_until_its_authority_is_revoked() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let now = bench.clock.now();
    let svid = x509_svid(&ca);
    let (old, new) = bench.replaced(&ca, Kind::X509).await;
    assert_eq!(x509_issuer(&ca), new);
    bench.step(&ca, Kind::X509, Step::Taint(&old)).await.unwrap();
    assert!(x509::verify_svid(&svid, &ca.bundle(), now).is_ok());
    bench.step(&ca, Kind::X509, Step::Revoke(&old)).await.unwrap();
    assert!(x509::verify_svid(&svid, &ca.bundle(), now).is_err());
    assert!(x509::verify_svid(&x509_svid(&ca), &ca.bundle(), now).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_leaked_prepared_key_is_replaced_and_can_then_be_tainted() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for kind in BOTH {
        let leaked = bench.step(&ca, kind, Step::Prepare).await.unwrap().id;
        let next = bench.step(&ca, kind, Step::Prepare).await.unwrap().id;
        bench.agrees(&ca).await;
        assert_eq!(in_state(&ca, kind, SlotState::Prepared).unwrap().id, next);
        bench.step(&ca, kind, Step::Taint(&leaked)).await.unwrap();
        bench.step(&ca, kind, Step::Revoke(&leaked)).await.unwrap();
        bench.step(&ca, kind, Step::Activate(&next)).await.unwrap();
        bench.agrees(&ca).await;
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_several_old_authorities_and_not_without_end() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let mut old = Vec::new();
    let full = loop {
        match bench.step(&ca, Kind::X509, Step::Prepare).await {
            Ok(prepared) => {
                old.push(in_state(&ca, Kind::X509, SlotState::Active).unwrap().id);
                let step = Step::Activate(&prepared.id);
                bench.step(&ca, Kind::X509, step).await.unwrap();
            }
            Err(full) => break full,
        }
    };
    assert!(matches!(full, StepError::Full(7)), "{full}");
    bench.agrees(&ca).await;
    // The schedule is not held up by it: the oldest one makes room.
    bench.clock.jump(Span::hours(13));
    ca.rotate().await.unwrap();
    assert!(in_state(&ca, Kind::X509, SlotState::Prepared).is_some());
    bench.agrees(&ca).await;
    // Each of them can be tainted, not the latest alone.
    let third = old[3].clone();
    bench.step(&ca, Kind::X509, Step::Taint(&third)).await.unwrap();
    bench.step(&ca, Kind::X509, Step::Revoke(&third)).await.unwrap();
    bench.agrees(&ca).await;
}

#[tokio::test(start_paused = true)]
async fn the_schedule_counts_what_was_done_by_hand() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let start = bench.clock.now();
    let prepared = bench.step(&ca, Kind::X509, Step::Prepare).await.unwrap();
    let others = in_state(&ca, Kind::Jwt, SlotState::Active).unwrap();
    bench.clock.jump(Span::hours(13));
    ca.rotate().await.unwrap();
    // What was prepared by hand is not prepared again when that is due, and what was not is.
    assert_eq!(
        in_state(&ca, Kind::X509, SlotState::Prepared),
        Some(prepared.clone())
    );
    assert!(in_state(&ca, Kind::Jwt, SlotState::Prepared).is_some());
    assert_eq!(in_state(&ca, Kind::Jwt, SlotState::Active), Some(others));
    let step = Step::Activate(&prepared.id);
    bench.step(&ca, Kind::X509, step).await.unwrap();
    // The next one is due by the life of the new key: it was made at the start.
    let next = ca.rotate().await.unwrap();
    assert!(next > bench.clock.now() && next <= start + Span::hours(24));
    assert_eq!(
        in_state(&ca, Kind::X509, SlotState::Active).unwrap().id,
        prepared.id
    );
    bench.agrees(&ca).await;
}

#[tokio::test(start_paused = true)]
async fn the_running_schedule_is_woken_by_a_step() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let run = ca.clone().run();
    let steps = async {
        bench.clock.sleep_until(bench.clock.now() + Span::hours(1)).await;
        bench.replaced(&ca, Kind::X509).await;
        // Twelve hours after the step the next key is due, and then the schedule makes it.
        let due = bench.clock.now() + Span::hours(12) + Span::minutes(1);
        bench.clock.sleep_until(due).await;
        assert!(in_state(&ca, Kind::X509, SlotState::Prepared).is_some());
    };
    tokio::select! {
        ended = run => ended.unwrap(),
        () = steps => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_between_two_steps_goes_on_where_it_was() {
    let bench = Bench::new();
    for kind in BOTH {
        let ca = bench.start().await;
        let before = in_state(&ca, kind, SlotState::Active).unwrap().id;
        let prepared = bench.step(&ca, kind, Step::Prepare).await.unwrap().id;
        let ca = bench.start().await;
        bench.agrees(&ca).await;
        bench.step(&ca, kind, Step::Activate(&prepared)).await.unwrap();
        let ca = bench.start().await;
        bench.agrees(&ca).await;
        assert_eq!(in_state(&ca, kind, SlotState::Active).unwrap().id, prepared);
        bench.step(&ca, kind, Step::Taint(&before)).await.unwrap();
        let ca = bench.start().await;
        assert_eq!(tainted(&ca.bundle()), std::slice::from_ref(&before));
        bench.step(&ca, kind, Step::Revoke(&before)).await.unwrap();
        let ca = bench.start().await;
        bench.agrees(&ca).await;
        assert!(ca.authorities(kind).iter().all(|a| a.id != before));
    }
}

#[tokio::test(start_paused = true)]
async fn old_authorities_leave_the_journal_when_they_end() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let (old, _) = bench.replaced(&ca, Kind::X509).await;
    bench.clock.jump(Span::hours(23));
    ca.rotate().await.unwrap();
    assert!(ca.authorities(Kind::X509).iter().any(|a| a.id == old));
    bench.clock.jump(Span::hours(2));
    ca.rotate().await.unwrap();
    assert!(ca.authorities(Kind::X509).iter().all(|a| a.id != old));
    assert!(
        ca.bundle()
            .x509_authorities
            .iter()
            .any(|a| a.key_id().as_deref() == Some(&old)),
        "verifiers whose clocks are behind still need it"
    );
    bench.agrees(&ca).await;
}

/// Someone else (an older copy that was put back, another server) has tainted the key that signs.
#[tokio::test(start_paused = true)]
async fn a_tainted_key_signs_nothing_and_is_replaced() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let mut bundle = Bundle::clone(&ca.bundle());
    bundle.x509_authorities[0].tainted = true;
    bundle.jwt_authorities[0].tainted = true;
    let put = Commit::default().put(Record::Bundle(bundle.clone()));
    bench.store.commit(put).await.unwrap();
    // Any step makes the manager look.
    let prepared = bench.step(&ca, Kind::X509, Step::Prepare).await.unwrap();
    let refused = ca.issue_jwt(&jwt_request()).unwrap_err();
    assert!(matches!(refused, CaError::Tainted { .. }), "{refused}");
    assert!(refused.to_string().contains("activate another"), "{refused}");
    ca.rotate().await.unwrap();
    assert_eq!(x509_issuer(&ca), prepared.id);
    ca.issue_jwt(&jwt_request()).unwrap();
    bench.agrees(&ca).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_key_is_remembered_until_its_authority_is_revoked() {
    let mut bench = Bench::new();
    bench.start().await;
    bench.keys = Arc::new(MemoryKeys::new());
    let ca = bench.start().await;
    for kind in BOTH {
        let lost: Vec<_> = ca.authorities(kind).into_iter().filter(|a| a.lost).collect();
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0].state, SlotState::Old);
    }
    let records = bench.store.audit_records(1, 1000).await.unwrap();
    let told = |record: &&vouchsafe_audit::Record| record.draft.action == "authority.lost";
    assert_eq!(records.iter().filter(told).count(), 2);
    let ca = bench.start().await;
    for kind in BOTH {
        let lost = ca.authorities(kind).into_iter().find(|a| a.lost).unwrap().id;
        bench.step(&ca, kind, Step::Taint(&lost)).await.unwrap();
        bench.step(&ca, kind, Step::Revoke(&lost)).await.unwrap();
        assert!(ca.authorities(kind).iter().all(|a| !a.lost));
    }
    bench.agrees(&ca).await;
}

/// Keys that cannot be removed: as after a crash between the commit and the removal.
#[derive(Debug)]
struct Sticky(Arc<MemoryKeys>);

#[async_trait]
impl KeyManager for Sticky {
    async fn generate(&self, id: &str, algorithm: KeyAlgorithm) -> Result<Arc<dyn Signer>, KeyError> {
        self.0.generate(id, algorithm).await
    }

    async fn get(&self, id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        self.0.get(id).await
    }

    async fn export(&self, id: &str) -> Result<Option<Secret<Vec<u8>>>, KeyError> {
        self.0.export(id).await
    }

    async fn list(&self) -> Result<Vec<String>, KeyError> {
        self.0.list().await
    }

    async fn remove(&self, id: &str) -> Result<(), KeyError> {
        Err(KeyError::BadId(id.to_owned()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_that_could_not_be_deleted_is_deleted_at_the_next_start() {
    let mut bench = Bench::new();
    let keys = Arc::new(MemoryKeys::new());
    bench.keys = Arc::new(Sticky(keys.clone()));
    let ca = bench.start().await;
    let (old, _) = bench.replaced(&ca, Kind::X509).await;
    bench.step(&ca, Kind::X509, Step::Taint(&old)).await.unwrap();
    bench.step(&ca, Kind::X509, Step::Revoke(&old)).await.unwrap();
    assert_eq!(bench.keys.list().await.unwrap().len(), 3);
    bench.keys = keys;
    let ca = bench.start().await;
    bench.agrees(&ca).await;
}

/// Who was away knows no other than the one before; but nobody shall rely on one that is tainted.
#[tokio::test(start_paused = true)]
async fn the_servers_own_svid_hangs_on_what_agents_know_unless_that_is_tainted() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let issuer = || {
        let away = std::time::Duration::from_secs(3600);
        let svid = ca.issue_x509_for_server(&x509_request(), away).unwrap();
        x509::parse_leaf(&svid.chain[0])
            .unwrap()
            .authority_key_id
            .unwrap()
    };
    bench.clock.jump(Span::minutes(20));
    let (first, ahead) = bench.replaced(&ca, Kind::X509).await;
    assert_eq!((issuer(), x509_issuer(&ca)), (first.clone(), ahead.clone()));
    bench.step(&ca, Kind::X509, Step::Taint(&first)).await.unwrap();
    assert_eq!(issuer(), ahead);
    // The one that agents know has not begun: another one signs for now, though not for longer than it must.
    bench.clock.jump(-Span::minutes(20));
    ca.rotate().await.unwrap();
    assert_eq!(issuer(), x509_issuer(&ca));
    bench.clock.jump(Span::minutes(21));
    assert_ne!(x509_issuer(&ca), ahead);
    assert_eq!(issuer(), ahead);
}
