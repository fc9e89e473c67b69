//! The one writer: checks expectations, counts revisions and audit records, keeps shapes unique.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_audit::Draft;
use vouchsafe_identity::ClassName;

use super::{Kv, Rows};
use crate::codec::{self, AuditRows, Head, Kind};
use crate::{
    Class, Commit, CommitError, Entry, EntryId, Expect, Key, Mutation, Record, Revision, StoreError,
};

/// Most revisions that one group prunes from the change log, so that no commit waits long for it.
const MAX_PRUNED: u64 = 256;
/// How long after a failed write the map is read anew, and again if that fails.
const MEND_EVERY: Duration = Duration::from_secs(1);

/// Whether a write that failed so may succeed later.
fn may_mend<K: Kv>(kv: &K, error: &StoreError) -> bool {
    let passing = matches!(
        error,
        StoreError::Full(_) | StoreError::ReadOnly(_) | StoreError::Io(_) | StoreError::Locked { .. }
    );
    passing && kv.can_reopen()
}

/// The writer's own state.
#[derive(Debug)]
pub(super) struct Writer {
    log_id: String,
    keep_changes: u64,
    durable: Head,
    /// Why nothing is written now, after a write that failed.
    closed: Option<Closed>,
    /// What the copy under way wants to know, while there is one: it holds the notes, and ends them when it lets go.
    copy: Weak<Touched>,
}

/// The keys that were written since they were last taken from here. Only the writer adds to it, and the copy whose it is
/// has the only other hold on it: nobody else can end it or take its keys.
#[derive(Debug, Default)]
pub(super) struct Touched(Mutex<Notes>);

#[derive(Debug)]
enum Notes {
    Keys(BTreeSet<Vec<u8>>),
    /// There were too many: whoever takes the copy is too slow.
    TooMany,
}

impl Default for Notes {
    fn default() -> Self {
        Self::Keys(BTreeSet::new())
    }
}

impl Touched {
    /// Most keys that are noted, some 100 bytes each: as many as are written in half a minute at full load.
    pub(super) const MOST: usize = 1 << 19;

    pub(super) fn add(&self, more: impl Iterator<Item = Vec<u8>>) {
        let mut notes = self.lock();
        if let Notes::Keys(keys) = &mut *notes {
            keys.extend(more);
            if keys.len() > Self::MOST {
                *notes = Notes::TooMany;
            }
        }
    }

    fn take(&self) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        self.with(std::mem::take)
    }

    /// Fails once there were too many.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.with(|_| ())
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<Vec<u8>>) -> T) -> Result<T, StoreError> {
        match &mut *self.lock() {
            Notes::Keys(keys) => Ok(act(keys)),
            Notes::TooMany => Err(StoreError::BackupOvertaken { most: Self::MOST }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Closed {
    why: StoreError,
    /// When the map may be read anew; never where only a new start of the process mends it.
    again_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(server_id: &str, head: Head, keep_changes: u64) -> Self {
        Self {
            log_id: format!("{server_id}.audit"),
            keep_changes,
            durable: head,
            closed: None,
            copy: Weak::new(),
        }
    }

    /// Notes which keys are written for as long as what this returns is kept.
    pub(super) fn begin_copy(&mut self) -> Result<Arc<Touched>, StoreError> {
        self.check_open()?;
        if self.copy.strong_count() > 0 {
            return Err(StoreError::BackupUnderWay);
        }
        let touched = Arc::default();
        self.copy = Arc::downgrade(&touched);
        Ok(touched)
    }

    /// The keys that were written since this was last asked for the same copy.
    pub(super) fn touched(&self, copy: &Touched) -> Result<BTreeSet<Vec<u8>>, StoreError> {
        // What is in the map after a failed write is not known to be durable.
        self.check_open()?;
        copy.take()
    }

    /// Where the counters stand, durable commits only.
    pub(super) const fn durable(&self) -> Head {
        self.durable
    }

    /// Makes those of `commits` durable that can be made, in order, and answers in order.
    ///
    /// `pruning` is told the new floor of the change log before anything below it goes. A failed
    /// write closes the writer: what is in the map is no longer known to be what is on the disk.
    pub(super) fn write<K: Kv>(
        &mut self,
        kv: &K,
        commits: Vec<Commit>,
        pruning: impl FnOnce(Revision),
    ) -> Vec<Result<Revision, CommitError>> {
        let count = commits.len();
        let refuse = |error: StoreError| vec![Err(CommitError::Store(error)); count];
        if let Err(full) = kv.check_room() {
            return refuse(full);
        }
        if let Err(closed) = self.mend(kv) {
            return refuse(closed);
        }
        let work = AssertUnwindSafe(|| self.write_group(kv, commits, pruning));
        match catch_unwind(work) {
            Ok(Ok((results, head))) => {
                self.durable = head;
                results
            }
            Ok(Err((results, error))) => {
                self.close(&error, may_mend(kv, &error));
                let failed = |result: Result<_, _>| result.and(Err(CommitError::Store(error.clone())));
                results.into_iter().map(failed).collect()
            }
            Err(_panic) => {
                let error = StoreError::Corrupt("the writer panicked".to_owned());
                self.close(&error, false);
                refuse(error)
            }
        }
    }

    /// Whether no write has failed that was not mended since.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        match &self.closed {
            Some(closed) => Err(closed.why.clone()),
            None => Ok(()),
        }
    }

    /// After a failed write, reads from the disk what is really there, and goes on from it.
    ///
    /// What the failed write was about may be there or not, as its callers were told. Of a failed *sync* nothing is
    /// tried again in this process ([`Kv::can_reopen`]).
    fn mend<K: Kv>(&mut self, kv: &K) -> Result<(), StoreError> {
        match &self.closed {
            Some(Closed {
                again_at: Some(at), ..
            }) if *at <= Instant::now() => {}
            _ => return self.check_open(),
        }
        match kv.reopen().and_then(|()| super::read_head(kv)) {
            Ok(head) if head.revision >= self.durable.revision => {
                tracing::info!(revision = head.revision.0, "the store takes writes again");
                self.durable = head;
                self.closed = None;
                Ok(())
            }
            Ok(head) => {
                let (found, known) = (head.revision.0, self.durable.revision.0);
                let why = format!("it ends at revision {found}, and {known} was acknowledged");
                self.close(&kv.damaged(&why), false);
                self.check_open()
            }
            Err(error) => {
                self.close(&error, may_mend(kv, &error));
                self.check_open()
            }
        }
    }

    fn close(&mut self, error: &StoreError, may_mend: bool) {
        let next = match may_mend {
            true => "it is tried again by itself",
            false => "mend the cause and start the server again",
        };
        tracing::error!(%error, next, "a write failed: the store takes no writes");
        self.closed = Some(Closed {
            why: match error {
                // What an operator can mend is told by its own name, also to those who come later.
                StoreError::Full(why) if may_mend => StoreError::Full(format!("{why}; {next}")),
                StoreError::ReadOnly(why) if may_mend => StoreError::ReadOnly(format!("{why}; {next}")),
                _ => StoreError::Closed(format!("{error}; {next}")),
            },
            again_at: may_mend.then(|| Instant::now() + MEND_EVERY),
        });
    }

    #[expect(clippy::type_complexity, reason = "the answers come with either outcome")]
    fn write_group<K: Kv>(
        &mut self,
        kv: &K,
        commits: Vec<Commit>,
        pruning: impl FnOnce(Revision),
    ) -> Result<(Vec<Result<Revision, CommitError>>, Head), (Vec<Result<Revision, CommitError>>, StoreError)>
    {
        let mut group = Group {
            kv,
            log_id: &self.log_id,
            head: self.durable,
            rows: Rows::new(),
        };
        let results: Vec<_> = commits.into_iter().map(|commit| group.stage(commit)).collect();
        if group.head == self.durable {
            return Ok((results, group.head));
        }
        let written = group.finish(self.keep_changes).and_then(|(rows, head)| {
            pruning(head.changes_floor);
            if let Some(copy) = self.copy.upgrade() {
                copy.add(rows.keys().filter(|key| Kind::is_kept(key)).cloned());
            }
            kv.apply(rows)?;
            kv.sync(head.revision)?;
            Ok(head)
        });
        match written {
            Ok(head) => Ok((results, head)),
            Err(error) => Err((results, error)),
        }
    }
}

/// Commits that will become durable together.
struct Group<'a, K> {
    kv: &'a K,
    log_id: &'a str,
    head: Head,
    rows: Rows,
}

impl<K: Kv> Group<'_, K> {
    /// Adds a commit to the group, or leaves the group as it was.
    fn stage(&mut self, commit: Commit) -> Result<Revision, CommitError> {
        let mut staged = Staged {
            group: self,
            head: self.head,
            rows: Rows::new(),
        };
        staged.check(&commit.expect)?;
        staged.head.revision.0 += 1;
        for mutation in commit.mutations {
            match mutation {
                Mutation::Put(record) => staged.put(&record)?,
                Mutation::Delete(key) => staged.delete(&key)?,
            }
        }
        if !commit.changes.is_empty() {
            let key = codec::numbered_key(Kind::Changes, staged.head.revision.0);
            staged.set(Kind::Changes, key, &commit.changes)?;
            staged.head.change_rows += 1;
        }
        staged.record(&commit.audit)?;
        let Staged { head, rows, .. } = staged;
        self.head = head;
        self.rows.extend(rows);
        Ok(head.revision)
    }

    /// All rows of the group, with what is pruned and the counters.
    fn finish(mut self, keep_changes: u64) -> Result<(Rows, Head), StoreError> {
        let excess = self.head.change_rows.saturating_sub(keep_changes);
        let from = Bound::Included(codec::numbered_key(Kind::Changes, 0));
        // Only what an earlier group wrote goes; the rest waits for the next group.
        let limit = usize::try_from(excess.min(MAX_PRUNED)).unwrap_or(0);
        for (key, row) in self.kv.range(from, Kind::Changes.end(), limit)? {
            self.head.changes_floor = codec::revision_of(Kind::Changes, &row)?;
            self.head.change_rows -= 1;
            self.rows.insert(key, None);
        }
        let head = codec::encode(Kind::Meta, self.head.revision, &self.head)?;
        self.rows.insert(codec::head_key(), Some(head));
        Ok((self.rows, self.head))
    }
}

/// One commit on top of its group.
struct Staged<'g, 'a, K> {
    group: &'g Group<'a, K>,
    head: Head,
    rows: Rows,
}

impl<K: Kv> Staged<'_, '_, K> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.rows.get(key).or_else(|| self.group.rows.get(key)) {
            Some(row) => Ok(row.clone()),
            None => self.group.kv.get(key),
        }
    }

    fn set<T: serde::Serialize>(&mut self, kind: Kind, key: Vec<u8>, value: &T) -> Result<(), StoreError> {
        self.group.kv.check_key(&key)?;
        let row = codec::encode(kind, self.head.revision, value)?;
        self.rows.insert(key, Some(row));
        Ok(())
    }

    fn record(&mut self, drafts: &[Arc<Draft>]) -> Result<(), StoreError> {
        let mut rows = AuditRows::new(self.head.revision);
        for draft in drafts {
            self.head.audit_seq += 1;
            let full = rows.add(self.group.log_id, self.head.audit_seq, draft)?;
            self.rows.extend(full.map(|(key, row)| (key, Some(row))));
        }
        self.rows.extend(rows.end().map(|(key, row)| (key, Some(row))));
        Ok(())
    }

    fn check(&self, expectations: &[Expect]) -> Result<(), CommitError> {
        for expect in expectations {
            let (kind, key) = codec::place(expect.key());
            let found = match self.get(&key)? {
                Some(row) => Some(codec::revision_of(kind, &row)?),
                None => None,
            };
            let wanted = match expect {
                Expect::Absent(_) => None,
                Expect::At(_, revision) => Some(*revision),
            };
            if found != wanted {
                return Err(CommitError::Conflict(expect.key().clone()));
            }
        }
        Ok(())
    }

    fn put(&mut self, record: &Record) -> Result<(), CommitError> {
        let (kind, key) = codec::place(&record.key());
        match record {
            Record::Entry(entry) => {
                self.take_shape(entry, &key)?;
                self.set(kind, key, entry)?;
            }
            Record::Node(node) => self.set(kind, key, node)?,
            Record::Token(token) => self.set(kind, key, token)?,
            Record::Bundle(bundle) => self.set(kind, key, bundle)?,
            Record::Journal(row) => self.set(kind, key, row)?,
            Record::Class(class) => {
                self.take_class_id(class)?;
                self.set(kind, key, class)?;
            }
            Record::Run(run) => self.set(kind, key, run)?,
            Record::RunPlace(_, _, run) => self.set(kind, key, run)?,
            Record::Revocation(revocation) => self.set(kind, key, revocation)?,
        }
        Ok(())
    }

    /// Takes the place of an entry's shape and frees the one that the entry had.
    fn take_shape(&mut self, entry: &Entry, entry_key: &[u8]) -> Result<(), CommitError> {
        let shape = entry.shape();
        let shape_key = codec::shape_key(&shape);
        if let Some(row) = self.get(&shape_key)? {
            let holder: EntryId = codec::decode(Kind::Shape, &row)?.value;
            if holder != entry.id {
                return Err(CommitError::Conflict(Key::EntryShape(shape)));
            }
        }
        self.free_shape(entry_key)?;
        self.set(Kind::Shape, shape_key, &entry.id)?;
        Ok(())
    }

    /// Takes the place of a class's id, which the class keeps for as long as it is there.
    fn take_class_id(&mut self, class: &Class) -> Result<(), CommitError> {
        let key = codec::class_id_key(&class.id);
        if let Some(row) = self.get(&key)? {
            let holder: ClassName = codec::decode(Kind::ClassId, &row)?.value;
            if holder != class.name {
                return Err(CommitError::Conflict(Key::ClassId(class.id.clone())));
            }
        }
        self.free_class_id(&codec::class_key(&class.name))?;
        self.set(Kind::ClassId, key, &class.name)?;
        Ok(())
    }

    fn free_class_id(&mut self, class_key: &[u8]) -> Result<(), StoreError> {
        if let Some(row) = self.get(class_key)? {
            let old: Class = codec::decode(Kind::Class, &row)?.value;
            self.rows.insert(codec::class_id_key(&old.id), None);
        }
        Ok(())
    }

    fn free_shape(&mut self, entry_key: &[u8]) -> Result<(), StoreError> {
        if let Some(row) = self.get(entry_key)? {
            let old: Entry = codec::decode(Kind::Entry, &row)?.value;
            self.rows.insert(codec::shape_key(&old.shape()), None);
        }
        Ok(())
    }

    fn delete(&mut self, key: &Key) -> Result<(), StoreError> {
        let (kind, row_key) = codec::place(key);
        match kind {
            Kind::Shape => {
                let why = "the place of an entry's shape goes with the entry: delete the entry";
                return Err(StoreError::Unstorable(why.to_owned()));
            }
            Kind::ClassId => {
                let why = "the place of a class's id goes with the class: delete the class";
                return Err(StoreError::Unstorable(why.to_owned()));
            }
            Kind::Entry => self.free_shape(&row_key)?,
            Kind::Class => self.free_class_id(&row_key)?,
            _ => {}
        }
        self.rows.insert(row_key, None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_backup_must_read_again_is_noted_up_to_a_limit_and_then_it_hears_of_it() {
        let keys = |count: usize| (0..count).map(|n| n.to_be_bytes().to_vec());
        let notes = Touched::default();
        notes.add(keys(Touched::MOST));
        notes.add(keys(Touched::MOST));
        assert_eq!(notes.take().unwrap().len(), Touched::MOST);
        assert!(notes.take().unwrap().is_empty());
        notes.add(keys(Touched::MOST + 1));
        for _ in 0..2 {
            let overtaken = notes.take().unwrap_err();
            assert!(matches!(overtaken, StoreError::BackupOvertaken { most } if most == Touched::MOST));
            notes.add(keys(1));
        }
    }
}
