//! Revocations: the SVIDs of a run that has ended are not to be believed, until the last of them would have ended by itself.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{ClassId, RunId};

use crate::{StoreError, Versioned};

/// What of an ended run is no longer to be believed: every SVID that names the run or a child of it, those listed here included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The run.
    pub run: RunId,
    /// The id of its class.
    pub class_id: ClassId,
    /// When the run ended.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    /// When the last of its SVIDs ends at the latest.
    #[serde(with = "time::serde::timestamp")]
    pub until: OffsetDateTime,
    /// Serial numbers of its X.509-SVIDs, in lower-case hex: the latest, as far as the server has counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub x509_serials: Vec<String>,
    /// `jti` of its JWT-SVIDs: the latest, as far as the server has counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jwt_ids: Vec<String>,
}

/// Reads revocations.
#[async_trait]
pub trait RevocationReader: Send + Sync {
    /// That of one run, or `None`.
    async fn revocation(&self, run: &RunId) -> Result<Option<Versioned<Revocation>>, StoreError>;
    /// Up to `limit` of runs with ids after `after`, in order of id.
    async fn revocations(
        &self,
        after: Option<&RunId>,
        limit: usize,
    ) -> Result<Vec<Versioned<Revocation>>, StoreError>;
}
