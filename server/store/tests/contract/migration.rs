//! What earlier releases wrote is read, and what this one writes is what its fixture holds.
//!
//! `tests/fixtures/format-N.tsv` is every row of a store of format N: key, tab, value; bytes that are not printable
//! ASCII, and the backslash, as `\xNN`. What a release wrote, no later one changes.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use vouchsafe_store::{
    AuditReader, BundleReader, Change, ChangeKind, ChangeReader, ClassReader, Commit, EntryReader, Expect,
    JournalReader, Key, KeyPurpose, NodeReader, Record, Revision, RunReader, SledConfig, SledStore, Store,
    TokenReader,
};

use crate::samples::{bundle, class, draft, entry, entry_id, journal, node, run, token, trust_domain};

const FORMAT_1: &str = include_str!("../fixtures/format-1.tsv");
const FORMAT_2: &str = include_str!("../fixtures/format-2.tsv");
const FORMAT_3: &str = include_str!("../fixtures/format-3.tsv");
const SERVER_ID: &str = "server-1";
const META_KEY: &[u8] = b"mstore";

fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' '..=b'~' if byte != b'\\' => text.push(char::from(byte)),
            _ => write!(text, "\\x{byte:02x}").unwrap(),
        }
    }
    text
}

fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend(rest.bytes());
    }
    bytes
}

/// A directory with a sled database of these rows.
fn database(rows: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let db = sled::open(dir.path()).unwrap();
    for (key, row) in rows {
        db.insert(key, row).unwrap();
    }
    db.flush().unwrap();
    dir
}

fn rows(fixture: &str) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    fixture
        .lines()
        .map(|line| line.split_once('\t').unwrap())
        .map(|(key, row)| (unescape(key), unescape(row)))
}

fn open(dir: &Path) -> SledStore {
    SledStore::open(dir, &SledConfig::default()).unwrap()
}

/// The values of the fixtures; do not change them.
fn commits() -> [Commit; 4] {
    let mut long = node("long");
    long.agent_version = "0123456789".repeat(700);
    [
        Commit::default()
            .put(Record::Entry(entry("e1", 1)))
            .put(Record::Entry(entry("e2", 2)))
            .change(ChangeKind::Entry(entry_id("e1")))
            .change(ChangeKind::Entry(entry_id("e2")))
            .audit(draft("r1"))
            .audit(draft("r2")),
        Commit::default()
            .put(Record::Node(node("a")))
            .put(Record::Node(long))
            .put(Record::Token(token("00ff")))
            .change(ChangeKind::Node(node("a").id)),
        Commit::default()
            .put(Record::Bundle(bundle("example.org", 7)))
            .put(Record::Journal(journal(SERVER_ID, KeyPurpose::X509Ca, 'a')))
            .put(Record::Journal(journal(SERVER_ID, KeyPurpose::JwtSigner, 'b')))
            .change(ChangeKind::Bundle(trust_domain("example.org")))
            .audit(draft("r3")),
        Commit::default()
            .put(Record::Class(class("researcher")))
            .put(Record::Run(run(1)))
            .put(Record::RunPlace(class("researcher").name, 3, run(1).id))
            .change(ChangeKind::Class(class("researcher").name))
            .change(ChangeKind::Run(run(1).id)),
    ]
}

#[tokio::test]
async fn values_of_every_format_are_read() {
    for fixture in [FORMAT_1, FORMAT_2] {
        let dir = database(rows(fixture));
        read_all(&open(dir.path()), Revision(3)).await;
        go_on(dir.path()).await;
    }
    let dir = database(rows(FORMAT_3));
    let store = open(dir.path());
    read_all(&store, Revision(4)).await;
    let found = store.class(&class("researcher").name).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (class("researcher"), Revision(4)));
    let found = store.run(&run(1).id).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (run(1), Revision(4)));
    let place = Expect::Absent(Key::ClassId(class("researcher").id));
    assert!(store.commit(Commit::default().expect(place)).await.is_err());
    drop(store);
    go_on(dir.path()).await;
}

async fn read_all(store: &SledStore, upto: Revision) {
    assert_eq!(store.server_id(), SERVER_ID);
    assert_eq!(*store.revisions().borrow(), upto);

    let found = store.entry(&entry_id("e1")).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (entry("e1", 1), Revision(1)));
    assert_eq!(store.entries(None, 10).await.unwrap().len(), 2);
    let holder = store.entry_by_shape(&entry("any", 2).shape()).await.unwrap();
    assert_eq!(holder, Some(entry_id("e2")));

    let found = store.node(&node("a").id).await.unwrap().unwrap();
    assert_eq!((found.value, found.revision), (node("a"), Revision(2)));
    let long = store.node(&node("long").id).await.unwrap().unwrap();
    assert_eq!(long.value.agent_version, "0123456789".repeat(700));
    let found = store.token(&token("00ff").hash).await.unwrap().unwrap();
    assert_eq!(found.value, token("00ff"));

    let bundles = store.bundles().await.unwrap();
    assert_eq!(bundles.first().unwrap().value, bundle("example.org", 7));
    let rows: Vec<_> = store
        .journal(SERVER_ID)
        .await
        .unwrap()
        .into_iter()
        .map(|row| row.value)
        .collect();
    let expected = [
        journal(SERVER_ID, KeyPurpose::X509Ca, 'a'),
        journal(SERVER_ID, KeyPurpose::JwtSigner, 'b'),
    ];
    assert_eq!(rows, expected);

    let changes = store.changes(Revision(0), 10).await.unwrap().unwrap();
    let change = |revision, kind| Change {
        revision: Revision(revision),
        kind,
    };
    let expected = [
        change(1, ChangeKind::Entry(entry_id("e1"))),
        change(1, ChangeKind::Entry(entry_id("e2"))),
        change(2, ChangeKind::Node(node("a").id)),
        change(3, ChangeKind::Bundle(trust_domain("example.org"))),
    ];
    assert!(changes.starts_with(&expected), "{changes:?}");
    let records = store.audit_records(1, 10).await.unwrap();
    let ids: Vec<_> = records
        .iter()
        .map(|record| record.draft.request_id.as_str())
        .collect();
    assert_eq!(ids, ["r1", "r2", "r3"]);
    assert_eq!(records.first().unwrap().draft, draft("r1"));
}

async fn go_on(dir: &Path) {
    let store = open(dir);
    let before = *store.revisions().borrow();
    let next = store.commit(Commit::default().audit(draft("r4"))).await.unwrap();
    assert_eq!(next, Revision(before.0 + 1));
    // What is written now, the release before cannot read; it has to be told.
    drop(store);
    assert!(dump(dir).contains("\"format\":3"));
}

/// A value that is written in another form than the fixture's needs a new version of its kind and a new fixture.
#[tokio::test]
async fn this_release_writes_what_its_fixture_holds() {
    let meta = rows(FORMAT_3).filter(|(key, _)| key == META_KEY);
    let dir = database(meta);
    let store = open(dir.path());
    for commit in commits() {
        store.commit(commit).await.unwrap();
    }
    drop(store);
    let written = dump(dir.path());
    assert!(
        written == FORMAT_3,
        "the stored form has changed; this release writes\n{written}"
    );
}

#[tokio::test]
async fn a_new_store_begins_as_the_fixture_does() {
    let dir = tempfile::tempdir().unwrap();
    let server_id = open(dir.path()).server_id().to_owned();
    let begun = dump(dir.path()).replace(&server_id, SERVER_ID);
    let meta = FORMAT_3.lines().find(|line| line.starts_with("mstore"));
    assert_eq!(begun.trim_end(), meta.unwrap());
}

/// Every row of a store that has been closed, as a fixture holds them.
fn dump(dir: &Path) -> String {
    // A thread of sled's may hold the file a moment longer than the store lives.
    fs::File::open(dir.join("db")).unwrap().lock().unwrap();
    let db = sled::open(dir).unwrap();
    let mut text = String::new();
    for row in db.iter() {
        let (key, row) = row.unwrap();
        writeln!(text, "{}\t{}", escape(&key), escape(&row)).unwrap();
    }
    text
}
