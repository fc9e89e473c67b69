//! The authority as its users see it: what it issues verifies, across restarts, lost keys and months of rotation.
#![expect(clippy::unwrap_used, reason = "a test says by a panic what went wrong")]

use std::sync::Arc;
use std::time::Duration;

use time::{Duration as Span, OffsetDateTime};
use vouchsafe_ca::{CaConfig, CaError, CaManager, JwtRequest, X509Request};
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::{Bundle, KeyAlgorithm, Signer, SpiffeId, TrustDomain, jwt, x509};
use vouchsafe_runtime::keys::{DiskKeys, MemoryKeys};
use vouchsafe_runtime::{Clock, KeyManager};
use vouchsafe_store::{Commit, MemoryStore, Record, Revision, SharedStore};

struct Bench {
    store: SharedStore,
    keys: Arc<dyn KeyManager>,
    clock: Clock,
    config: CaConfig,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new("server-1")),
            keys: Arc::new(MemoryKeys::new()),
            clock: Clock::manual(OffsetDateTime::UNIX_EPOCH + Span::days(20_000)),
            config: CaConfig::new(TrustDomain::new("example.org").unwrap()),
        }
    }

    async fn start(&self) -> Arc<CaManager> {
        CaManager::start(
            self.config.clone(),
            self.store.clone(),
            self.keys.clone(),
            self.clock.clone(),
        )
        .await
        .unwrap()
    }
}

fn workload() -> SpiffeId {
    SpiffeId::new("spiffe://example.org/agent/researcher").unwrap()
}

fn x509_request(ttl: Option<Duration>) -> X509Request {
    let key = LocalKey::generate("workload", KeyAlgorithm::EcP256).unwrap();
    X509Request {
        spiffe_id: workload(),
        public_key: CheckedKey::new(key.public_key_spki()).unwrap(),
        dns_names: Vec::new(),
        ttl,
        not_after: None,
    }
}

fn jwt_request() -> JwtRequest {
    JwtRequest {
        spiffe_id: workload(),
        audience: vec!["db".to_owned()],
        ttl: None,
        include_jti: false,
        not_after: None,
        run: None,
    }
}

fn x509_verifies(ca: &CaManager, bundle: &Bundle, now: OffsetDateTime) -> bool {
    let svid = ca.issue_x509(&x509_request(None)).unwrap();
    x509::verify_svid(&svid.chain, bundle, now).is_ok_and(|leaf| leaf.spiffe_id == workload())
}

fn jwt_verifies(ca: &CaManager, bundle: &Bundle, now: OffsetDateTime) -> bool {
    let token = ca.issue_jwt(&jwt_request()).unwrap().token;
    jwt::verify_svid(
        &token,
        "db",
        |td| (*td == bundle.trust_domain).then_some(bundle),
        now,
    )
    .is_ok()
}

#[tokio::test(start_paused = true)]
async fn the_first_start_publishes_what_verifies_its_svids() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let bundle = ca.bundle();
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (1, 1)
    );
    assert!(x509_verifies(&ca, &bundle, bench.clock.now()));
    assert!(jwt_verifies(&ca, &bundle, bench.clock.now()));
    let records = bench.store.audit_records(1, 10).await.unwrap();
    let actions: Vec<_> = records
        .iter()
        .map(|record| record.draft.action.to_string())
        .collect();
    assert_eq!(actions.iter().filter(|a| **a == "authority.prepare").count(), 2);
    assert_eq!(actions.iter().filter(|a| **a == "authority.activate").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_jwt_without_an_audience_is_refused() {
    let ca = Bench::new().start().await;
    for audience in [vec![], vec![String::new()]] {
        let request = JwtRequest {
            audience,
            ..jwt_request()
        };
        assert!(matches!(ca.issue_jwt(&request), Err(CaError::Request(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn lives_are_cut_at_the_end_of_the_issuer() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let long = Duration::from_secs(100 * 24 * 3600);
    let end = bench.clock.now() + bench.config.ca_ttl;
    assert!(ca.issue_x509(&x509_request(Some(long))).unwrap().not_after <= end);
    let token = ca
        .issue_jwt(&JwtRequest {
            ttl: Some(long),
            ..jwt_request()
        })
        .unwrap();
    assert!(token.expires_at <= end);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_authorities() {
    let bench = Bench::new();
    let before = bench.start().await.bundle();
    let ca = bench.start().await;
    assert_eq!(ca.bundle(), before);
    assert!(x509_verifies(&ca, &before, bench.clock.now()));
    assert!(jwt_verifies(&ca, &before, bench.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_lost_are_replaced_and_old_svids_still_verify() {
    let mut bench = Bench::new();
    let first = bench.start().await;
    let old = first.issue_x509(&x509_request(None)).unwrap();
    bench.keys = Arc::new(MemoryKeys::new());
    let ca = bench.start().await;
    let bundle = ca.bundle();
    assert_eq!(bundle.x509_authorities.len(), 2);
    assert!(x509_verifies(&ca, &bundle, bench.clock.now()));
    assert!(
        !x509_verifies(&ca, &first.bundle(), bench.clock.now()),
        "signed by the key that was lost"
    );
    assert!(x509::verify_svid(&old.chain, &bundle, bench.clock.now()).is_ok());
}

/// Another key under the same name is not the one that the bundle has.
#[tokio::test(start_paused = true)]
async fn keys_that_are_not_those_of_the_journal_are_replaced() {
    let bench = Bench::new();
    bench.start().await;
    for key_id in bench.keys.list().await.unwrap() {
        bench.keys.generate(&key_id, KeyAlgorithm::EcP256).await.unwrap();
    }
    let ca = bench.start().await;
    let bundle = ca.bundle();
    assert_eq!(
        (bundle.x509_authorities.len(), bundle.jwt_authorities.len()),
        (2, 2)
    );
    assert!(x509_verifies(&ca, &bundle, bench.clock.now()));
    assert!(jwt_verifies(&ca, &bundle, bench.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn a_bundle_without_our_authorities_is_not_handed_out() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let known = ca.bundle();
    let empty = Record::Bundle(Bundle::empty(known.trust_domain.clone()));
    bench.store.commit(Commit::default().put(empty)).await.unwrap();
    assert!(matches!(ca.rotate().await, Err(CaError::Slot { .. })));
    assert_eq!(ca.bundle(), known);
}

#[tokio::test(start_paused = true)]
async fn a_key_left_over_from_a_crash_is_forgotten_and_others_are_not() {
    let bench = Bench::new();
    bench
        .keys
        .generate("x509-ca-a-leftover", KeyAlgorithm::EcP256)
        .await
        .unwrap();
    bench
        .keys
        .generate("somebody-elses", KeyAlgorithm::EcP256)
        .await
        .unwrap();
    bench.start().await;
    let left = bench.keys.list().await.unwrap();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.contains(&"somebody-elses".to_owned()));
    assert!(!left.contains(&"x509-ca-a-leftover".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_successor_is_published_long_before_it_signs() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let early = ca.bundle();
    tokio::time::advance(Duration::from_secs(12 * 3600)).await;
    ca.rotate().await.unwrap();
    let prepared = ca.bundle();
    assert_eq!(
        (prepared.x509_authorities.len(), prepared.jwt_authorities.len()),
        (2, 2)
    );
    assert!(prepared.sequence > early.sequence);
    assert!(
        x509_verifies(&ca, &early, bench.clock.now()),
        "the old key signs until the new one is active"
    );
    tokio::time::advance(Duration::from_secs(8 * 3600)).await;
    ca.rotate().await.unwrap();
    assert!(
        !x509_verifies(&ca, &early, bench.clock.now()),
        "the new key signs now"
    );
    assert!(
        x509_verifies(&ca, &prepared, bench.clock.now()),
        "whoever fetched the bundle at half-life knows it"
    );
    assert!(jwt_verifies(&ca, &prepared, bench.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn for_a_month_each_svid_verifies_and_the_bundle_stays_small() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for _ in 0..(30 * 12) {
        let known = ca.bundle();
        tokio::time::advance(Duration::from_secs(2 * 3600)).await;
        ca.rotate().await.unwrap();
        // A verifier that is two hours behind still verifies what is issued now.
        assert!(x509_verifies(&ca, &known, bench.clock.now()));
        assert!(jwt_verifies(&ca, &known, bench.clock.now()));
        assert!(ca.bundle().x509_authorities.len() <= 5);
        assert!(ca.bundle().jwt_authorities.len() <= 5);
    }
}

#[tokio::test(start_paused = true)]
async fn bundle_4_1_1_sequence_must_grow_with_each_change_of_the_keys() {
    let bench = Bench::new();
    let mut ca = bench.start().await;
    let mut changes = 0;
    for step in 0..60 {
        let before = ca.bundle();
        tokio::time::advance(Duration::from_secs(2 * 3600)).await;
        if step % 10 == 9 {
            ca = bench.start().await;
        }
        ca.rotate().await.unwrap();
        let after = ca.bundle();
        let same_keys = (&before.x509_authorities, &before.jwt_authorities)
            == (&after.x509_authorities, &after.jwt_authorities);
        assert!(after.sequence >= before.sequence, "it never goes back");
        assert!(same_keys || after.sequence > before.sequence, "step {step}");
        changes += u32::from(!same_keys);
    }
    assert!(changes > 5, "only {changes} changes seen");
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_slept_past_its_end_recovers_at_start() {
    let bench = Bench::new();
    let ca = bench.start().await;
    tokio::time::advance(Duration::from_secs(100 * 3600)).await;
    assert!(
        matches!(
            ca.issue_x509(&x509_request(None)),
            Err(CaError::NoActiveAuthority(_))
        ),
        "expired: fails closed"
    );
    assert!(matches!(
        ca.issue_jwt(&jwt_request()),
        Err(CaError::NoActiveAuthority(_))
    ));
    let ca = bench.start().await;
    assert!(x509_verifies(&ca, &ca.bundle(), bench.clock.now()));
}

#[tokio::test(start_paused = true)]
async fn watchers_hear_of_a_rotation_and_the_change_log_has_it() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let mut news = ca.bundle_changes();
    news.mark_unchanged();
    tokio::time::advance(Duration::from_secs(13 * 3600)).await;
    ca.rotate().await.unwrap();
    assert!(news.has_changed().unwrap());
    let changes = bench.store.changes(Revision(0), 1000).await.unwrap().unwrap();
    assert!(!changes.is_empty());
}

/// At several hours of a rotation the clock goes forward by a day and back again: what is issued verifies at once, for those
/// too who fetched the bundle just before where that can be; lives stay in their bounds; and the rotation goes on.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_by_a_day_and_back_stops_no_rotation() {
    let day = Span::days(1);
    for hour in (0..24).step_by(4) {
        let bench = Bench::new();
        let ca = bench.start().await;
        for _ in 0..hour {
            tokio::time::advance(Duration::from_secs(3600)).await;
            ca.rotate().await.unwrap();
        }
        let before = ca.bundle();
        let old = ca.issue_x509(&x509_request(None)).unwrap();
        for jump in [day, -day] {
            bench.clock.jump(jump);
            match ca.issue_x509(&x509_request(None)) {
                // Until the authority has noticed: nothing, or what is in its bounds.
                Err(CaError::NoActiveAuthority(_)) => {}
                Ok(_) => assert!(x509_verifies(&ca, &ca.bundle(), bench.clock.now()), "hour {hour}"),
                Err(other) => panic!("hour {hour}: {other}"),
            }
            ca.rotate().await.unwrap();
            let (now, bundle) = (bench.clock.now(), ca.bundle());
            assert!(x509_verifies(&ca, &bundle, now), "hour {hour}, {jump}");
            assert!(jwt_verifies(&ca, &bundle, now), "hour {hour}, {jump}");
            let svid = ca.issue_x509(&x509_request(None)).unwrap();
            assert!(svid.not_after > now && svid.not_after <= now + bench.config.x509_svid_ttl);
        }
        // Nobody is locked out: what was issued before still verifies, and so does the present for who knew the past.
        let now = bench.clock.now();
        assert!(
            x509::verify_svid(&old.chain, &ca.bundle(), now).is_ok(),
            "hour {hour}"
        );
        for authority in &before.x509_authorities {
            assert!(ca.bundle().x509_authorities.contains(authority), "hour {hour}");
        }
        for _ in 0..48 {
            let known = ca.bundle();
            tokio::time::advance(Duration::from_secs(3600)).await;
            ca.rotate().await.unwrap();
            assert!(x509_verifies(&ca, &known, bench.clock.now()), "hour {hour}");
            assert!(jwt_verifies(&ca, &known, bench.clock.now()), "hour {hour}");
        }
        assert!(ca.bundle().x509_authorities.len() <= 5, "hour {hour}");
    }
}

/// The loop itself notices both jumps, before any key is due.
#[tokio::test(start_paused = true)]
async fn the_schedule_notices_a_clock_that_was_put_back() {
    let bench = Bench::new();
    let ca = bench.start().await;
    let schedule = ca.clone().run();
    let jumps = async {
        for jump in [Span::days(1), -Span::days(1)] {
            bench.clock.jump(jump);
            bench
                .clock
                .sleep_until(bench.clock.now() + Span::minutes(1))
                .await;
            assert!(x509_verifies(&ca, &ca.bundle(), bench.clock.now()), "{jump}");
        }
    };
    tokio::select! {
        ended = schedule => panic!("{ended:?}"),
        () = jumps => {}
    }
}

/// Whether an agent that knows this bundle takes the server for the server.
fn server_verifies(ca: &CaManager, known: &Bundle, now: OffsetDateTime) -> bool {
    let svid = ca
        .issue_x509_for_server(&x509_request(None), HEARD_WITHIN)
        .unwrap();
    x509::verify_svid(&svid.chain, known, now).is_ok()
}

const HEARD_WITHIN: Duration = Duration::from_secs(3600);

/// The authority that signs was made while the clock was ahead, so that another one signs at once: no agent that is away at
/// this moment has heard of it.
#[tokio::test(start_paused = true)]
async fn an_agent_that_is_away_while_an_authority_is_replaced_at_once_still_knows_the_server() {
    let bench = Bench::new();
    let ca = bench.start().await;
    for ahead in [13, 8] {
        bench.clock.jump(Span::hours(ahead));
        ca.rotate().await.unwrap();
    }
    let known = ca.bundle();
    bench.clock.jump(-Span::hours(21));
    ca.rotate().await.unwrap();
    let now = bench.clock.now();
    assert!(!x509_verifies(&ca, &known, now), "it signs, and nobody knows it");
    assert!(server_verifies(&ca, &known, now));
    let ca = bench.start().await;
    assert!(server_verifies(&ca, &known, now), "after a restart");
    // Who was away for longer than its own SVID lasts must join again anyway, and old keys are to rest.
    let mut present = ca.bundle().as_ref().clone();
    present
        .x509_authorities
        .retain(|authority| !known.x509_authorities.contains(authority));
    bench.clock.jump(Span::minutes(59));
    assert!(!server_verifies(&ca, &present, bench.clock.now()));
    bench.clock.jump(Span::minutes(1));
    assert!(server_verifies(&ca, &present, bench.clock.now()));
}

/// Nor does it hang on one that has just been prepared, nor on one that all but ends, through days of rotation.
#[tokio::test(start_paused = true)]
async fn the_servers_own_svid_is_known_for_long_and_lasts_for_a_while() {
    // Away for longer than authorities live, and with SVIDs that outlive what is left of most.
    for (ttl, away) in [(1, 1), (4, 100), (16, 16), (30, 1)] {
        let bench = Bench::new();
        let ca = bench.start().await;
        let hour = |hours: u64| Duration::from_secs(hours * 3600);
        let mut known = ca.bundle();
        for minutes in (0..48 * 60).step_by(5) {
            ca.rotate().await.unwrap();
            let now = bench.clock.now();
            let svid = ca
                .issue_x509_for_server(&x509_request(Some(hour(ttl))), hour(away))
                .unwrap();
            let left = svid.not_after - now;
            assert!(
                svid.not_before < now && left >= Span::minutes(10),
                "{ttl} h, {minutes}: {left}"
            );
            // Whoever heard of the bundle four hours ago, when the next one had been prepared at the latest.
            assert!(
                x509::verify_svid(&svid.chain, &known, now).is_ok(),
                "{ttl} h, {minutes}"
            );
            if minutes % 240 == 0 {
                known = ca.bundle();
            }
            bench.clock.jump(Span::minutes(5));
        }
    }
}

/// A key that nothing needs, and that cannot be read, is no reason not to start.
#[tokio::test(start_paused = true)]
async fn an_old_key_that_is_damaged_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let bench = Bench {
        keys: Arc::new(DiskKeys::open(&keys).unwrap()),
        ..Bench::new()
    };
    let first = bench.start().await;
    let old: Vec<_> = std::fs::read_dir(&keys)
        .unwrap()
        .map(|key| key.unwrap().path())
        .collect();
    assert_eq!(old.len(), 2);
    for hours in [13, 8] {
        bench.clock.jump(Span::hours(hours));
        first.rotate().await.unwrap();
    }
    for key in old {
        std::fs::OpenOptions::new()
            .write(true)
            .open(key)
            .unwrap()
            .set_len(10)
            .unwrap();
    }
    let ca = bench.start().await;
    let (known, now) = (first.bundle(), bench.clock.now());
    assert!(x509_verifies(&ca, &known, now) && jwt_verifies(&ca, &known, now));
    assert!(server_verifies(&ca, &known, now));
}
