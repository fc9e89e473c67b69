//! A store whose commits are measured. Reads go through as they are.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use vouchsafe_audit::Record;
use vouchsafe_identity::{Bundle, ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_store::{
    AuditReader, BackupPart, BackupReader, BundleReader, Change, ChangeReader, Class, ClassReader, Commit,
    CommitError, Entry, EntryId, EntryReader, JoinToken, JournalReader, JournalRow, Node, NodeReader,
    RestoreMark, Revision, Revocation, RevocationReader, Run, RunReader, SharedStore, Store, StoreError,
    TokenHash, TokenReader, Versioned,
};

use super::Commits;

/// Measures the commits of the store in it.
pub struct MeteredStore {
    inner: SharedStore,
    commits: Commits,
}

impl fmt::Debug for MeteredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeteredStore")
    }
}

impl MeteredStore {
    /// `inner`, measured.
    pub fn around(inner: SharedStore, commits: Commits) -> SharedStore {
        Arc::new(Self { inner, commits })
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn commit(&self, commit: Commit) -> Result<Revision, CommitError> {
        let begun = Instant::now();
        let done = self.inner.commit(commit).await;
        let outcome = match &done {
            Ok(_) => "committed",
            Err(CommitError::Conflict(_)) => "conflict",
            Err(_) => "failed",
        };
        self.commits.took(outcome, begun.elapsed());
        done
    }

    fn revisions(&self) -> watch::Receiver<Revision> {
        self.inner.revisions()
    }

    fn takes_writes(&self) -> Result<(), StoreError> {
        self.inner.takes_writes()
    }

    fn server_id(&self) -> &str {
        self.inner.server_id()
    }

    fn restored(&self) -> Option<&RestoreMark> {
        self.inner.restored()
    }
}

#[async_trait]
impl EntryReader for MeteredStore {
    async fn entry(&self, id: &EntryId) -> Result<Option<Versioned<Entry>>, StoreError> {
        self.inner.entry(id).await
    }

    async fn entry_by_shape(&self, shape: &str) -> Result<Option<EntryId>, StoreError> {
        self.inner.entry_by_shape(shape).await
    }

    async fn entries(
        &self,
        after: Option<&EntryId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Entry>>, StoreError> {
        self.inner.entries(after, limit).await
    }

    async fn middle_entry(&self) -> Result<Option<EntryId>, StoreError> {
        self.inner.middle_entry().await
    }
}

#[async_trait]
impl NodeReader for MeteredStore {
    async fn node(&self, id: &SpiffeId) -> Result<Option<Versioned<Node>>, StoreError> {
        self.inner.node(id).await
    }

    async fn nodes(
        &self,
        after: Option<&SpiffeId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Node>>, StoreError> {
        self.inner.nodes(after, limit).await
    }
}

#[async_trait]
impl ClassReader for MeteredStore {
    async fn class(&self, name: &ClassName) -> Result<Option<Versioned<Class>>, StoreError> {
        self.inner.class(name).await
    }

    async fn classes(
        &self,
        after: Option<&ClassName>,
        limit: usize,
    ) -> Result<Vec<Versioned<Class>>, StoreError> {
        self.inner.classes(after, limit).await
    }
}

#[async_trait]
impl RunReader for MeteredStore {
    async fn run(&self, id: &RunId) -> Result<Option<Versioned<Run>>, StoreError> {
        self.inner.run(id).await
    }

    async fn runs(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<Versioned<Run>>, StoreError> {
        self.inner.runs(after, limit).await
    }
}

#[async_trait]
impl RevocationReader for MeteredStore {
    async fn revocation(&self, run: &RunId) -> Result<Option<Versioned<Revocation>>, StoreError> {
        self.inner.revocation(run).await
    }

    async fn revocations(
        &self,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Revocation>>, StoreError> {
        self.inner.revocations(after, limit).await
    }
}

#[async_trait]
impl BundleReader for MeteredStore {
    async fn bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Versioned<Bundle>>, StoreError> {
        self.inner.bundle(trust_domain).await
    }

    async fn bundles(&self) -> Result<Vec<Versioned<Bundle>>, StoreError> {
        self.inner.bundles().await
    }
}

#[async_trait]
impl TokenReader for MeteredStore {
    async fn token(&self, hash: &TokenHash) -> Result<Option<Versioned<JoinToken>>, StoreError> {
        self.inner.token(hash).await
    }

    async fn tokens(
        &self,
        after: Option<&TokenHash>,
        limit: usize,
    ) -> Result<Vec<Versioned<JoinToken>>, StoreError> {
        self.inner.tokens(after, limit).await
    }
}

#[async_trait]
impl JournalReader for MeteredStore {
    async fn journal(&self, server_id: &str) -> Result<Vec<Versioned<JournalRow>>, StoreError> {
        self.inner.journal(server_id).await
    }
}

#[async_trait]
impl ChangeReader for MeteredStore {
    async fn changes(&self, after: Revision, limit: usize) -> Result<Option<Vec<Change>>, StoreError> {
        self.inner.changes(after, limit).await
    }
}

#[async_trait]
impl BackupReader for MeteredStore {
    async fn backup(&self, to: mpsc::Sender<BackupPart>) -> Result<(), StoreError> {
        self.inner.backup(to).await
    }
}

#[async_trait]
impl AuditReader for MeteredStore {
    async fn audit_records(&self, from: u64, limit: usize) -> Result<Vec<Record>, StoreError> {
        self.inner.audit_records(from, limit).await
    }

    async fn audit_head(&self) -> Result<u64, StoreError> {
        self.inner.audit_head().await
    }
}
