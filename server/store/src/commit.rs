//! The one door for writes.

use std::fmt;
use std::sync::Arc;

use vouchsafe_audit::Draft;
use vouchsafe_identity::{Bundle, ClassId, ClassName, RunId, SpiffeId, TrustDomain};

use crate::{
    ChangeKind, Class, Entry, EntryId, JoinToken, JournalKey, JournalRow, Node, Revision, Revocation, Run,
    StoreError, TokenHash,
};

/// Names one stored value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key {
    /// A registration entry.
    Entry(EntryId),
    /// The place that an entry's [`Entry::shape`] takes; kept by the store with the entry.
    EntryShape(String),
    /// An attested node.
    Node(SpiffeId),
    /// A join token.
    Token(TokenHash),
    /// A bundle.
    Bundle(TrustDomain),
    /// A slot of the key journal.
    Journal(JournalKey),
    /// A class.
    Class(ClassName),
    /// The place that a class's id takes; kept by the store with the class.
    ClassId(ClassId),
    /// A run.
    Run(RunId),
    /// One of the places for live runs that a class has, from 1.
    RunPlace(ClassName, u32),
    /// The revocation of a run's SVIDs.
    Revocation(RunId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(id) => write!(f, "entry `{id}`"),
            Self::EntryShape(_) => f.write_str("an entry with the same parent, SPIFFE ID and selectors"),
            Self::Node(id) => write!(f, "agent `{id}`"),
            Self::Token(_) => f.write_str("join token"),
            Self::Bundle(td) => write!(f, "bundle of `{td}`"),
            Self::Journal(key) => write!(f, "key slot {}/{}", key.purpose.name(), key.slot),
            Self::Class(name) => write!(f, "class `{name}`"),
            Self::ClassId(id) => write!(f, "the class with id `{id}`"),
            Self::Run(id) => write!(f, "run `{id}`"),
            Self::RunPlace(class, place) => write!(f, "place {place} of class `{class}`"),
            Self::Revocation(id) => write!(f, "revocation of run `{id}`"),
        }
    }
}

/// A value to write.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record {
    /// A registration entry; its shape's place is written with it (and the old one freed).
    Entry(Entry),
    /// An attested node.
    Node(Node),
    /// A join token.
    Token(JoinToken),
    /// A bundle.
    Bundle(Bundle),
    /// A slot of the key journal.
    Journal(JournalRow),
    /// A class; its id's place is written with it.
    Class(Class),
    /// A run.
    Run(Run),
    /// Which run has a place.
    RunPlace(ClassName, u32, RunId),
    /// The revocation of a run's SVIDs.
    Revocation(Revocation),
}

impl Record {
    /// The key under which the value stands.
    pub fn key(&self) -> Key {
        match self {
            Self::Entry(entry) => Key::Entry(entry.id.clone()),
            Self::Node(node) => Key::Node(node.id.clone()),
            Self::Token(token) => Key::Token(token.hash.clone()),
            Self::Bundle(bundle) => Key::Bundle(bundle.trust_domain.clone()),
            Self::Journal(row) => Key::Journal(row.key.clone()),
            Self::Class(class) => Key::Class(class.name.clone()),
            Self::Run(run) => Key::Run(run.id),
            Self::RunPlace(class, place, _) => Key::RunPlace(class.clone(), *place),
            Self::Revocation(revocation) => Key::Revocation(revocation.run),
        }
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mutation {
    /// Writes the value, new or over the old one.
    Put(Box<Record>),
    /// Removes the value; that it is not there is no error (say so in `expect` if it must be).
    Delete(Key),
}

/// What must hold for the commit to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Nothing stands under the key.
    Absent(Key),
    /// The key was last written at this revision.
    At(Key, Revision),
}

impl Expect {
    /// The key that is meant.
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::At(key, _) => key,
        }
    }
}

/// An atomic write: expectations, values, change log and audit together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// All must hold, or nothing is written.
    pub expect: Vec<Expect>,
    /// What is written, in order.
    pub mutations: Vec<Mutation>,
    /// What readers of the change log are told.
    pub changes: Vec<ChangeKind>,
    /// What the audit log gets.
    pub audit: Vec<Arc<Draft>>,
}

impl Commit {
    /// Adds an expectation.
    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect.push(expect);
        self
    }

    /// Adds a value to write.
    #[must_use]
    pub fn put(mut self, record: Record) -> Self {
        self.mutations.push(Mutation::Put(Box::new(record)));
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.mutations.push(Mutation::Delete(key));
        self
    }

    /// Adds a change for the change log.
    #[must_use]
    pub fn change(mut self, kind: ChangeKind) -> Self {
        self.changes.push(kind);
        self
    }

    /// Adds a record for the audit log.
    #[must_use]
    pub fn audit(mut self, draft: Draft) -> Self {
        self.audit.push(Arc::new(draft));
        self
    }
}

/// Why a commit was not made.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// An expectation did not hold; nothing was written.
    #[error("{0} is not as expected")]
    Conflict(Key),
    /// The write failed; whether it is there shows after a restart.
    #[error(transparent)]
    Store(#[from] StoreError),
}
