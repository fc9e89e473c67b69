//! The issuer against an authority that answers as told.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::cache::EntryIndex;
use crate::cache::slots::Held;
use crate::testing::{TestAuthority, at, authority, entry};
use crate::upstream::IssuedJwt;

/// Longest wait of a test, in paused time: SVIDs here live an hour.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// What the authority does with the next call.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Good,
    Away,
    /// Refuses calls with more requests than this.
    Small(usize),
    OtherId,
    OtherKey,
    Short,
}

struct Fake {
    ca: TestAuthority,
    clock: Clock,
    life: time::Duration,
    mood: Mutex<Mood>,
    calls: Mutex<Vec<usize>>,
}

#[async_trait]
impl Authority for Fake {
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        self.calls.lock().unwrap().push(requests.len());
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Away => return Err(UpstreamError::Unavailable("away".to_owned())),
            Mood::Small(most) if requests.len() > most => {
                return Err(UpstreamError::Unavailable("too large".to_owned()));
            }
            Mood::Short => return Ok(Vec::new()),
            _ => {}
        }
        let now = self.clock.now();
        let other = LocalKey::generate("other", KeyAlgorithm::EcP256).unwrap();
        let other = x509::csr::create(&other, None, &[]).unwrap();
        Ok(requests
            .iter()
            .map(|request| {
                let csr = if mood == Mood::OtherKey {
                    &other
                } else {
                    &request.csr
                };
                let id = match mood {
                    Mood::OtherId => "spiffe://example.org/other".to_owned(),
                    _ => format!("spiffe://example.org/{}", request.entry),
                };
                Ok(self.ca.issue(csr, &id, now, now + self.life))
            })
            .collect())
    }

    async fn issue_jwt(&self, _: &EntryId, _: &[String]) -> Result<IssuedJwt, UpstreamError> {
        Err(UpstreamError::Unavailable("no JWT here".to_owned()))
    }
}

struct Running {
    fake: Arc<Fake>,
    cache: X509Cache,
    clock: Clock,
    entries: Vec<Arc<Entry>>,
    _group: vouchsafe_runtime::TaskGroup,
}

fn running(count: usize, mood: Mood) -> Running {
    let clock = Clock::manual(at(0));
    let fake = Arc::new(Fake {
        ca: authority(),
        clock: clock.clone(),
        life: time::Duration::hours(1),
        mood: Mutex::new(mood),
        calls: Mutex::default(),
    });
    let cache = X509Cache::new(10_000);
    let entries: Vec<_> = (0..count)
        .map(|n| entry(&format!("e{n}"), &["unix:uid:1"]))
        .collect();
    cache.follow(&EntryIndex::new(entries.iter().cloned()));
    let (group, _) = vouchsafe_runtime::TaskGroup::new();
    for lane in [Lane::Urgent, Lane::Ahead] {
        group.passing("issuer", issue(cache.clone(), lane, fake.clone(), clock.clone()));
    }
    Running {
        fake,
        cache,
        clock,
        entries,
        _group: group,
    }
}

impl Running {
    /// What is held once `enough` says so.
    async fn until(&self, enough: impl Fn(&[Held]) -> bool) -> Vec<Held> {
        let mut changes = self.cache.changes();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let held = self.cache.look(&self.entries, self.clock.now());
            if enough(&held) {
                return held;
            }
            let change = tokio::time::timeout_at(deadline, changes.changed()).await;
            assert!(change.is_ok(), "it never came to that: {held:?}");
        }
    }

    async fn all_ready(&self) -> Vec<Arc<X509Svid>> {
        let held = self
            .until(|held| held.iter().all(|one| matches!(one, Held::Ready(_))))
            .await;
        held.into_iter()
            .filter_map(|one| match one {
                Held::Ready(svid) => Some(svid),
                _ => None,
            })
            .collect()
    }

    async fn failure(&self) -> String {
        let held = self.until(|held| matches!(held[0], Held::Failed(_))).await;
        match &held[0] {
            Held::Failed(reason) => reason.clone(),
            _ => unreachable!("waited for"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_svid_of_another_identity_key_or_number_is_not_taken() {
    assert!(
        running(1, Mood::OtherId)
            .failure()
            .await
            .contains("spiffe://example.org/other")
    );
    assert!(running(1, Mood::OtherKey).failure().await.contains("another key"));
    assert!(running(1, Mood::Short).failure().await.contains("0 answers"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_too_large_is_halved_until_it_goes_through() {
    let running = running(600, Mood::Small(100));
    running.all_ready().await;
    let calls = running.fake.calls.lock().unwrap().clone();
    assert_eq!(calls[0], MAX_BATCH);
    assert!(calls.contains(&62), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_is_asked_again() {
    let running = running(1, Mood::Away);
    assert!(running.failure().await.contains("away"));
    *running.fake.mood.lock().unwrap() = Mood::Good;
    running.all_ready().await;
}

#[tokio::test(start_paused = true)]
async fn each_rotation_has_a_new_key_and_comes_before_the_end() {
    let running = running(1, Mood::Good);
    let mut last = running.all_ready().await.remove(0);
    for _ in 0..5 {
        let before = last.serial.clone();
        running
            .until(|held| matches!(&held[0], Held::Ready(svid) if svid.serial != before))
            .await;
        let next = running.all_ready().await.remove(0);
        assert!(running.clock.now() < last.lifetime.not_after);
        assert!(next.key.expose() != last.key.expose());
        last = next;
    }
}
