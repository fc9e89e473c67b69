//! Each reader: nothing, one, pages, order.

use vouchsafe_store::{Class, Commit, EntryId, KeyPurpose, Record, Revision, Run, TokenHash, Versioned};

use crate::Make;
use crate::samples::{
    bundle, class, entry, entry_id, journal, node, revocation, run, spiffe_id, token, trust_domain,
};

const KEEP: u64 = 1000;

pub(crate) async fn what_is_not_there_is_none(make: Make) {
    let store = make(KEEP);
    assert_eq!(store.entry(&entry_id("e")).await.unwrap(), None);
    assert_eq!(store.entry_by_shape("a b").await.unwrap(), None);
    assert!(store.entries(None, 10).await.unwrap().is_empty());
    assert_eq!(store.node(&spiffe_id("/spire/agent/x")).await.unwrap(), None);
    assert!(store.nodes(None, 10).await.unwrap().is_empty());
    assert_eq!(store.token(&TokenHash("00".to_owned())).await.unwrap(), None);
    assert!(store.tokens(None, 10).await.unwrap().is_empty());
    assert_eq!(store.bundle(&trust_domain("example.org")).await.unwrap(), None);
    assert!(store.bundles().await.unwrap().is_empty());
    assert_eq!(store.class(&class("c").name).await.unwrap(), None);
    assert!(store.classes(None, 10).await.unwrap().is_empty());
    assert_eq!(store.run(&run(1).id).await.unwrap(), None);
    assert!(store.runs(None, 10).await.unwrap().is_empty());
    assert!(store.journal("server-1").await.unwrap().is_empty());
    assert_eq!(store.changes(Revision(0), 10).await.unwrap(), Some(Vec::new()));
    assert!(store.audit_records(0, 10).await.unwrap().is_empty());
    assert_eq!(store.audit_head().await.unwrap(), 0);
    assert_eq!(*store.revisions().borrow(), Revision(0));
}

pub(crate) async fn the_middle_entry_halves_what_is_there(make: Make) {
    let store = make(KEEP);
    assert_eq!(store.middle_entry().await.unwrap(), None);
    store
        .commit(Commit::default().put(Record::Entry(entry("only", 0))))
        .await
        .unwrap();
    assert_eq!(store.middle_entry().await.unwrap(), Some(entry_id("only")));
    // Most ids are close together, as those that a server makes within a minute.
    let mut commit = Commit::default();
    for n in 1..1000 {
        commit = commit.put(Record::Entry(entry(&format!("0199{n:08}"), n)));
    }
    store.commit(commit).await.unwrap();
    let middle = store.middle_entry().await.unwrap().unwrap();
    let before = store.entries(None, 2000).await.unwrap();
    let before = before.iter().filter(|row| row.value.id < middle).count();
    assert!((250..750).contains(&before), "{before} of 1000 come before it");
}

pub(crate) async fn each_entity_is_read_back(make: Make) {
    let store = make(KEEP);
    let (e, n, t) = (entry("e", 1), node("n"), token("00ff"));
    let (b, j) = (
        bundle("example.org", 7),
        journal("server-1", KeyPurpose::X509Ca, 'a'),
    );
    for record in [
        Record::Entry(e.clone()),
        Record::Node(n.clone()),
        Record::Token(t.clone()),
        Record::Bundle(b.clone()),
        Record::Journal(j.clone()),
    ] {
        store.commit(Commit::default().put(record)).await.unwrap();
    }
    let at = |revision| Revision(revision);
    let shape = e.shape();
    assert_eq!(store.entry_by_shape(&shape).await.unwrap(), Some(e.id.clone()));
    assert_eq!(
        store.entry(&e.id.clone()).await.unwrap(),
        Some(Versioned {
            value: e,
            revision: at(1)
        })
    );
    assert_eq!(
        store.node(&n.id.clone()).await.unwrap(),
        Some(Versioned {
            value: n,
            revision: at(2)
        })
    );
    assert_eq!(
        store.token(&t.hash.clone()).await.unwrap(),
        Some(Versioned {
            value: t,
            revision: at(3)
        })
    );
    assert_eq!(
        store.bundle(&b.trust_domain.clone()).await.unwrap(),
        Some(Versioned {
            value: b,
            revision: at(4)
        })
    );
    assert_eq!(
        store.journal("server-1").await.unwrap(),
        [Versioned {
            value: j,
            revision: at(5)
        }]
    );
}

pub(crate) async fn entries_come_by_pages(make: Make) {
    let store = make(KEEP);
    // Ids whose order as text is not that of numbers, and prefixes of each other.
    let mut ids: Vec<String> = (0..25).map(|n| format!("e{n}")).collect();
    ids.extend(["e".to_owned(), "E".to_owned(), "e1-".to_owned()]);
    for (uid, id) in (0..).zip(&ids) {
        let commit = Commit::default().put(Record::Entry(entry(id, uid)));
        store.commit(commit).await.unwrap();
    }
    ids.sort();
    for limit in [1, 3, 28, 100] {
        let mut seen: Vec<EntryId> = Vec::new();
        loop {
            let page = store.entries(seen.last(), limit).await.unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit);
            seen.extend(page.into_iter().map(|entry| entry.value.id));
        }
        let seen: Vec<&str> = seen.iter().map(EntryId::as_str).collect();
        assert_eq!(seen, ids, "pages of {limit}");
    }
    assert!(store.entries(None, 0).await.unwrap().is_empty());
    let after_missing = store.entries(Some(&entry_id("e10a")), 1).await.unwrap();
    assert_eq!(after_missing.first().unwrap().value.id, entry_id("e11"));
}

pub(crate) async fn nodes_and_tokens_come_by_pages(make: Make) {
    let store = make(KEEP);
    for name in ["b", "a", "c"] {
        let commit = Commit::default()
            .put(Record::Node(node(name)))
            .put(Record::Token(token(name)));
        store.commit(commit).await.unwrap();
    }
    let nodes = store.nodes(None, 2).await.unwrap();
    let ids: Vec<_> = nodes.iter().map(|node| node.value.id.clone()).collect();
    assert_eq!(ids, [node("a").id, node("b").id]);
    let rest = store.nodes(ids.last(), 2).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest.first().unwrap().value, node("c"));

    let tokens = store.tokens(None, 2).await.unwrap();
    let hashes: Vec<_> = tokens.iter().map(|token| token.value.hash.0.as_str()).collect();
    assert_eq!(hashes, ["a", "b"]);
    let rest = store.tokens(Some(&TokenHash("b".to_owned())), 2).await.unwrap();
    assert_eq!(rest.first().unwrap().value, token("c"));
    assert_eq!(rest.len(), 1);
}

pub(crate) async fn classes_and_runs_come_by_pages(make: Make) {
    let store = make(KEEP);
    for (number, name) in (0..).zip(["b", "a-1", "a", "c"]) {
        let commit = Commit::default()
            .put(Record::Class(class(name)))
            .put(Record::Run(run(3 - number)))
            .put(Record::Revocation(revocation(3 - number)));
        store.commit(commit).await.unwrap();
    }
    let values = |rows: Vec<Versioned<Class>>| rows.into_iter().map(|row| row.value).collect::<Vec<_>>();
    let first = values(store.classes(None, 2).await.unwrap());
    assert_eq!(first, [class("a"), class("a-1")]);
    let rest = store.classes(Some(&class("a-1").name), 9).await.unwrap();
    assert_eq!(values(rest), [class("b"), class("c")]);
    let found = store.class(&class("b").name).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (class("b"), Revision(1)));

    let values = |rows: Vec<Versioned<Run>>| rows.into_iter().map(|row| row.value).collect::<Vec<_>>();
    assert_eq!(values(store.runs(None, 2).await.unwrap()), [run(0), run(1)]);
    let rest = store.runs(Some(&run(1).id), 9).await.unwrap();
    assert_eq!(values(rest), [run(2), run(3)]);
    assert_eq!(store.run(&run(2).id).await.unwrap().unwrap().value, run(2));

    let rows = store.revocations(None, 2).await.unwrap();
    let revoked: Vec<_> = rows.into_iter().map(|row| row.value).collect();
    assert_eq!(revoked, [revocation(0), revocation(1)]);
    let rest = store.revocations(Some(&run(2).id), 9).await.unwrap();
    assert_eq!(rest.first().unwrap().value, revocation(3));
    let found = store.revocation(&run(2).id).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (revocation(2), Revision(2)));
    assert_eq!(store.revocation(&run(9).id).await.unwrap(), None);
}

pub(crate) async fn bundles_and_journals_come_in_order(make: Make) {
    let store = make(KEEP);
    let purposes = [KeyPurpose::JwtSigner, KeyPurpose::X509Ca];
    let mut commit = Commit::default();
    for name in ["b.org", "a.org", "a-.org"] {
        commit = commit.put(Record::Bundle(bundle(name, 1)));
    }
    for (purpose, slot) in [(0, 'b'), (1, 'b'), (0, 'a'), (1, 'a')] {
        let purpose = *purposes.get(purpose).unwrap();
        commit = commit.put(Record::Journal(journal("server-1", purpose, slot)));
    }
    store.commit(commit).await.unwrap();
    let bundles = store.bundles().await.unwrap();
    let names: Vec<_> = bundles.iter().map(|b| b.value.trust_domain.name()).collect();
    assert_eq!(names, ["a-.org", "a.org", "b.org"]);
    let journal = store.journal("server-1").await.unwrap();
    let slots: Vec<_> = journal
        .iter()
        .map(|row| (row.value.key.purpose, row.value.key.slot))
        .collect();
    assert_eq!(
        slots,
        [
            (KeyPurpose::X509Ca, 'a'),
            (KeyPurpose::X509Ca, 'b'),
            (KeyPurpose::JwtSigner, 'a'),
            (KeyPurpose::JwtSigner, 'b'),
        ]
    );
}

pub(crate) async fn journals_of_other_servers_stay_apart(make: Make) {
    let store = make(KEEP);
    let servers = ["a", "ab", "a/", "", "a\u{0}", "ä"];
    for server in servers {
        let row = journal(server, KeyPurpose::X509Ca, 'a');
        store
            .commit(Commit::default().put(Record::Journal(row)))
            .await
            .unwrap();
    }
    for server in servers {
        let rows = store.journal(server).await.unwrap();
        let owners: Vec<_> = rows.iter().map(|row| row.value.key.server_id.as_str()).collect();
        assert_eq!(owners, [server]);
    }
}

pub(crate) async fn long_values_are_read_back(make: Make) {
    let store = make(KEEP);
    // Around the length at which an adapter may cut, and far beyond.
    for (n, len) in [2000, 2900, 3071, 3072, 3073, 6144, 10_000, 300_000, 3_000_000]
        .into_iter()
        .enumerate()
    {
        let mut long = entry(&format!("long-{n}"), u32::try_from(n).unwrap());
        long.hint = "h".repeat(len);
        let commit = Commit::default().put(Record::Entry(long.clone()));
        store.commit(commit).await.unwrap();
        assert_eq!(store.entry(&long.id).await.unwrap().unwrap().value, long);
    }
    // Shorter, longer again, gone: no part of the old value stays behind.
    for len in [5, 9000, 4000, 70_000, 0] {
        let mut changed = entry("long-7", 7);
        changed.hint = "i".repeat(len);
        let commit = Commit::default().put(Record::Entry(changed.clone()));
        store.commit(commit).await.unwrap();
        assert_eq!(store.entry(&changed.id).await.unwrap().unwrap().value, changed);
    }
    let all = store.entries(None, 100).await.unwrap();
    assert_eq!(all.len(), 9);
    assert_eq!(all.last().unwrap().value.hint.len(), 3_000_000);
}
