//! Audit records: who did what, when, with which outcome and why.
//!
//! Pure values: the store's single writer gives each record its `seq`; nothing here does IO or
//! reads a clock. The schema is versioned, because records outlive every release.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;

/// Version of the record's schema; a reader refuses what is newer.
pub const SCHEMA_VERSION: u32 = 1;

/// Who stands behind a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Principal {
    /// Nobody proved anything; only where the bytes came from is known.
    Anonymous {
        /// The caller's network address, or the socket's name.
        source: String,
    },
    /// A process on this host, as the kernel names it.
    Local {
        /// User id.
        uid: u32,
        /// Process id at the time of the call.
        pid: i32,
    },
    /// The holder of an SVID.
    Spiffe {
        /// The SVID's id.
        id: SpiffeId,
    },
    /// A part of the server itself, such as key rotation.
    System {
        /// The part's name.
        component: String,
    },
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous { source } => write!(f, "anonymous from {source}"),
            Self::Local { uid, pid } => write!(f, "uid {uid} (pid {pid})"),
            Self::Spiffe { id } => write!(f, "{id}"),
            Self::System { component } => write!(f, "system/{component}"),
        }
    }
}

/// How a call or a change ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused: not allowed, or the request was bad.
    Refused,
    /// It failed through no fault of the caller.
    Failed,
}

/// Facts by their names.
pub type Facts = BTreeMap<Cow<'static, str>, String>;

/// What is known when a record is made; the writer adds the log's id and the place in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draft {
    /// When it happened, by the server's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Unique for each call; a change carries the id of the call that made it.
    pub request_id: String,
    /// The caller's W3C trace context, if it sent a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Who asked.
    pub principal: Principal,
    /// What the caller may reach: `local`, `admin`, `agent`, `downstream`, `none`.
    pub scope: Cow<'static, str>,
    /// What was asked: a gRPC method (`/pkg.Service/Method`), or a change (`entry.create`).
    pub action: Cow<'static, str>,
    /// How it ended.
    pub outcome: Outcome,
    /// The gRPC status code's name, for calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Cow<'static, str>>,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// More facts by fixed names, such as `spiffe_id`, `entry_id`, `serial`, `count`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: Facts,
}

/// A record in its place in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA_VERSION`] at writing.
    pub schema: u32,
    /// Which log: one a server.
    pub log_id: String,
    /// Place in the log, from 1, without gaps.
    pub seq: u64,
    /// The record itself.
    #[serde(flatten)]
    pub draft: Draft,
}

/// A [`Record`] on its way out, which needs no copy of its draft.
#[derive(Serialize)]
struct Placed<'a> {
    schema: u32,
    log_id: &'a str,
    seq: u64,
    #[serde(flatten)]
    draft: &'a Draft,
}

/// Why a stored record cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The text is not a record.
    #[error("audit record is not readable")]
    Malformed(#[source] serde_json::Error),
    /// Written by a newer release.
    #[error("audit record has schema {found}, this release reads up to {SCHEMA_VERSION}")]
    Newer {
        /// The record's schema version.
        found: u32,
    },
}

impl Record {
    /// Writes a draft in its place in a log: one line of JSON, without a line feed.
    ///
    /// # Errors
    /// [`RecordError::Malformed`] when a value cannot be written as JSON; part of the line may be there then.
    pub fn write_line(log_id: &str, seq: u64, draft: &Draft, line: &mut Vec<u8>) -> Result<(), RecordError> {
        let placed = Placed {
            schema: SCHEMA_VERSION,
            log_id,
            seq,
            draft,
        };
        serde_json::to_writer(line, &placed).map_err(RecordError::Malformed)
    }

    /// The record as such a line.
    ///
    /// # Errors
    /// As [`Record::write_line`].
    pub fn to_line(&self) -> Result<String, RecordError> {
        serde_json::to_string(self).map_err(RecordError::Malformed)
    }

    /// Reads what [`Record::write_line`] wrote.
    ///
    /// # Errors
    /// [`RecordError`] when it is not JSON of the schema, or of a newer schema.
    pub fn from_line(line: &str) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u32,
        }
        let head: Head = serde_json::from_str(line).map_err(RecordError::Malformed)?;
        if head.schema > SCHEMA_VERSION {
            return Err(RecordError::Newer { found: head.schema });
        }
        serde_json::from_str(line).map_err(RecordError::Malformed)
    }
}
