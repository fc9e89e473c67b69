//! Commits: all or nothing, expectations, races, shapes.

use std::sync::Arc;

use tokio::task::JoinSet;
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Expect, Key, KeyPurpose, Record, Revision, StoreError,
};

use crate::Make;
use crate::samples::{bundle, class, draft, entry, entry_id, journal, node, run, token};

const KEEP: u64 = 1000;

fn put(record: Record) -> Commit {
    Commit::default().put(record)
}

fn conflict(result: Result<Revision, CommitError>) -> Key {
    match result {
        Err(CommitError::Conflict(key)) => key,
        other => unreachable!("expected a conflict, got {other:?}"),
    }
}

pub(crate) async fn a_conflict_changes_nothing(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Token(token("t")))).await.unwrap();
    let refused = Commit::default()
        .put(Record::Entry(entry("e", 1)))
        .delete(Key::Token(token("t").hash))
        .change(ChangeKind::Entry(entry_id("e")))
        .audit(draft("r1"))
        .expect(Expect::Absent(Key::Node(node("n").id)))
        .expect(Expect::At(Key::Token(token("t").hash), Revision(7)));
    assert_eq!(
        conflict(store.commit(refused.clone()).await),
        Key::Token(token("t").hash)
    );
    assert_eq!(store.entry(&entry_id("e")).await.unwrap(), None);
    assert_eq!(store.entry_by_shape(&entry("e", 1).shape()).await.unwrap(), None);
    assert!(store.token(&token("t").hash).await.unwrap().is_some());
    assert_eq!(store.changes(Revision(0), 10).await.unwrap(), Some(Vec::new()));
    assert_eq!(store.audit_head().await.unwrap(), 0);
    assert_eq!(*store.revisions().borrow(), Revision(1));

    // A conflict that shows only while the values are written leaves nothing either.
    store.commit(put(Record::Entry(entry("held", 1)))).await.unwrap();
    let refused = Commit::default()
        .put(Record::Node(node("n")))
        .put(Record::Entry(entry("e", 1)))
        .change(ChangeKind::Node(node("n").id))
        .audit(draft("r2"));
    conflict(store.commit(refused).await);
    assert_eq!(store.node(&node("n").id).await.unwrap(), None);
    assert_eq!(store.audit_head().await.unwrap(), 0);
    assert_eq!(*store.revisions().borrow(), Revision(2));
    // The refused commits took no revision.
    let next = store.commit(put(Record::Node(node("n")))).await.unwrap();
    assert_eq!(next, Revision(3));
}

pub(crate) async fn each_expectation_is_kept(make: Make) {
    let store = make(KEEP);
    let records = [
        Record::Entry(entry("e", 1)),
        Record::Node(node("n")),
        Record::Token(token("t")),
        Record::Bundle(bundle("example.org", 1)),
        Record::Journal(journal("server-1", KeyPurpose::X509Ca, 'a')),
    ];
    for record in records {
        let key = record.key();
        let absent = put(record.clone()).expect(Expect::Absent(key.clone()));
        let missing = put(record.clone()).expect(Expect::At(key.clone(), Revision(0)));
        assert_eq!(conflict(store.commit(missing).await), key);
        let first = store.commit(absent.clone()).await.unwrap();
        assert_eq!(conflict(store.commit(absent).await), key);
        let at = |revision| put(record.clone()).expect(Expect::At(key.clone(), revision));
        assert_eq!(
            conflict(store.commit(at(Revision(first.0 + 1))).await),
            key,
            "a revision ahead"
        );
        let second = store.commit(at(first)).await.unwrap();
        assert_eq!(conflict(store.commit(at(first)).await), key, "an old revision");
        let gone = Commit::default()
            .delete(key.clone())
            .expect(Expect::At(key.clone(), second));
        store.commit(gone).await.unwrap();
        assert_eq!(conflict(store.commit(at(second)).await), key, "deleted");
    }
    // Expectations are about what was there before the commit.
    let both = put(Record::Node(node("m")))
        .expect(Expect::Absent(Key::Node(node("m").id)))
        .expect(Expect::Absent(Key::Node(node("m").id)));
    store.commit(both).await.unwrap();
    // The place of a shape can be expected as well, with the revision of its entry.
    let held = store.commit(put(Record::Entry(entry("e", 1)))).await.unwrap();
    let shape = Key::EntryShape(entry("e", 1).shape());
    let free = Commit::default().expect(Expect::Absent(shape.clone()));
    assert_eq!(conflict(store.commit(free).await), shape);
    let taken = Commit::default().expect(Expect::At(shape, held));
    store.commit(taken).await.unwrap();
}

pub(crate) async fn sixteen_callers_race_for_one_token(make: Make) {
    let store = make(KEEP);
    for round in 0..10 {
        let made = store.commit(put(Record::Token(token("t")))).await.unwrap();
        let mut callers = JoinSet::new();
        for caller in 0..16 {
            let store = Arc::clone(&store);
            callers.spawn(async move {
                let use_token = Commit::default()
                    .expect(Expect::At(Key::Token(token("t").hash), made))
                    .delete(Key::Token(token("t").hash))
                    .put(Record::Node(node(&format!("n-{round}-{caller}"))))
                    .audit(draft(&format!("r-{round}-{caller}")));
                match store.commit(use_token).await {
                    Ok(_) => true,
                    Err(CommitError::Conflict(Key::Token(_))) => false,
                    Err(other) => unreachable!("{other}"),
                }
            });
        }
        let winners = callers.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(winners, 1, "round {round}");
    }
    assert_eq!(store.nodes(None, 1000).await.unwrap().len(), 10);
    assert_eq!(store.audit_head().await.unwrap(), 10);
    assert_eq!(*store.revisions().borrow(), Revision(20));
}

pub(crate) async fn racing_updates_are_never_lost(make: Make) {
    const CALLERS: u64 = 8;
    const EACH: u64 = 10;
    let store = make(KEEP);
    store
        .commit(put(Record::Bundle(bundle("example.org", 0))))
        .await
        .unwrap();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let mut done = 0;
            while done < EACH {
                let mut found = store
                    .bundle(&bundle("example.org", 0).trust_domain)
                    .await
                    .unwrap()
                    .unwrap();
                found.value.sequence += 1;
                let key = Key::Bundle(found.value.trust_domain.clone());
                let update = put(Record::Bundle(found.value)).expect(Expect::At(key, found.revision));
                match store.commit(update).await {
                    Ok(_) => done += 1,
                    Err(CommitError::Conflict(_)) => {}
                    Err(other) => unreachable!("{other}"),
                }
            }
        });
    }
    callers.join_all().await;
    let found = store.bundles().await.unwrap();
    assert_eq!(found.first().unwrap().value.sequence, CALLERS * EACH);
    assert_eq!(*store.revisions().borrow(), Revision(1 + CALLERS * EACH));
}

pub(crate) async fn a_shape_has_one_entry(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    let shape = Key::EntryShape(entry("a", 1).shape());
    assert_eq!(
        conflict(store.commit(put(Record::Entry(entry("b", 1)))).await),
        shape
    );
    // The same entry may be written again.
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    // Neither may an update take another's place, nor two entries of one commit the same.
    store.commit(put(Record::Entry(entry("b", 2)))).await.unwrap();
    assert_eq!(
        conflict(store.commit(put(Record::Entry(entry("b", 1)))).await),
        shape
    );
    let twins = put(Record::Entry(entry("c", 3))).put(Record::Entry(entry("d", 3)));
    conflict(store.commit(twins).await);
    assert_eq!(store.entries(None, 10).await.unwrap().len(), 2);

    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let create = put(Record::Entry(entry(&format!("race-{caller}"), 9)));
            store.commit(create).await.is_ok()
        });
    }
    let winners = callers.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
}

pub(crate) async fn an_update_frees_the_old_shape(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    store.commit(put(Record::Entry(entry("a", 2)))).await.unwrap();
    assert_eq!(store.entry_by_shape(&entry("a", 1).shape()).await.unwrap(), None);
    assert_eq!(
        store.entry_by_shape(&entry("a", 2).shape()).await.unwrap(),
        Some(entry_id("a"))
    );
    store.commit(put(Record::Entry(entry("b", 1)))).await.unwrap();
    assert_eq!(
        store.entry_by_shape(&entry("b", 1).shape()).await.unwrap(),
        Some(entry_id("b"))
    );
}

pub(crate) async fn a_deletion_frees_the_shape(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    let gone = Commit::default().delete(Key::Entry(entry_id("a")));
    store.commit(gone).await.unwrap();
    assert_eq!(store.entry(&entry_id("a")).await.unwrap(), None);
    assert_eq!(store.entry_by_shape(&entry("a", 1).shape()).await.unwrap(), None);
    store.commit(put(Record::Entry(entry("b", 1)))).await.unwrap();
}

pub(crate) async fn shapes_follow_the_order_of_a_commit(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    // Deleted and made anew under another id, in one commit.
    let moved = Commit::default()
        .delete(Key::Entry(entry_id("a")))
        .put(Record::Entry(entry("b", 1)));
    store.commit(moved).await.unwrap();
    assert_eq!(
        store.entry_by_shape(&entry("b", 1).shape()).await.unwrap(),
        Some(entry_id("b"))
    );
    // The other way round the place is still taken.
    let early = put(Record::Entry(entry("c", 1))).delete(Key::Entry(entry_id("b")));
    conflict(store.commit(early).await);
    // Written and deleted: nothing stays.
    let brief = put(Record::Entry(entry("d", 4))).delete(Key::Entry(entry_id("d")));
    store.commit(brief).await.unwrap();
    assert_eq!(store.entry_by_shape(&entry("d", 4).shape()).await.unwrap(), None);
    assert_eq!(store.entry(&entry_id("d")).await.unwrap(), None);
}

pub(crate) async fn a_shape_is_not_deleted_by_itself(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Entry(entry("a", 1)))).await.unwrap();
    let shape = Key::EntryShape(entry("a", 1).shape());
    let refused = store.commit(Commit::default().delete(shape)).await;
    assert!(
        matches!(refused, Err(CommitError::Store(StoreError::Unstorable(_)))),
        "{refused:?}"
    );
    assert_eq!(
        store.entry_by_shape(&entry("a", 1).shape()).await.unwrap(),
        Some(entry_id("a"))
    );
    // The store goes on.
    store.commit(Commit::default()).await.unwrap();
}

pub(crate) async fn deleting_what_is_missing_is_no_error(make: Make) {
    let store = make(KEEP);
    for key in [
        Key::Entry(entry_id("e")),
        Key::Node(node("n").id),
        Key::Token(token("t").hash),
        Key::Bundle(bundle("example.org", 1).trust_domain),
        Key::Journal(journal("server-1", KeyPurpose::X509Ca, 'a').key),
    ] {
        store.commit(Commit::default().delete(key)).await.unwrap();
    }
    assert_eq!(*store.revisions().borrow(), Revision(5));
}

pub(crate) async fn values_of_one_commit_share_its_revision(make: Make) {
    let store = make(KEEP);
    store.commit(Commit::default()).await.unwrap();
    let all = put(Record::Entry(entry("e", 1)))
        .put(Record::Node(node("n")))
        .put(Record::Bundle(bundle("example.org", 1)));
    let revision = store.commit(all).await.unwrap();
    assert_eq!(revision, Revision(2));
    let entry = store.entry(&entry_id("e")).await.unwrap().unwrap();
    let node = store.node(&node("n").id).await.unwrap().unwrap();
    let bundles = store.bundles().await.unwrap();
    let revisions = [entry.revision, node.revision, bundles.first().unwrap().revision];
    assert_eq!(revisions, [revision; 3]);
}

pub(crate) async fn an_id_has_one_class(make: Make) {
    let store = make(KEEP);
    store.commit(put(Record::Class(class("first")))).await.unwrap();
    let place = Key::ClassId(class("first").id);
    let mut second = class("second");
    second.id = class("first").id;
    let taken = store.commit(put(Record::Class(second.clone()))).await;
    assert_eq!(conflict(taken), place);
    let absent = Commit::default().expect(Expect::Absent(place.clone()));
    assert_eq!(conflict(store.commit(absent.clone()).await), place);
    // An update keeps it, another id frees it, and it goes with the class, not by itself.
    store.commit(put(Record::Class(class("first")))).await.unwrap();
    assert_eq!(conflict(store.commit(absent.clone()).await), place);
    let alone = store.commit(Commit::default().delete(place.clone())).await;
    assert!(matches!(
        alone,
        Err(CommitError::Store(StoreError::Unstorable(_)))
    ));
    let mut moved = class("first");
    moved.id = class("elsewhere").id;
    store.commit(put(Record::Class(moved.clone()))).await.unwrap();
    store.commit(absent.clone()).await.unwrap();
    store.commit(put(Record::Class(second.clone()))).await.unwrap();
    store
        .commit(Commit::default().delete(Key::Class(second.name)))
        .await
        .unwrap();
    store.commit(absent).await.unwrap();
    let held = Commit::default().expect(Expect::Absent(Key::ClassId(moved.id.clone())));
    assert_eq!(conflict(store.commit(held).await), Key::ClassId(moved.id));
}

pub(crate) async fn a_place_has_one_run(make: Make) {
    let store = make(KEEP);
    let name = class("researcher").name;
    let take = |place: u32, number: u64| {
        Commit::default()
            .expect(Expect::Absent(Key::RunPlace(name.clone(), place)))
            .put(Record::RunPlace(name.clone(), place, run(number).id))
            .put(Record::Run(run(number)))
    };
    let racing = [take(1, 1), take(1, 2), take(1, 3)].map(|commit| store.commit(commit));
    let outcomes = futures_join(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(store.runs(None, 9).await.unwrap().len(), 1);
    // Places of other numbers and of classes with similar names are others.
    store.commit(take(11, 4)).await.unwrap();
    let other = Expect::Absent(Key::RunPlace(class("researcher-1").name, 1));
    store.commit(Commit::default().expect(other)).await.unwrap();
    let free = Commit::default().delete(Key::RunPlace(name.clone(), 1));
    store.commit(free).await.unwrap();
    store.commit(take(1, 5)).await.unwrap();
}

async fn futures_join<T>(futures: [impl Future<Output = T>; 3]) -> [T; 3] {
    let [a, b, c] = futures;
    tokio::join!(a, b, c).into()
}
