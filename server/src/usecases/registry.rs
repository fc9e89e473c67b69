//! Registration entries: create, update, delete. Reading is the index's work.
//!
//! Items of a batch stand or fall each by itself, as in SPIRE; those that stand share one commit.

mod patch;
mod rules;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;
use vouchsafe_identity::{ClassId, SpiffeId, TrustDomain};
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Entry, EntryId, Expect, Key, Record, SharedStore, StoreError, Versioned,
};

use super::Origin;
use super::classes::no_class_owns;
use crate::config::AssertedEntries;
use crate::index::Index;

pub use patch::EntryPatch;
pub(super) use rules::workload_id;
pub use rules::{RuleError, rests_on_asserted};

/// How often an update is tried anew when others change the same entry meanwhile.
const MAX_ATTEMPTS: usize = 16;

/// Why an entry was not made, changed or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The entry breaks a rule: the caller's fault.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// There is none with this id.
    #[error("entry `{0}` not found")]
    NotFound(EntryId),
    /// Another entry has the same parent, SPIFFE ID and selectors.
    #[error("similar entry already exists")]
    Similar(Option<Box<Entry>>),
    /// Another entry has the id that the caller chose.
    #[error("entry `{0}` already exists with another parent, SPIFFE ID or selectors")]
    IdTaken(EntryId),
    /// The id belongs to a class.
    #[error("spiffe_id `{0}` belongs to a class and its runs: no entry gives it")]
    OfClass(SpiffeId),
    /// Others kept changing the same entry.
    #[error("entry `{0}` is being changed by others: try again")]
    Busy(EntryId),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Creates, updates and deletes entries.
#[derive(Clone)]
pub struct Registry {
    trust_domain: TrustDomain,
    store: SharedStore,
    index: Arc<Index>,
    asserted: AssertedEntries,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({})", self.trust_domain)
    }
}

type Outcomes = Vec<Result<Entry, RegistryError>>;

impl Registry {
    /// The registry of a trust domain.
    pub fn new(
        trust_domain: TrustDomain,
        store: SharedStore,
        index: Arc<Index>,
        asserted: AssertedEntries,
    ) -> Self {
        Self {
            trust_domain,
            store,
            index,
            asserted,
        }
    }

    /// Creates entries; outcomes are in the order of the items.
    pub async fn create(&self, origin: &Origin, items: Vec<(Option<EntryId>, EntryPatch)>) -> Outcomes {
        let mut outcomes: Vec<Option<Result<Entry, RegistryError>>> = Vec::new();
        let mut pending: Vec<(usize, Entry)> = Vec::new();
        let mut later: Vec<(usize, Entry)> = Vec::new();
        let mut places = HashSet::new();
        for (place, (id, patch)) in items.into_iter().enumerate() {
            let first = self.first_revision(id.is_some());
            let made = match id.map_or_else(new_id, Ok) {
                Ok(id) => self.prepare(patch.into_new(id, origin.at, first)).await,
                Err(e) => Err(e),
            };
            match made {
                Ok(entry) => {
                    outcomes.push(None);
                    let fresh = places.insert(entry.shape()) & places.insert(entry.id.to_string());
                    if fresh { &mut pending } else { &mut later }.push((place, entry));
                }
                Err(refused) => outcomes.push(Some(Err(refused))),
            }
        }
        for (place, outcome) in self.create_together(origin, pending).await {
            set(&mut outcomes, place, outcome);
        }
        for item in later {
            for (place, outcome) in self.create_together(origin, vec![item]).await {
                set(&mut outcomes, place, outcome);
            }
        }
        outcomes.into_iter().flatten().collect()
    }

    /// The revision number of a new entry. An id that its caller chose may have been another entry's, and agents tell the two
    /// by revision number and second: so it begins with the store's revision, which is past all numbers of that other
    /// one, since each update of an entry is a revision of the store.
    fn first_revision(&self, chosen: bool) -> i64 {
        match chosen {
            true => i64::try_from(self.store.revisions().borrow().0).unwrap_or(i64::MAX),
            false => 0,
        }
    }

    /// Updates the given fields of entries; outcomes are in the order of the items.
    pub async fn update(&self, origin: &Origin, items: Vec<(EntryId, EntryPatch)>) -> Outcomes {
        let mut outcomes = Vec::with_capacity(items.len());
        for (id, patch) in items {
            outcomes.push(self.update_one(origin, &id, &patch).await);
        }
        outcomes
    }

    /// Deletes entries; outcomes are in the order of the ids.
    pub async fn delete(&self, origin: &Origin, ids: Vec<EntryId>) -> Vec<Result<(), RegistryError>> {
        let mut outcomes: HashMap<EntryId, Result<(), RegistryError>> = HashMap::new();
        let mut left: Vec<EntryId> = ids.clone();
        left.sort();
        left.dedup();
        for _ in 0..MAX_ATTEMPTS {
            let mut commit = Commit::default();
            for id in std::mem::take(&mut left) {
                match self.store.entry(&id).await {
                    Ok(Some(found)) => {
                        let key = Key::Entry(id.clone());
                        commit = commit
                            .expect(Expect::At(key.clone(), found.revision))
                            .delete(key)
                            .change(ChangeKind::Entry(id.clone()))
                            .audit(origin.change("entry.delete", facts(&found.value)));
                        left.push(id);
                    }
                    Ok(None) => {
                        outcomes.insert(id.clone(), Err(RegistryError::NotFound(id)));
                    }
                    Err(e) => {
                        outcomes.insert(id, Err(e.into()));
                    }
                }
            }
            if left.is_empty() {
                break;
            }
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    outcomes.extend(left.drain(..).map(|id| (id, Ok(()))));
                    break;
                }
                Err(CommitError::Conflict(_)) => {}
                Err(CommitError::Store(e)) => {
                    outcomes.extend(left.drain(..).map(|id| (id, Err(e.clone().into()))));
                    break;
                }
                Err(_) => {}
            }
        }
        // An id that is named twice is deleted once; the second naming finds nothing.
        ids.into_iter()
            .map(|id| {
                let again = Err(RegistryError::NotFound(id.clone()));
                match outcomes.insert(id.clone(), again) {
                    Some(outcome) => outcome,
                    None => Err(RegistryError::Busy(id)),
                }
            })
            .collect()
    }

    /// Checks an entry that is to be written.
    async fn prepare(&self, entry: Result<Entry, RuleError>) -> Result<Entry, RegistryError> {
        let entry = entry?;
        rules::check(&self.trust_domain, &entry)?;
        for domain in &entry.federates_with {
            if self.store.bundle(domain).await?.is_none() {
                return Err(RuleError::NoBundle(domain.clone()).into());
            }
        }
        if rests_on_asserted(&entry) {
            match self.asserted {
                AssertedEntries::Allow => {}
                AssertedEntries::Warn => tracing::warn!(
                    entry_id = %entry.id,
                    spiffe_id = %entry.spiffe_id,
                    "the entry rests on selectors that a process can arrange itself"
                ),
                AssertedEntries::Refuse => return Err(RuleError::AssertedOnly.into()),
            }
        }
        Ok(entry)
    }

    /// Writes new entries in one commit; those whose place is taken drop out, and the others are tried again.
    async fn create_together(
        &self,
        origin: &Origin,
        mut pending: Vec<(usize, Entry)>,
    ) -> Vec<(usize, Result<Entry, RegistryError>)> {
        let mut outcomes = Vec::with_capacity(pending.len());
        while !pending.is_empty() {
            let mut commit = Commit::default();
            for (_, entry) in &pending {
                commit.expect.extend(no_class_owns(&entry.spiffe_id));
                commit = commit
                    .expect(Expect::Absent(Key::EntryShape(entry.shape())))
                    .expect(Expect::Absent(Key::Entry(entry.id.clone())))
                    .put(Record::Entry(entry.clone()))
                    .change(ChangeKind::Entry(entry.id.clone()))
                    .audit(origin.change("entry.create", facts(entry)));
            }
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    outcomes.extend(pending.drain(..).map(|(place, entry)| (place, Ok(entry))));
                }
                Err(CommitError::Conflict(key)) => {
                    let hit = pending.iter().position(|(_, entry)| owns(entry, &key));
                    let Some(hit) = hit else {
                        let odd =
                            StoreError::Corrupt(format!("{key} conflicts, and no entry of the batch has it"));
                        outcomes.extend(
                            pending
                                .drain(..)
                                .map(|(place, _)| (place, Err(odd.clone().into()))),
                        );
                        break;
                    };
                    let (place, entry) = pending.remove(hit);
                    let why = match key {
                        Key::ClassId(_) => RegistryError::OfClass(entry.spiffe_id),
                        _ => self.taken(&entry).await,
                    };
                    outcomes.push((place, Err(why)));
                }
                Err(CommitError::Store(e)) => {
                    outcomes.extend(pending.drain(..).map(|(place, _)| (place, Err(e.clone().into()))));
                }
                Err(other) => {
                    let e = StoreError::Io(other.to_string());
                    outcomes.extend(pending.drain(..).map(|(place, _)| (place, Err(e.clone().into()))));
                }
            }
        }
        outcomes
    }

    /// Agents take an entry of a known revision for the one that they have. They may have one that a lost server made of
    /// it after the backup.
    fn least_revision(&self) -> i64 {
        let leap = self.store.restored().map(vouchsafe_store::RestoreMark::leap);
        i64::try_from(leap.unwrap_or_default()).unwrap_or_default()
    }

    async fn update_one(
        &self,
        origin: &Origin,
        id: &EntryId,
        patch: &EntryPatch,
    ) -> Result<Entry, RegistryError> {
        for _ in 0..MAX_ATTEMPTS {
            let Some(Versioned { value, revision }) = self.store.entry(id).await? else {
                return Err(RegistryError::NotFound(id.clone()));
            };
            let entry = self
                .prepare(Ok(patch.clone().onto(value, self.least_revision())))
                .await?;
            let mut commit = Commit::default()
                .expect(Expect::At(Key::Entry(id.clone()), revision))
                .put(Record::Entry(entry.clone()))
                .change(ChangeKind::Entry(id.clone()))
                .audit(origin.change("entry.update", facts(&entry)));
            commit.expect.extend(no_class_owns(&entry.spiffe_id));
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    return Ok(entry);
                }
                Err(CommitError::Conflict(Key::EntryShape(shape))) => return Err(self.similar(&shape).await),
                Err(CommitError::Conflict(Key::ClassId(_))) => {
                    return Err(RegistryError::OfClass(entry.spiffe_id));
                }
                Err(CommitError::Store(e)) => return Err(e.into()),
                Err(_) => {}
            }
        }
        Err(RegistryError::Busy(id.clone()))
    }

    /// Why there is no room for a new entry.
    async fn taken(&self, entry: &Entry) -> RegistryError {
        match self.similar(&entry.shape()).await {
            RegistryError::Similar(None) => RegistryError::IdTaken(entry.id.clone()),
            found => found,
        }
    }

    async fn similar(&self, shape: &str) -> RegistryError {
        let found = match self.store.entry_by_shape(shape).await {
            Ok(Some(id)) => self.store.entry(&id).await,
            Ok(None) => Ok(None),
            Err(e) => Err(e),
        };
        match found {
            Ok(found) => RegistryError::Similar(found.map(|row| Box::new(row.value))),
            Err(e) => e.into(),
        }
    }
}

/// An alias for a node: the entry by which an agent gets what is registered under `alias`.
pub(super) fn alias_entry(
    agent: &SpiffeId,
    alias: SpiffeId,
    origin: &Origin,
) -> Result<Entry, RegistryError> {
    let selector =
        vouchsafe_identity::Selector::new("spiffe_id", agent.as_str()).map_err(RuleError::Selector)?;
    let patch = EntryPatch {
        spiffe_id: Some(alias),
        parent_id: Some(agent.clone()),
        selectors: Some(std::collections::BTreeSet::from([selector])),
        ..EntryPatch::default()
    };
    Ok(patch.into_new(new_id()?, origin.at, 0)?)
}

/// Ids in the order in which they are made, so that the store writes new entries side by side.
fn new_id() -> Result<EntryId, RegistryError> {
    EntryId::new(&Uuid::now_v7().to_string()).map_err(|e| RuleError::Id(e).into())
}

fn owns(entry: &Entry, key: &Key) -> bool {
    match key {
        Key::Entry(id) => *id == entry.id,
        Key::EntryShape(shape) => *shape == entry.shape(),
        Key::ClassId(class) => ClassId::owning(&entry.spiffe_id).as_ref() == Some(class),
        _ => false,
    }
}

/// What records say of an entry.
pub(super) fn facts(entry: &Entry) -> [(&'static str, String); 5] {
    let selectors: Vec<String> = entry.selectors.iter().map(ToString::to_string).collect();
    [
        ("entry_id", entry.id.to_string()),
        ("spiffe_id", entry.spiffe_id.to_string()),
        ("parent_id", entry.parent_id.to_string()),
        ("selectors", selectors.join(" ")),
        ("asserted_only", rests_on_asserted(entry).to_string()),
    ]
}

fn set<T>(outcomes: &mut [Option<T>], place: usize, outcome: T) {
    if let Some(slot) = outcomes.get_mut(place) {
        *slot = Some(outcome);
    }
}
