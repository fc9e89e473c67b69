//! The audit log as the store keeps it: written with commits, read in order.

use async_trait::async_trait;
use vouchsafe_audit::Record;

use crate::StoreError;

/// Reads the audit log.
#[async_trait]
pub trait AuditReader: Send + Sync {
    /// Up to `limit` records with `seq` from `from` on, in order.
    async fn audit_records(&self, from: u64, limit: usize) -> Result<Vec<Record>, StoreError>;
    /// `seq` of the last record; 0 while there is none.
    async fn audit_head(&self) -> Result<u64, StoreError>;
}
