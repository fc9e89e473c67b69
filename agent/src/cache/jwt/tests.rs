//! Who gets a cached token, and who does not. The processes are real ones, since only they have identities.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use vouchsafe_attestors::{Process, Reach};
use vouchsafe_sys::PidFd;
use vouchsafe_workload_attestors::{Measurer, Reads};

use super::*;
use crate::testing::at;

/// A process that waits until it is dropped.
struct Waiting(Child);

impl Waiting {
    fn start() -> Self {
        let child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn pidfd(&self) -> PidFd {
        PidFd::open(i32::try_from(self.0.id()).unwrap()).unwrap()
    }

    async fn fingerprint(&self) -> Fingerprint {
        let pidfd = self.pidfd();
        let process = Process {
            pid: pidfd.pid().unwrap(),
            pidfd: Arc::new(pidfd),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            reach: Reach::Full,
            program: None,
        };
        let measurer = Measurer::new(Vec::new(), Arc::new(Reads::default()));
        // In the midst of an exec a process has no numbers of its own yet, and is refused.
        let ready = async {
            loop {
                match measurer.fingerprint(&process).await {
                    Ok(fingerprint) => break fingerprint,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.unwrap()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// How long a process may take to begin.
const DEADLINE: Duration = Duration::from_secs(20);

fn token(seconds: i64) -> Arc<JwtSvid> {
    Arc::new(JwtSvid {
        token: Secret::new("token".to_owned()),
        spiffe_id: "spiffe://example.org/a".parse().unwrap(),
        key_id: Some("key-1".to_owned()),
        lifetime: Lifetime {
            not_before: at(0),
            not_after: at(seconds),
        },
    })
}

const VERSION: EntryVersion = EntryVersion {
    revision: 1,
    created_at: 1,
};

async fn of(process: &Waiting, audience: &str) -> (JwtKey, JwtContext) {
    let key = JwtKey {
        process: process.pidfd().identity().unwrap(),
        entry: "e".into(),
        audience: vec![audience.to_owned()],
    };
    let context = JwtContext {
        fingerprint: process.fingerprint().await,
        version: VERSION,
    };
    (key, context)
}

#[tokio::test]
async fn no_two_processes_share_a_token_though_they_run_the_same_program_as_the_same_user() {
    let cache = JwtCache::new(10);
    let (one, other) = (Waiting::start(), Waiting::start());
    let (key, context) = of(&one, "a").await;
    cache.keep(key.clone(), context.clone(), token(100), at(0), 0.0);
    assert!(matches!(cache.look(&key, &context, at(1)), Cached::Fresh(_)));
    let (foreign, foreign_context) = of(&other, "a").await;
    assert!(matches!(
        cache.look(&foreign, &foreign_context, at(1)),
        Cached::Missing
    ));
    assert!(
        matches!(cache.look(&foreign, &context, at(1)), Cached::Missing),
        "even if the two could not be told apart by what they run"
    );
    let (elsewhere, _) = of(&one, "b").await;
    assert!(matches!(cache.look(&elsewhere, &context, at(1)), Cached::Missing));
}

#[tokio::test]
async fn a_process_that_is_another_program_now_gets_nothing_cached() {
    let cache = JwtCache::new(10);
    let (one, other) = (Waiting::start(), Waiting::start());
    let (key, context) = of(&one, "a").await;
    cache.keep(key.clone(), context.clone(), token(100), at(0), 0.0);
    let changed = JwtContext {
        fingerprint: other.fingerprint().await,
        ..context.clone()
    };
    assert!(matches!(cache.look(&key, &changed, at(1)), Cached::Missing));
    assert!(
        matches!(cache.look(&key, &context, at(1)), Cached::Missing),
        "it is gone"
    );
}

#[tokio::test]
async fn an_entry_that_changed_and_a_token_past_its_end_are_missing() {
    let cache = JwtCache::new(10);
    let one = Waiting::start();
    let (key, context) = of(&one, "a").await;
    cache.keep(key.clone(), context.clone(), token(100), at(0), 0.0);
    assert!(matches!(cache.look(&key, &context, at(49)), Cached::Fresh(_)));
    assert!(matches!(cache.look(&key, &context, at(50)), Cached::Aged(_)));
    assert!(matches!(cache.look(&key, &context, at(100)), Cached::Missing));
    cache.keep(key.clone(), context.clone(), token(100), at(0), 0.0);
    let mut changed = context.clone();
    changed.version.revision = 2;
    assert!(matches!(cache.look(&key, &changed, at(1)), Cached::Missing));
}

#[tokio::test]
async fn the_cache_stays_within_its_limit_and_forgets_removed_entries() {
    let cache = JwtCache::new(2);
    let one = Waiting::start();
    for audience in ["a", "b", "c"] {
        let (key, context) = of(&one, audience).await;
        cache.keep(key, context, token(100), at(0), 0.0);
    }
    assert_eq!(cache.len(), 2);
    let (first, context) = of(&one, "a").await;
    assert!(matches!(cache.look(&first, &context, at(1)), Cached::Missing));
    cache.retain_entries(|_| false);
    assert!(cache.is_empty());
}

#[tokio::test]
async fn a_token_of_a_tainted_key_is_forgotten_and_none_is_kept_from_then_on() {
    let process = Waiting::start();
    let cache = JwtCache::new(10);
    let (key, context) = of(&process, "a").await;
    cache.keep(key.clone(), context.clone(), token(3600), at(0), 0.0);
    assert!(matches!(cache.look(&key, &context, at(1)), Cached::Fresh(_)));
    let mut bundle = vouchsafe_identity::Bundle::empty("example.org".parse().unwrap());
    bundle.jwt_authorities.push(vouchsafe_identity::JwtAuthority {
        key_id: "key-1".to_owned(),
        public_key: vec![1],
        expires_at: None,
        tainted: true,
    });
    cache.distrust(Arc::new(Distrust::between(None, &bundle)));
    assert!(cache.is_empty());
    cache.keep(key.clone(), context.clone(), token(3600), at(2), 0.0);
    assert!(
        matches!(cache.look(&key, &context, at(3)), Cached::Missing),
        "it was on its way when its key was tainted"
    );
    bundle.jwt_authorities.clear();
    cache.distrust(Arc::new(Distrust::between(None, &bundle)));
    cache.keep(key.clone(), context.clone(), token(3600), at(4), 0.0);
    assert!(matches!(cache.look(&key, &context, at(5)), Cached::Fresh(_)));
}
