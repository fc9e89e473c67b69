//! What is used of a sealed state, and what is not.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vouchsafe_runtime::Clock;

use super::*;
use crate::cache::X509Cache;
use crate::knowledge::{Changes, KnowledgeBase, News, Whole};
use crate::status::Status;
use crate::testing::{at, authority, entry, svid};

const AGENT: &str = "spiffe://example.org/spire/agent/join_token/one";
const OTHER: &str = "spiffe://example.org/spire/agent/join_token/two";

fn domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

fn opened(dir: &Path) -> Seal {
    Seal::open(&SealKeySource::File, dir, None).unwrap().unwrap()
}

/// Entries `a` and `b`, whose SVIDs end after one and after two hours.
fn snapshot() -> Snapshot {
    let entries = [entry("a", &["unix:uid:1"]), entry("b", &["unix:uid:1"])];
    let hours = [3600, 7200];
    let svids = entries
        .iter()
        .zip(hours)
        .map(|(entry, end)| (entry.id.clone(), Arc::new(svid(entry, at(0), at(end)))));
    let svids: HashMap<_, _> = svids.collect();
    // A run whose id is that of an entry.
    let of_run = svid(&entry("run", &[]), at(0), at(3600));
    let knowledge = KnowledgeBase::new(domain(), None);
    knowledge.learn(News::Whole(Whole {
        entries: entries.into(),
        bundles: vec![authority().bundle()],
        resume: None,
        ..Whole::default()
    }));
    Snapshot {
        known: knowledge.get(),
        svids,
        run_svids: [(entry("a", &[]).id.clone(), Arc::new(of_run))].into(),
        heard_at: Some(at(1)),
    }
}

async fn sealed(dir: &Path, sealed_at: OffsetDateTime) -> Seal {
    let seal = opened(dir);
    seal.write(AGENT.to_owned(), snapshot(), None, sealed_at)
        .await
        .unwrap();
    seal
}

fn ids(restored: &Restored) -> Vec<&str> {
    restored.svids.iter().map(|(id, _)| id.as_str()).collect()
}

#[tokio::test]
async fn what_was_sealed_is_there_again_for_this_agent_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(sealed(dir.path(), at(10)).await);
    let seal = opened(dir.path());
    let restored = seal.restore(AGENT, &domain(), at(20)).unwrap();
    assert_eq!(ids(&restored), ["a", "b"]);
    let [(id, of_run)] = restored.run_svids.as_slice() else {
        panic!("{:?}", restored.run_svids);
    };
    assert_eq!((id.as_str(), of_run.spiffe_id.path()), ("a", "/run"));
    assert_eq!(restored.svids[0].1.spiffe_id.path(), "/a");
    assert_eq!((restored.entries.len(), restored.bundles.len()), (2, 1));
    assert_eq!(restored.heard_at, Some(at(1)));
    assert!(seal.restore(OTHER, &domain(), at(20)).is_none());
}

#[tokio::test]
async fn what_has_ended_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let seal = sealed(dir.path(), at(10)).await;
    let restored = seal.restore(AGENT, &domain(), at(3600)).unwrap();
    assert_eq!((ids(&restored), restored.left_out), (vec!["b"], 2));
    assert!(restored.run_svids.is_empty());
    let restored = seal.restore(AGENT, &domain(), at(7200)).unwrap();
    assert_eq!((restored.svids.len(), restored.entries.len()), (0, 2));
}

#[tokio::test]
async fn a_clock_that_is_set_back_brings_nothing_back_to_life() {
    let dir = tempfile::tempdir().unwrap();
    // When this was sealed, the SVID of `a` had ended.
    let seal = sealed(dir.path(), at(4000)).await;
    let restored = seal.restore(AGENT, &domain(), at(1000)).unwrap();
    assert_eq!(ids(&restored), ["b"]);
}

#[tokio::test]
async fn a_state_of_another_trust_domain_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let seal = sealed(dir.path(), at(10)).await;
    let other = TrustDomain::new("other.example").unwrap();
    assert!(seal.restore(AGENT, &other, at(20)).is_none());
}

#[tokio::test]
async fn a_seal_whose_key_is_gone_is_not_used_and_the_next_one_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(sealed(dir.path(), at(10)).await);
    std::fs::remove_file(dir.path().join("seal.key")).unwrap();
    let seal = opened(dir.path());
    assert!(seal.restore(AGENT, &domain(), at(20)).is_none());
    seal.write(AGENT.to_owned(), snapshot(), None, at(30))
        .await
        .unwrap();
    assert!(seal.restore(AGENT, &domain(), at(40)).is_some());
}

#[tokio::test]
async fn what_did_not_change_is_not_written_and_what_did_is() {
    let dir = tempfile::tempdir().unwrap();
    let seal = sealed(dir.path(), at(10)).await;
    let before = snapshot();
    let mut after = before.clone();
    assert!(after.since(&before).is_empty());
    after.heard_at = Some(at(500));
    assert!(
        after.since(&before).is_empty(),
        "that the server was heard alone is not worth a write"
    );
    after.svids.remove(&EntryId::from("a"));
    seal.write(AGENT.to_owned(), after.clone(), Some(before), at(20))
        .await
        .unwrap();
    let restored = seal.restore(AGENT, &domain(), at(30)).unwrap();
    assert_eq!(ids(&restored), ["b"]);
    assert_eq!(restored.heard_at, Some(at(500)));
}

#[tokio::test]
async fn entries_that_come_and_go_are_sealed_by_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let seal = sealed(dir.path(), at(10)).await;
    let before = snapshot();
    let knowledge = KnowledgeBase::new(domain(), None);
    let whole = |ids: &[&str]| {
        News::Whole(Whole {
            entries: ids.iter().map(|id| entry(id, &["unix:uid:1"])).collect(),
            bundles: vec![Bundle::clone(before.known.own_bundle().unwrap())],
            resume: None,
            ..Whole::default()
        })
    };
    knowledge.learn(whole(&["a", "b"]));
    let moment = |known| Snapshot {
        known,
        ..before.clone()
    };
    let first = moment(knowledge.get());
    seal.write(AGENT.to_owned(), first.clone(), None, at(11))
        .await
        .unwrap();
    knowledge.learn(News::Changes(Changes {
        put: vec![entry("c", &["unix:uid:1"])],
        gone: vec!["a".into()],
        ..Changes::default()
    }));
    let second = moment(knowledge.get());
    assert_eq!(
        second.since(&first).len(),
        4,
        "one came, one went, the place and the time"
    );
    seal.write(AGENT.to_owned(), second, Some(first), at(12))
        .await
        .unwrap();
    let restored = seal.restore(AGENT, &domain(), at(20)).unwrap();
    let ids: Vec<_> = restored.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"]);
}

/// What changes while a write is under way, with the agent told to stop in the same moment, is sealed all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_comes_while_the_last_write_is_under_way_is_sealed_too() {
    let dir = tempfile::tempdir().unwrap();
    let seal = opened(dir.path());
    let knowledge = KnowledgeBase::new(domain(), None);
    let ca = authority();
    let (_sender, own) = watch::channel(Some(ca.own_svid(AGENT)));
    let clock = Clock::manual(at(10));
    let keeper = Keeper::new(
        seal.clone(),
        knowledge.clone(),
        (X509Cache::new(10), X509Cache::new(10)),
        own,
        Arc::new(Status::new(clock.clone())),
        clock,
    );
    let stopping = CancellationToken::new();
    let holders = Arc::strong_count(&seal.0);
    let mut running = JoinSet::new();
    running.spawn(keeper.run(stopping.clone()));
    {
        let _held_up = seal.0.files.lock().unwrap();
        knowledge.learn(News::Whole(Whole {
            entries: vec![entry("a", &["unix:uid:1"])],
            bundles: vec![ca.bundle()],
            resume: None,
            ..Whole::default()
        }));
        // The write has its own hold on the seal; what it writes is settled then.
        let deadline = Instant::now() + Duration::from_secs(20);
        while Arc::strong_count(&seal.0) <= holders {
            assert!(Instant::now() < deadline, "nothing is written");
            std::thread::yield_now();
        }
        knowledge.learn(News::Changes(Changes {
            put: vec![entry("b", &["unix:uid:1"])],
            ..Changes::default()
        }));
        stopping.cancel();
    }
    running.join_next().await.unwrap().unwrap();
    let restored = seal.restore(AGENT, &domain(), at(20)).unwrap();
    assert_eq!(restored.entries.len(), 2);
}

#[tokio::test]
async fn after_a_ban_nothing_is_left_and_nothing_is_sealed_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let seal = sealed(dir.path(), at(10)).await;
    seal.wipe().await.unwrap();
    seal.write(AGENT.to_owned(), snapshot(), None, at(20))
        .await
        .unwrap();
    assert!(seal.restore(AGENT, &domain(), at(30)).is_none());
    assert!(!dir.path().join("seal.key").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("sealed")).unwrap().count(), 0);
    drop(seal);
    assert!(opened(dir.path()).restore(AGENT, &domain(), at(30)).is_none());
}
