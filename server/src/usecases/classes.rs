//! Classes: create, update, delete. Reading is the index's work.
//!
//! The ids of classes and of their runs belong to classes alone: no entry gives one. The store keeps a place for each
//! class's id, which every new entry expects to be free.

mod rules;

use std::sync::Arc;

use vouchsafe_identity::{ClassId, ClassName, SpiffeId, TrustDomain};
use vouchsafe_store::class::{ClassSpec, Isolation};
use vouchsafe_store::run::EndReason;
use vouchsafe_store::{
    ChangeKind, Class, Commit, CommitError, Expect, Key, Record, SharedStore, StoreError, Versioned,
};

use super::Origin;
use super::runs::Runs;
use crate::index::{Index, RunFilter};

pub use rules::{
    ClassRuleError, DEFAULT_MAX_RUNS, DEFAULT_MAX_TTL_SECONDS, DEFAULT_OFFLINE_FOR_SECONDS, MAX_MAX_RUNS,
    MAX_MAX_TTL_SECONDS,
};

/// How often a change is tried anew when others change the same class meanwhile.
const MAX_ATTEMPTS: usize = 16;

/// Why a class was not made, changed or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClassError {
    /// The class breaks a rule: the caller's fault.
    #[error(transparent)]
    Rule(#[from] ClassRuleError),
    /// There is none of this name.
    #[error("class `{0}` not found")]
    NotFound(ClassName),
    /// There is one of this name.
    #[error("class `{0}` already exists: update it, or choose another name")]
    Exists(ClassName),
    /// Another class has the id.
    #[error("another class has the id `{0}`")]
    IdTaken(ClassId),
    /// An entry gives an id that the class would own.
    #[error(
        "an entry gives the id `{entry}`, which would belong to class id `{class}`: delete that entry first"
    )]
    EntryWithin {
        /// The class's id.
        class: ClassId,
        /// The entry's.
        entry: SpiffeId,
    },
    /// It is not the version that the caller knows.
    #[error("class `{name}` is at version {version} by now: look at it, then update that one")]
    Changed {
        /// Which class.
        name: ClassName,
        /// Its version.
        version: u64,
    },
    /// Runs of it live.
    #[error(
        "{runs} runs of class `{name}` live: wait for their end, or delete it with `force`, which kills them"
    )]
    InUse {
        /// Which class.
        name: ClassName,
        /// How many runs.
        runs: usize,
    },
    /// Others kept changing it.
    #[error("class `{0}` is being changed or launched by others: try again")]
    Busy(ClassName),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Creates, updates and deletes classes.
#[derive(Clone)]
pub struct Classes {
    trust_domain: TrustDomain,
    store: SharedStore,
    index: Arc<Index>,
    runs: Runs,
}

impl std::fmt::Debug for Classes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Classes({})", self.trust_domain)
    }
}

impl Classes {
    /// The classes of a trust domain.
    pub fn new(trust_domain: TrustDomain, store: SharedStore, index: Arc<Index>, runs: Runs) -> Self {
        Self {
            trust_domain,
            store,
            index,
            runs,
        }
    }

    /// Creates a class.
    ///
    /// # Errors
    /// [`ClassError`]; then there is none.
    pub async fn create(
        &self,
        origin: &Origin,
        name: ClassName,
        id: ClassId,
        spec: ClassSpec,
    ) -> Result<Class, ClassError> {
        let id = id.within(&self.trust_domain).map_err(ClassRuleError::from)?;
        rules::check(&self.trust_domain, &spec)?;
        self.no_entry_within(&id)?;
        let at = origin.at.replace_nanosecond(0).unwrap_or(origin.at);
        let class = Class {
            name,
            id,
            version: 1,
            spec,
            created_at: at,
            updated_at: at,
        };
        let commit = Commit::default()
            .expect(Expect::Absent(Key::Class(class.name.clone())))
            .expect(Expect::Absent(Key::ClassId(class.id.clone())))
            .put(Record::Class(class.clone()))
            .change(ChangeKind::Class(class.name.clone()))
            .audit(origin.change("class.create", facts(&class)));
        match self.store.commit(commit).await {
            Ok(revision) => self.index.wait_for(revision).await,
            Err(CommitError::Store(e)) => return Err(e.into()),
            Err(CommitError::Conflict(Key::Class(name))) => return Err(ClassError::Exists(name)),
            Err(_) => return Err(ClassError::IdTaken(class.id)),
        }
        // No entry comes any more; one that came while we looked is in the index by now.
        if let Err(refused) = self.no_entry_within(&class.id) {
            self.delete(origin, &class.name, true).await?;
            return Err(refused);
        }
        Ok(class)
    }

    fn no_entry_within(&self, class: &ClassId) -> Result<(), ClassError> {
        match self.index.entry_within(class) {
            None => Ok(()),
            Some(entry) => Err(ClassError::EntryWithin {
                class: class.clone(),
                entry,
            }),
        }
    }

    /// Replaces what the operator says of a class; `version` is the one that the caller knows, 0 any.
    ///
    /// # Errors
    /// [`ClassError`]; then nothing has changed.
    pub async fn update(
        &self,
        origin: &Origin,
        name: &ClassName,
        version: u64,
        spec: ClassSpec,
    ) -> Result<Class, ClassError> {
        rules::check(&self.trust_domain, &spec)?;
        for _ in 0..MAX_ATTEMPTS {
            let Versioned { value: old, revision } = self.stored(name).await?;
            if version != 0 && version != old.version {
                return Err(ClassError::Changed {
                    name: name.clone(),
                    version: old.version,
                });
            }
            let class = Class {
                version: old.version.saturating_add(1),
                spec: spec.clone(),
                updated_at: origin.at.replace_nanosecond(0).unwrap_or(origin.at),
                ..old
            };
            let commit = Commit::default()
                .expect(Expect::At(Key::Class(name.clone()), revision))
                .put(Record::Class(class.clone()))
                .change(ChangeKind::Class(name.clone()))
                .audit(origin.change("class.update", facts(&class)));
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    return Ok(class);
                }
                Err(CommitError::Store(e)) => return Err(e.into()),
                Err(_) => {}
            }
        }
        Err(ClassError::Busy(name.clone()))
    }

    /// Deletes a class; with `force` the runs that live are killed. How many.
    ///
    /// # Errors
    /// [`ClassError`]; then it is there, and its runs live.
    pub async fn delete(&self, origin: &Origin, name: &ClassName, force: bool) -> Result<usize, ClassError> {
        let filter = RunFilter {
            class: Some(name.clone()),
            ..RunFilter::default()
        };
        for _ in 0..MAX_ATTEMPTS {
            let Versioned {
                value: class,
                revision,
            } = self.stored(name).await?;
            let live = self.index.runs(&filter, None, usize::MAX).rows;
            if !live.is_empty() && !force {
                return Err(ClassError::InUse {
                    name: name.clone(),
                    runs: live.len(),
                });
            }
            let mut commit = Commit::default()
                .expect(Expect::At(Key::Class(name.clone()), revision))
                .delete(Key::Class(name.clone()))
                .change(ChangeKind::Class(name.clone()))
                .audit(origin.change("class.delete", facts(&class)));
            // A run that is admitted meanwhile takes one of these.
            for place in self.index.free_places(name, class.spec.max_runs) {
                commit = commit.expect(Expect::Absent(Key::RunPlace(name.clone(), place)));
            }
            for run in &live {
                let reason = EndReason::Killed(origin.principal.to_string());
                commit = self.runs.ending(commit, origin, run, reason);
            }
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    return Ok(live.len());
                }
                Err(CommitError::Store(e)) => return Err(e.into()),
                Err(_) => self.runs.caught_up().await,
            }
        }
        Err(ClassError::Busy(name.clone()))
    }

    async fn stored(&self, name: &ClassName) -> Result<Versioned<Class>, ClassError> {
        let found = self.store.class(name).await?;
        found.ok_or_else(|| ClassError::NotFound(name.clone()))
    }
}

/// What an entry that gives this id expects: that it belongs to no class.
pub(super) fn no_class_owns(id: &SpiffeId) -> Option<Expect> {
    ClassId::owning(id).map(|class| Expect::Absent(Key::ClassId(class)))
}

fn facts(class: &Class) -> [(&'static str, String); 5] {
    [
        ("class", class.name.to_string()),
        ("class_id", class.id.to_string()),
        ("class_version", class.version.to_string()),
        (
            "isolation",
            match class.spec.isolation {
                Isolation::None => "none: children can read the memory of its runs".to_owned(),
                isolation => isolation.name().to_owned(),
            },
        ),
        (
            "executable_sha256",
            class.spec.program.executable.sha256.to_string(),
        ),
    ]
}
