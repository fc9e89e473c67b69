//! The reading halves of the key-value store, one trait an entity.

use std::ops::Bound;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use vouchsafe_identity::{Bundle, ClassName, RunId, SpiffeId, TrustDomain};

use super::{Kv, KvStore};
use crate::codec::{self, Kind};
use crate::{
    AuditReader, BundleReader, Change, ChangeKind, ChangeReader, Class, ClassReader, Entry, EntryId,
    EntryReader, JoinToken, JournalReader, JournalRow, Node, NodeReader, Revision, Revocation,
    RevocationReader, Run, RunReader, StoreError, TokenHash, TokenReader, Versioned,
};

/// Rows that are read at once where the number wanted is not known beforehand.
const CHUNK_ROWS: usize = 256;
/// How many entries are looked at for one in the middle.
const SAMPLES: u8 = 31;

impl<K: Kv> KvStore<K> {
    fn one<T: DeserializeOwned>(&self, kind: Kind, key: &[u8]) -> Result<Option<Versioned<T>>, StoreError> {
        let row = self.core.kv.get(key)?;
        row.map(|row| codec::decode(kind, &row)).transpose()
    }

    fn page<T: DeserializeOwned>(
        &self,
        kind: Kind,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<Versioned<T>>, StoreError> {
        let from = match after {
            Some(key) => Bound::Excluded(key),
            None => Bound::Included(kind.key(&[])),
        };
        let rows = self.core.kv.range(from, kind.end(), limit)?;
        rows.iter().map(|(_, row)| codec::decode(kind, row)).collect()
    }
}

#[async_trait]
impl<K: Kv> EntryReader for KvStore<K> {
    async fn entry(&self, id: &EntryId) -> Result<Option<Versioned<Entry>>, StoreError> {
        self.one(Kind::Entry, &codec::entry_key(id))
    }

    async fn entry_by_shape(&self, shape: &str) -> Result<Option<EntryId>, StoreError> {
        let holder = self.one(Kind::Shape, &codec::shape_key(shape))?;
        Ok(holder.map(|holder| holder.value))
    }

    async fn entries(
        &self,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Entry>>, StoreError> {
        self.page(Kind::Entry, after.map(codec::entry_key), limit)
    }

    async fn middle_entry(&self) -> Result<Option<EntryId>, StoreError> {
        // Shapes stand in the order of their hashes, so every few of them name a fair sample of the entries.
        let mut sample = Vec::with_capacity(SAMPLES.into());
        for place in 0..SAMPLES {
            let from = Bound::Included(Kind::Shape.key(&[place * (u8::MAX / SAMPLES)]));
            for (_, row) in self.core.kv.range(from, Kind::Shape.end(), 1)? {
                sample.push(codec::decode::<EntryId>(Kind::Shape, &row)?.value);
            }
        }
        sample.sort();
        let middle = sample.len() / 2;
        Ok(sample.into_iter().nth(middle))
    }
}

#[async_trait]
impl<K: Kv> NodeReader for KvStore<K> {
    async fn node(&self, id: &SpiffeId) -> Result<Option<Versioned<Node>>, StoreError> {
        self.one(Kind::Node, &codec::node_key(id))
    }

    async fn nodes(
        &self,
        after: Option<&SpiffeId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Node>>, StoreError> {
        self.page(Kind::Node, after.map(codec::node_key), limit)
    }
}

#[async_trait]
impl<K: Kv> TokenReader for KvStore<K> {
    async fn token(&self, hash: &TokenHash) -> Result<Option<Versioned<JoinToken>>, StoreError> {
        self.one(Kind::Token, &codec::token_key(hash))
    }

    async fn tokens(
        &self,
        after: Option<&TokenHash>,
        limit: usize,
    ) -> Result<Vec<Versioned<JoinToken>>, StoreError> {
        self.page(Kind::Token, after.map(codec::token_key), limit)
    }
}

#[async_trait]
impl<K: Kv> ClassReader for KvStore<K> {
    async fn class(&self, name: &ClassName) -> Result<Option<Versioned<Class>>, StoreError> {
        self.one(Kind::Class, &codec::class_key(name))
    }

    async fn classes(
        &self,
        after: Option<&ClassName>,
        limit: usize,
    ) -> Result<Vec<Versioned<Class>>, StoreError> {
        self.page(Kind::Class, after.map(codec::class_key), limit)
    }
}

#[async_trait]
impl<K: Kv> RunReader for KvStore<K> {
    async fn run(&self, id: &RunId) -> Result<Option<Versioned<Run>>, StoreError> {
        self.one(Kind::Run, &codec::run_key(id))
    }

    async fn runs(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<Versioned<Run>>, StoreError> {
        self.page(Kind::Run, after.map(codec::run_key), limit)
    }
}

#[async_trait]
impl<K: Kv> RevocationReader for KvStore<K> {
    async fn revocation(&self, run: &RunId) -> Result<Option<Versioned<Revocation>>, StoreError> {
        self.one(Kind::Revocation, &codec::revocation_key(run))
    }

    async fn revocations(
        &self,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Revocation>>, StoreError> {
        self.page(Kind::Revocation, after.map(codec::revocation_key), limit)
    }
}

#[async_trait]
impl<K: Kv> BundleReader for KvStore<K> {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Versioned<Bundle>>, StoreError> {
        self.one(Kind::Bundle, &codec::bundle_key(trust_domain))
    }

    async fn bundles(&self) -> Result<Vec<Versioned<Bundle>>, StoreError> {
        self.page(Kind::Bundle, None, usize::MAX)
    }
}

#[async_trait]
impl<K: Kv> JournalReader for KvStore<K> {
    async fn journal(&self, server_id: &str) -> Result<Vec<Versioned<JournalRow>>, StoreError> {
        let from = codec::journal_prefix(server_id);
        // Names that follow the prefix are ASCII, so this ends the range.
        let mut to = from.clone();
        to.push(u8::MAX);
        let rows = self.core.kv.range(Bound::Included(from), to, usize::MAX)?;
        let mut journal: Vec<Versioned<JournalRow>> = rows
            .iter()
            .map(|(_, row)| codec::decode(Kind::Journal, row))
            .collect::<Result<_, _>>()?;
        journal.sort_by(|a, b| a.value.key.cmp(&b.value.key));
        Ok(journal)
    }
}

#[async_trait]
impl<K: Kv> ChangeReader for KvStore<K> {
    async fn changes(&self, after: Revision, limit: usize) -> Result<Option<Vec<Change>>, StoreError> {
        let durable = *self.core.durable.borrow();
        if after > durable {
            return Ok(None);
        }
        let end = codec::numbered_key(Kind::Changes, durable.0.saturating_add(1));
        let mut from = Bound::Excluded(codec::numbered_key(Kind::Changes, after.0));
        let mut changes = Vec::new();
        while changes.len() < limit {
            let rows = self.core.kv.range(from, end.clone(), CHUNK_ROWS.min(limit))?;
            for (_, row) in &rows {
                let Versioned { value, revision } = codec::decode::<Vec<ChangeKind>>(Kind::Changes, row)?;
                changes.extend(value.into_iter().map(|kind| Change { revision, kind }));
                if changes.len() >= limit {
                    break;
                }
            }
            match rows.into_iter().next_back() {
                Some((key, _)) => from = Bound::Excluded(key),
                None => break,
            }
        }
        // Asked last: what was pruned while we read makes the answer incomplete.
        let floor = Revision(self.core.changes_floor.load(Ordering::SeqCst));
        Ok((after >= floor).then_some(changes))
    }
}

#[async_trait]
impl<K: Kv> AuditReader for KvStore<K> {
    async fn audit_records(
        &self,
        from: u64,
        limit: usize,
    ) -> Result<Vec<vouchsafe_audit::Record>, StoreError> {
        let head = self.core.audit_head.load(Ordering::SeqCst);
        let end = codec::numbered_key(Kind::Audit, head.saturating_add(1));
        let mut first = Bound::Included(codec::numbered_key(Kind::Audit, from));
        let mut records = Vec::new();
        while records.len() < limit {
            let rows = self.core.kv.range(first, end.clone(), CHUNK_ROWS.min(limit))?;
            for (_, row) in &rows {
                // A row begins before the first that is wanted, where that is not the first of its row.
                let found = codec::decode_audit(row)?;
                records.extend(found.into_iter().filter(|record| record.seq >= from));
            }
            match rows.into_iter().next_back() {
                Some((key, _)) => first = Bound::Excluded(key),
                None => break,
            }
        }
        records.truncate(limit);
        Ok(records)
    }

    async fn audit_head(&self) -> Result<u64, StoreError> {
        Ok(self.core.audit_head.load(Ordering::SeqCst))
    }
}
