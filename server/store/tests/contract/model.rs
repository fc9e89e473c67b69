//! Random commits on both adapters and on a model that fits on a page: equal answers, equal states.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Entry, Expect, Key, KeyPurpose, MemoryStore, Mutation, Record, Revision,
    SharedStore, SledConfig, SledStore,
};

use crate::samples::{bundle, class, draft, entry, entry_id, journal, node, revocation, run as a_run, token};

/// One step of a run; keys come from a small stock, so that they meet.
#[derive(Debug, Clone)]
enum Step {
    Commit {
        expect: Vec<(Key, Wanted)>,
        mutations: Vec<Mutation>,
        changes: usize,
        audit: usize,
    },
    /// Closes the sled store and opens it again.
    Restart,
}

#[derive(Debug, Clone)]
enum Wanted {
    Absent,
    Current,
    Wrong(u64),
}

#[derive(Debug, Default)]
struct Model {
    values: BTreeMap<Key, (Record, Revision)>,
    revision: Revision,
    changed: Vec<Revision>,
    audit: u64,
}

impl Model {
    fn revision_of(&self, key: &Key) -> Option<Revision> {
        match key {
            Key::EntryShape(shape) => self.holder(shape).map(|(_, revision)| revision),
            _ => self.values.get(key).map(|(_, revision)| *revision),
        }
    }

    fn holder(&self, shape: &str) -> Option<(&Entry, Revision)> {
        self.values.values().find_map(|(record, revision)| match record {
            Record::Entry(entry) if entry.shape() == shape => Some((entry, *revision)),
            _ => None,
        })
    }

    fn commit(&mut self, commit: &Commit) -> Result<Revision, Key> {
        for expect in &commit.expect {
            let wanted = match expect {
                Expect::Absent(_) => None,
                Expect::At(_, revision) => Some(*revision),
            };
            if self.revision_of(expect.key()) != wanted {
                return Err(expect.key().clone());
            }
        }
        let before = self.values.clone();
        let revision = Revision(self.revision.0 + 1);
        for mutation in &commit.mutations {
            match mutation {
                Mutation::Put(record) => {
                    if let Record::Entry(entry) = record.as_ref()
                        && let Some((holder, _)) = self.holder(&entry.shape())
                        && holder.id != entry.id
                    {
                        self.values = before;
                        return Err(Key::EntryShape(entry.shape()));
                    }
                    self.values
                        .insert(record.key(), (record.as_ref().clone(), revision));
                }
                Mutation::Delete(key) => {
                    self.values.remove(key);
                }
            }
        }
        self.revision = revision;
        self.changed.extend(commit.changes.iter().map(|_| revision));
        self.audit += u64::try_from(commit.audit.len()).unwrap();
        Ok(revision)
    }
}

/// Everything that a store holds, read through its readers.
async fn dump(store: &SharedStore) -> BTreeMap<Key, (Record, Revision)> {
    let mut all = BTreeMap::new();
    let mut add = |record: Record, revision| {
        assert!(all.insert(record.key(), (record, revision)).is_none());
    };
    for entry in store.entries(None, usize::MAX).await.unwrap() {
        add(Record::Entry(entry.value), entry.revision);
    }
    for node in store.nodes(None, usize::MAX).await.unwrap() {
        add(Record::Node(node.value), node.revision);
    }
    for token in store.tokens(None, usize::MAX).await.unwrap() {
        add(Record::Token(token.value), token.revision);
    }
    for bundle in store.bundles().await.unwrap() {
        add(Record::Bundle(bundle.value), bundle.revision);
    }
    for row in store.journal("server-1").await.unwrap() {
        add(Record::Journal(row.value), row.revision);
    }
    for class in store.classes(None, usize::MAX).await.unwrap() {
        add(Record::Class(class.value), class.revision);
    }
    for run in store.runs(None, usize::MAX).await.unwrap() {
        add(Record::Run(run.value), run.revision);
    }
    for row in store.revocations(None, usize::MAX).await.unwrap() {
        add(Record::Revocation(row.value), row.revision);
    }
    all
}

async fn check(store: &SharedStore, model: &Model) {
    assert_eq!(dump(store).await, model.values);
    assert_eq!(*store.revisions().borrow(), model.revision);
    assert_eq!(store.audit_head().await.unwrap(), model.audit);
    let records = store.audit_records(1, usize::MAX).await.unwrap();
    let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (1..=model.audit).collect::<Vec<_>>());
    let changes = store.changes(Revision(0), usize::MAX).await.unwrap().unwrap();
    let changed: Vec<Revision> = changes.iter().map(|change| change.revision).collect();
    assert_eq!(changed, model.changed);
    for uid in 0..UIDS {
        let shape = entry("any", uid).shape();
        let holder = model.holder(&shape).map(|(entry, _)| entry.id.clone());
        assert_eq!(store.entry_by_shape(&shape).await.unwrap(), holder);
    }
}

const UIDS: u32 = 4;

fn records() -> impl Strategy<Value = Record> {
    let lengths = prop_oneof![Just(0), Just(2500), Just(3500), Just(20_000)];
    prop_oneof![
        4 => (0..4, 0..UIDS, lengths.clone()).prop_map(|(id, uid, hint_len)| {
            let mut entry = entry(&format!("e{id}"), uid);
            entry.hint = "h".repeat(hint_len);
            Record::Entry(entry)
        }),
        1 => (0..2, lengths).prop_map(|(name, version_len)| {
            let mut node = node(&format!("n{name}"));
            node.agent_version = "v".repeat(version_len);
            Record::Node(node)
        }),
        1 => (0..2).prop_map(|name| Record::Class(class(&format!("c{name}")))),
        1 => (0..2_u64).prop_map(|number| Record::Run(a_run(number))),
        1 => (0..2_u64).prop_map(|number| Record::Revocation(revocation(number))),
        1 => (0..2).prop_map(|hash| Record::Token(token(&format!("t{hash}")))),
        1 => (0..2, 0_u64..9).prop_map(|(td, seq)| Record::Bundle(bundle(&format!("b{td}.org"), seq))),
        1 => prop_oneof![Just('a'), Just('b')]
            .prop_map(|slot| Record::Journal(journal("server-1", KeyPurpose::X509Ca, slot))),
    ]
}

fn keys() -> impl Strategy<Value = Key> {
    prop_oneof![
        4 => records().prop_map(|record| record.key()),
        1 => (0..UIDS).prop_map(|uid| Key::EntryShape(entry("any", uid).shape())),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let wanted = prop_oneof![
        2 => Just(Wanted::Absent),
        5 => Just(Wanted::Current),
        1 => (0_u64..20).prop_map(Wanted::Wrong),
    ];
    let mutation = prop_oneof![
        3 => records().prop_map(|record| Mutation::Put(Box::new(record))),
        1 => records().prop_map(|record| Mutation::Delete(record.key())),
    ];
    let commit = (
        vec((keys(), wanted), 0..2),
        vec(mutation, 0..4),
        0_usize..3,
        0_usize..3,
    )
        .prop_map(|(expect, mutations, changes, audit)| Step::Commit {
            expect,
            mutations,
            changes,
            audit,
        });
    prop_oneof![12 => commit, 1 => Just(Step::Restart)]
}

/// The commit of a step, with expectations that speak of what the model holds now.
fn resolve(model: &Model, expect: Vec<(Key, Wanted)>, mutations: Vec<Mutation>) -> Commit {
    let expect = expect.into_iter().map(|(key, wanted)| match wanted {
        Wanted::Absent => Expect::Absent(key),
        Wanted::Wrong(revision) => Expect::At(key, Revision(revision)),
        Wanted::Current => match model.revision_of(&key) {
            Some(revision) => Expect::At(key, revision),
            None => Expect::Absent(key),
        },
    });
    Commit {
        expect: expect.collect(),
        mutations,
        ..Commit::default()
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let open = || -> SharedStore { Arc::new(SledStore::open(dir.path(), &SledConfig::default()).unwrap()) };
    let memory: SharedStore = Arc::new(MemoryStore::new("server-1"));
    let mut sled = Some(open());
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Restart => {
                drop(sled.take());
                sled = Some(open());
            }
            Step::Commit {
                expect,
                mutations,
                changes,
                audit,
            } => {
                let mut commit = resolve(&model, expect, mutations);
                commit.changes = vec![ChangeKind::Entry(entry_id("e0")); changes];
                commit.audit = std::iter::repeat_with(|| Arc::new(draft("r")))
                    .take(audit)
                    .collect();
                let expected = model.commit(&commit);
                for store in [&memory, sled.as_ref().unwrap()] {
                    let result = store.commit(commit.clone()).await.map_err(|error| match error {
                        CommitError::Conflict(key) => key,
                        other => unreachable!("{other}"),
                    });
                    assert_eq!(result, expected);
                }
            }
        }
    }
    check(&memory, &model).await;
    check(sled.as_ref().unwrap(), &model).await;
    drop(sled.take());
    check(&open(), &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_adapters_do_what_the_model_does(steps in vec(steps(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps));
    }
}
