//! What counts as a change, whom it concerns, and what it costs.

use super::*;
use crate::testing::{entry, selectors};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn news(ids: &[&str], domains: &[&str]) -> News {
    News::Whole(Whole {
        entries: ids.iter().map(|id| entry(id, &["unix:uid:1"])).collect(),
        bundles: domains.iter().map(|name| Bundle::empty(domain(name))).collect(),
        resume: None,
        ..Whole::default()
    })
}

fn resume(revision: u64) -> Option<Resume> {
    Some(Resume {
        log_id: "log".into(),
        revision,
        digest: SetDigest::default(),
        unusable: Arc::default(),
    })
}

#[test]
fn equal_news_wake_nobody() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    let mut changes = base.changes();
    assert!(base.learn(news(&["a"], &["example.org"])));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let before = base.get();
    assert!(!base.learn(news(&["a"], &["example.org"])));
    assert!(!changes.has_changed().unwrap());
    assert!(base.learn(news(&["a", "b"], &["example.org"])));
    let after = base.get();
    let trust_domain = domain("example.org");
    assert!(Arc::ptr_eq(
        &before.bundles[&trust_domain],
        &after.bundles[&trust_domain]
    ));
}

#[test]
fn an_empty_answer_is_an_answer() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    assert!(!base.get().complete);
    base.learn(News::Whole(Whole::default()));
    assert!(base.get().complete);
}

#[test]
fn only_bundles_that_an_entry_names_are_given() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    base.learn(news(&["a"], &["example.org", "far.example", "other.example"]));
    let mut federated = Entry::clone(&entry("a", &["unix:uid:1"]));
    federated.federates_with = vec![
        domain("far.example"),
        domain("gone.example"),
        domain("example.org"),
    ];
    let known = base.get();
    let given: Vec<_> = known
        .federated(&[Arc::new(federated)])
        .into_keys()
        .cloned()
        .collect();
    assert_eq!(given, [domain("far.example")]);
}

#[test]
fn equal_changes_wake_nobody_and_yet_move_the_resume_point() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    base.learn(news(&["a"], &["example.org"]));
    let mut changes = base.changes();
    changes.mark_unchanged();
    let same = |revision| {
        News::Changes(Changes {
            put: vec![entry("a", &["unix:uid:1"])],
            gone: vec!["never-known".into()],
            bundles: vec![Bundle::empty(domain("example.org"))],
            bundles_gone: vec![domain("never.example")],
            resume: resume(revision),
            ..Changes::default()
        })
    };
    assert!(!base.learn(same(7)));
    assert!(!changes.has_changed().unwrap());
    assert_eq!(base.get().resume, resume(7));
    assert_eq!(base.get().version, 1);
}

#[test]
fn a_change_concerns_those_whom_its_entry_matched_or_matches() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    base.learn(news(&["a"], &["example.org"]));
    let seen = base.get().version;
    let one = |entry| {
        News::Changes(Changes {
            put: vec![entry],
            ..Changes::default()
        })
    };
    base.learn(one(entry("b", &["unix:uid:2"])));
    let (first, second) = (selectors(&["unix:uid:1"]), selectors(&["unix:uid:2"]));
    let known = base.get();
    assert!(!known.concerns(seen, &first) && known.concerns(seen, &second));
    assert!(!known.concerns(known.version, &second), "seen already");
    // What was its entry is another's now.
    let seen = known.version;
    base.learn(one(entry("b", &["unix:uid:3"])));
    assert!(base.get().concerns(seen, &second));
    assert!(!base.get().concerns(seen, &first));
    // A bundle may be anyone's.
    let seen = base.get().version;
    base.learn(News::Changes(Changes {
        bundles_gone: vec![domain("example.org")],
        ..Changes::default()
    }));
    assert!(base.get().concerns(seen, &first));
}

#[test]
fn a_whole_set_that_differs_in_little_is_a_small_step() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    base.learn(news(&["a", "b", "c"], &["example.org"]));
    let seen = base.get().version;
    base.learn(news(&["a", "c", "d"], &["example.org"]));
    let known = base.get();
    let steps: Vec<_> = known.since(seen).unwrap().collect();
    let [step] = steps.as_slice() else {
        panic!("one step: {steps:?}");
    };
    assert_eq!((step.entries.len(), step.bundles), (2, false));
    let (gone, new) = (&step.entries[0], &step.entries[1]);
    assert_eq!(gone.before.as_ref().unwrap().id.as_str(), "b");
    assert!(gone.after.is_none() && new.before.is_none());
    assert_eq!(new.after.as_ref().unwrap().id.as_str(), "d");
}

/// With many entries one changed one must cost little, and so must telling a thousand streams whether it is theirs.
#[test]
fn one_change_among_100_000_entries_is_cheap_for_the_agent_and_its_streams() {
    let base = KnowledgeBase::new(domain("example.org"), None);
    let at = |n: usize| entry(&format!("e{n}"), &["unix:uid:0", &format!("unix:path:/bin/{n}")]);
    base.learn(News::Whole(Whole {
        entries: (0..100_000).map(at).collect(),
        ..Whole::default()
    }));
    let streams: Vec<_> = (0..1000)
        .map(|n| selectors(&["unix:uid:0", "unix:gid:0", &format!("unix:path:/bin/{n}")]))
        .collect();
    let rounds = 100_u32;
    let (mut learning, mut telling) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    let mut concerned = 0;
    for n in 0..rounds {
        let before = base.get();
        let mut changed = Entry::clone(&at(n as usize));
        changed.version.revision += 1;
        let start = tokio::time::Instant::now();
        base.learn(News::Changes(Changes {
            put: vec![Arc::new(changed)],
            ..Changes::default()
        }));
        learning += start.elapsed();
        let known = base.get();
        let start = tokio::time::Instant::now();
        concerned += streams
            .iter()
            .filter(|one| known.concerns(before.version, one))
            .count();
        telling += start.elapsed();
    }
    let (learning, telling) = (learning / rounds, telling / rounds);
    println!("one change: learned in {learning:?}, told to 1,000 streams in {telling:?}");
    assert_eq!(concerned, 100, "each change concerns one stream");
    assert!(learning < std::time::Duration::from_millis(5), "{learning:?}");
    assert!(telling < std::time::Duration::from_millis(20), "{telling:?}");
}
