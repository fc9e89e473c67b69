//! What is replaced and forgotten when an authority is tainted or taken back, and what is not.

use std::collections::HashMap;
use std::sync::Mutex;

use async_trait::async_trait;
use time::OffsetDateTime;
use vouchsafe_identity::{JwtAuthority, TrustDomain};
use vouchsafe_runtime::TaskGroup;

use super::*;
use crate::cache::slots::{Held, Lane};
use crate::cache::{EntryIndex, issuer};
use crate::entry::Entry;
use crate::knowledge::{News, Whole};
use crate::testing::{TestAuthority, at, authority, authority_numbered, entry};
use crate::upstream::{Authority, IssuedJwt, UpstreamError, X509Request};

fn domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

/// A bundle of these authorities, some of them tainted.
fn bundle(of: &[(&TestAuthority, bool)], keys: &[(&str, bool)]) -> Bundle {
    let mut bundle = Bundle::empty(domain());
    for (authority, tainted) in of {
        let mut one = authority.bundle().x509_authorities;
        one[0].tainted = *tainted;
        bundle.x509_authorities.append(&mut one);
    }
    for (key_id, tainted) in keys {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: (*key_id).to_owned(),
            public_key: vec![1],
            expires_at: None,
            tainted: *tainted,
        });
    }
    bundle
}

fn own(by: &TestAuthority) -> Arc<OwnSvid> {
    by.own_svid("spiffe://example.org/spire/agent/x")
}

#[test]
fn what_is_trusted_is_left_alone() {
    let (one, two) = (authority(), authority());
    let before = bundle(&[(&one, false)], &[("k1", false)]);
    let now = bundle(&[(&one, false), (&two, false)], &[("k1", false), ("k2", false)]);
    let distrust = Distrust::between(Some(&before), &now);
    assert!(distrust.is_empty());
    assert!(!distrust.covers_chain(&one.chain("spiffe://example.org/a").concat()));
    assert!(!distrust.covers_key(Some("k1")) && !distrust.covers_key(None));
}

#[test]
fn signatures_decide_and_not_names() {
    let (tainted, other) = (authority_numbered(&[7; 16]), authority_numbered(&[7; 16]));
    let now = bundle(
        &[(&tainted, true), (&other, false)],
        &[("k1", true), ("k2", false)],
    );
    let distrust = Distrust::between(None, &now);
    assert!(distrust.covers_chain(&tainted.chain("spiffe://example.org/a").concat()));
    assert!(!distrust.covers_chain(&other.chain("spiffe://example.org/a").concat()));
    assert!(!distrust.covers_chain(b"what is no certificate"));
    assert!(distrust.covers_key(Some("k1")) && !distrust.covers_key(Some("k2")));
    assert!(distrust.covers_key(None), "it could be of any key");
}

#[test]
fn what_was_taken_back_while_nobody_looked_is_distrusted_too() {
    let (gone, stays) = (authority(), authority());
    let before = bundle(
        &[(&gone, false), (&stays, false)],
        &[("k1", false), ("k2", false)],
    );
    let now = bundle(&[(&stays, false)], &[("k2", false)]);
    let distrust = Distrust::between(Some(&before), &now);
    assert!(distrust.covers_chain(&gone.chain("spiffe://example.org/a").concat()));
    assert!(!distrust.covers_chain(&stays.chain("spiffe://example.org/a").concat()));
    assert!(distrust.covers_key(Some("k1")) && !distrust.covers_key(Some("k2")));
}

#[test]
fn few_are_replaced_at_once_and_many_within_seconds() {
    assert_eq!(spread(1), Duration::ZERO);
    assert_eq!(spread(FEW), Duration::ZERO);
    assert!(spread(200) < Duration::from_secs(1));
    assert_eq!(spread(1_000_000), LONGEST_SPREAD);
    assert_eq!(place_in(LONGEST_SPREAD, -1.0), Duration::ZERO);
    assert_eq!(place_in(LONGEST_SPREAD, 1.0), LONGEST_SPREAD);
    assert_eq!(place_in(STEP / 4, 1.0), Duration::ZERO);
}

/// Signs with the last of its authorities.
struct Fake {
    authorities: Mutex<Vec<Arc<TestAuthority>>>,
    calls: Mutex<Vec<OffsetDateTime>>,
    clock: Clock,
}

impl Fake {
    fn signs_with(&self, authority: &Arc<TestAuthority>) {
        self.authorities.lock().unwrap().push(Arc::clone(authority));
    }
}

#[async_trait]
impl Authority for Fake {
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        let now = self.clock.now();
        self.calls.lock().unwrap().push(now);
        let by = Arc::clone(self.authorities.lock().unwrap().last().unwrap());
        Ok(requests
            .iter()
            .map(|request| {
                let id = format!("spiffe://example.org/{}", request.entry);
                Ok(by.issue(&request.csr, &id, now, now + time::Duration::hours(1)))
            })
            .collect())
    }

    async fn issue_jwt(&self, _: &EntryId, _: &[String]) -> Result<IssuedJwt, UpstreamError> {
        Err(UpstreamError::Unavailable("no JWT here".to_owned()))
    }
}

struct Running {
    fake: Arc<Fake>,
    knowledge: KnowledgeBase,
    x509: X509Cache,
    own: watch::Sender<Option<Arc<OwnSvid>>>,
    entries: Vec<Arc<Entry>>,
    clock: Clock,
    group: TaskGroup,
}

impl Running {
    /// An agent that holds an SVID for each entry, all signed by `first`.
    async fn start(count: usize, first: &Arc<TestAuthority>) -> Self {
        let running = Self::start_unwatched(count, first).await;
        running.knows(bundle(&[(first, false)], &[]));
        running.watch();
        running
    }

    /// The same, where nobody has looked at a bundle yet.
    async fn start_unwatched(count: usize, first: &Arc<TestAuthority>) -> Self {
        let clock = Clock::manual(at(0));
        let fake = Arc::new(Fake {
            authorities: Mutex::new(vec![Arc::clone(first)]),
            calls: Mutex::default(),
            clock: clock.clone(),
        });
        let entries: Vec<_> = (0..count)
            .map(|n| entry(&format!("e{n}"), &["unix:uid:1"]))
            .collect();
        let x509 = X509Cache::new(10_000);
        x509.follow(&EntryIndex::new(entries.iter().cloned()));
        let knowledge = KnowledgeBase::new(domain(), None);
        let own_svid = watch::Sender::new(Some(own(first)));
        let (group, _) = TaskGroup::new();
        for lane in [Lane::Urgent, Lane::Ahead] {
            let issuing = issuer::issue(x509.clone(), lane, fake.clone(), clock.clone());
            group.passing("issuer", issuing);
        }
        let running = Self {
            fake,
            knowledge,
            x509,
            own: own_svid,
            entries,
            clock,
            group,
        };
        running.wait(|held| held.values().all(Option::is_some)).await;
        running
    }

    fn watch(&self) {
        let (knowledge, x509) = (self.knowledge.clone(), self.x509.clone());
        let jwt = Arc::new(JwtCache::new(10));
        let watching = super::watch(knowledge, x509, jwt, self.own.subscribe(), self.clock.clone());
        self.group.passing("distrust", watching);
    }

    fn knows(&self, bundle: Bundle) {
        self.knowledge.learn(News::Whole(Whole {
            entries: self.entries.clone(),
            bundles: vec![bundle],
            resume: None,
            ..Whole::default()
        }));
    }

    fn held(&self) -> HashMap<EntryId, Option<Arc<X509Svid>>> {
        let looked = self.x509.look(&self.entries, self.clock.now());
        let ids = self.entries.iter().map(|entry| entry.id.clone());
        ids.zip(looked.into_iter().map(|held| match held {
            Held::Ready(svid) => Some(svid),
            _ => None,
        }))
        .collect()
    }

    fn signed_by(&self, authority: &TestAuthority) -> usize {
        let by = &authority.bundle().x509_authorities[0];
        let held = self.held();
        held.values()
            .flatten()
            .filter(|svid| by.signed_any(&svid.certificates))
            .count()
    }

    /// Lets the paused clock run.
    async fn let_pass(&self, span: Duration) {
        self.clock.sleep_until(self.clock.now() + span).await;
    }

    async fn wait(&self, until: impl Fn(&HashMap<EntryId, Option<Arc<X509Svid>>>) -> bool) {
        let mut changes = self.x509.changes();
        let reached = async {
            while !until(&self.held()) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(600), reached)
            .await
            .unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_hangs_on_a_tainted_authority_is_issued_anew_within_seconds() {
    for count in [3, 700] {
        let (first, second) = (Arc::new(authority()), Arc::new(authority()));
        let agent = Running::start(count, &first).await;
        assert_eq!(agent.signed_by(&first), count);
        agent.fake.signs_with(&second);
        agent.own.send_replace(Some(own(&second)));
        let told = agent.clock.now();
        let before = agent.held();
        agent.knows(bundle(&[(&first, true), (&second, false)], &[]));
        let replaced = |held: &HashMap<EntryId, Option<Arc<X509Svid>>>| {
            held.iter().all(|(id, svid)| {
                let old = before[id].as_ref().unwrap();
                svid.as_ref().is_some_and(|new| new.serial != old.serial)
            })
        };
        agent.wait(replaced).await;
        assert_eq!(agent.signed_by(&second), count);
        let took = agent.clock.now() - told;
        assert!(took <= time::Duration::seconds(6), "{count}: {took}");
        if count < FEW {
            assert!(took <= time::Duration::milliseconds(100), "{took}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_another_one_follows_is_no_reason_to_issue_anew() {
    let (first, second) = (Arc::new(authority()), Arc::new(authority()));
    let agent = Running::start(3, &first).await;
    agent.fake.signs_with(&second);
    agent.knows(bundle(&[(&first, false), (&second, false)], &[]));
    agent.let_pass(Duration::from_secs(60)).await;
    assert_eq!(agent.signed_by(&first), 3);
}

#[tokio::test(start_paused = true)]
async fn the_agents_own_svid_comes_first_and_is_not_waited_for_without_end() {
    let (first, second) = (Arc::new(authority()), Arc::new(authority()));
    let agent = Running::start(3, &first).await;
    agent.fake.signs_with(&second);
    let tainted = bundle(&[(&first, true), (&second, false)], &[]);
    agent.knows(tainted);
    agent.let_pass(OWN_FIRST / 2).await;
    assert_eq!(
        agent.signed_by(&first),
        3,
        "the agent's own SVID is not there yet"
    );
    agent.let_pass(OWN_FIRST).await;
    agent.wait(|_| agent.signed_by(&second) == 3).await;
}

/// The server says that an authority is tainted, and signs with it all the same.
#[tokio::test(start_paused = true)]
async fn a_server_that_signs_with_a_tainted_authority_is_not_asked_in_a_tight_loop() {
    let first = Arc::new(authority());
    let agent = Running::start(1, &first).await;
    agent.own.send_replace(None);
    agent.knows(bundle(&[(&first, true)], &[]));
    let before = agent.fake.calls.lock().unwrap().len();
    agent.let_pass(Duration::from_secs(120)).await;
    assert_eq!(agent.signed_by(&first), 1, "what there is serves");
    let calls = agent.fake.calls.lock().unwrap().len() - before;
    assert!((2..=12).contains(&calls), "{calls} calls in two minutes");
    let second = Arc::new(authority());
    agent.fake.signs_with(&second);
    agent.wait(|_| agent.signed_by(&second) == 1).await;
}

/// As after a start: what was sealed is older than the bundle.
#[tokio::test(start_paused = true)]
async fn what_hangs_on_an_authority_that_was_taken_back_before_the_start_is_issued_anew() {
    let (gone, stays) = (Arc::new(authority()), Arc::new(authority()));
    let agent = Running::start_unwatched(3, &gone).await;
    agent.fake.signs_with(&stays);
    agent.own.send_replace(Some(own(&stays)));
    agent.knows(bundle(&[(&stays, false)], &[]));
    agent.watch();
    agent.wait(|_| agent.signed_by(&stays) == 3).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sealed_and_still_counts_is_left_alone() {
    let (first, second) = (Arc::new(authority()), Arc::new(authority()));
    let agent = Running::start_unwatched(3, &first).await;
    agent.fake.signs_with(&second);
    agent.knows(bundle(&[(&first, false), (&second, false)], &[]));
    agent.watch();
    agent.let_pass(Duration::from_secs(60)).await;
    assert_eq!(agent.signed_by(&first), 3);
}
