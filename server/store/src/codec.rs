//! How values and keys are stored, the same in every key-value adapter.
//!
//! A value is one version byte of its kind, its revision (8 bytes, big-endian) and JSON. A kind whose
//! meaning changes gets a new version, and [`FORMAT`] grows with it; a reader refuses what is newer.
//! A key is one byte for the kind and then its name, so that the order of keys is that of names.

use aws_lc_rs::digest::{SHA256, digest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vouchsafe_audit::{Draft, Record as AuditRecord, RecordError};
use vouchsafe_identity::{ClassId, ClassName, RunId, SpiffeId, TrustDomain};

use crate::kv::Row;
use crate::{EntryId, JournalKey, Key, RestoreMark, Revision, StoreError, TokenHash, Versioned};

/// Version of the whole store: grows when any kind of value gets a new version.
///
/// 2: a row of the audit log may have several records. 3: classes, whose ids no entry may give, runs, and revocations.
pub(crate) const FORMAT: u32 = 3;
/// Longest row of several audit records, in bytes: what the store keeps in one piece.
pub(crate) const AUDIT_ROW_BYTES: usize = 3 << 10;
const HEADER_BYTES: usize = 9;
/// What stands between the records of a row; JSON has it nowhere else.
const LINE_FEED: u8 = b'\n';

/// Kinds of stored values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What the store says about itself.
    Meta,
    /// A registration entry.
    Entry,
    /// Which entry has a shape.
    Shape,
    /// A node.
    Node,
    /// A join token.
    Token,
    /// A bundle.
    Bundle,
    /// A slot of the key journal.
    Journal,
    /// The changes of one revision.
    Changes,
    /// An audit record.
    Audit,
    /// A class.
    Class,
    /// Which class has an id.
    ClassId,
    /// A run.
    Run,
    /// Which run has a place of its class.
    RunPlace,
    /// The revocation of a run's SVIDs.
    Revocation,
}

impl Kind {
    /// First byte of the keys of this kind.
    pub(crate) const fn prefix(self) -> u8 {
        match self {
            Self::Meta => b'm',
            Self::Entry => b'e',
            Self::Shape => b's',
            Self::Node => b'n',
            Self::Token => b't',
            Self::Bundle => b'b',
            Self::Journal => b'j',
            Self::Changes => b'c',
            Self::Audit => b'a',
            Self::Class => b'k',
            Self::ClassId => b'i',
            Self::Run => b'r',
            Self::RunPlace => b'p',
            Self::Revocation => b'v',
        }
    }

    /// Whether a backup keeps the row of this key.
    pub(crate) fn is_kept(key: &[u8]) -> bool {
        let kept = [
            Self::Meta,
            Self::Entry,
            Self::Shape,
            Self::Node,
            Self::Bundle,
            Self::Journal,
            Self::Audit,
            Self::Class,
            Self::ClassId,
            Self::Run,
            Self::RunPlace,
            Self::Revocation,
        ];
        key != head_key() && kept.iter().any(|kind| key.first() == Some(&kind.prefix()))
    }

    /// Version in which this release writes the kind.
    const fn version(self) -> u8 {
        match self {
            Self::Audit => 2,
            _ => 1,
        }
    }

    /// The name in errors.
    const fn name(self) -> &'static str {
        match self {
            Self::Meta => "store",
            Self::Entry => "entry",
            Self::Shape => "entry shape",
            Self::Node => "agent",
            Self::Token => "join token",
            Self::Bundle => "bundle",
            Self::Journal => "key slot",
            Self::Changes => "change",
            Self::Audit => "audit record",
            Self::Class => "class",
            Self::ClassId => "class id",
            Self::Run => "run",
            Self::RunPlace => "place of a run",
            Self::Revocation => "revocation",
        }
    }

    /// The key of one value of this kind.
    pub(crate) fn key(self, name: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(1 + name.len());
        key.push(self.prefix());
        key.extend_from_slice(name);
        key
    }

    /// The first key after all keys of this kind.
    pub(crate) fn end(self) -> Vec<u8> {
        vec![self.prefix() + 1]
    }
}

/// What the store says about itself; written when it is made, gets a new format, or is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// [`FORMAT`] when it was written.
    pub(crate) format: u32,
    /// The server that the store belongs to.
    pub(crate) server_id: String,
    /// That it was made from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<RestoreMark>,
}

/// Where the counters stand; written with every group of commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The latest revision.
    pub(crate) revision: Revision,
    /// `seq` of the last audit record.
    pub(crate) audit_seq: u64,
    /// The change log has been pruned up to this revision.
    pub(crate) changes_floor: Revision,
    /// How many revisions the change log holds.
    pub(crate) change_rows: u64,
}

/// Key of [`Meta`].
pub(crate) fn meta_key() -> Vec<u8> {
    Kind::Meta.key(b"store")
}

/// Key of [`Head`].
pub(crate) fn head_key() -> Vec<u8> {
    Kind::Meta.key(b"head")
}

/// Kind and key of what a [`Key`] names.
pub(crate) fn place(key: &Key) -> (Kind, Vec<u8>) {
    match key {
        Key::Entry(id) => (Kind::Entry, entry_key(id)),
        Key::EntryShape(shape) => (Kind::Shape, shape_key(shape)),
        Key::Node(id) => (Kind::Node, node_key(id)),
        Key::Token(hash) => (Kind::Token, token_key(hash)),
        Key::Bundle(trust_domain) => (Kind::Bundle, bundle_key(trust_domain)),
        Key::Journal(key) => (Kind::Journal, journal_key(key)),
        Key::Class(name) => (Kind::Class, class_key(name)),
        Key::ClassId(id) => (Kind::ClassId, class_id_key(id)),
        Key::Run(id) => (Kind::Run, run_key(id)),
        Key::RunPlace(class, place) => (Kind::RunPlace, run_place_key(class, *place)),
        Key::Revocation(id) => (Kind::Revocation, revocation_key(id)),
    }
}

/// Key of a class.
pub(crate) fn class_key(name: &ClassName) -> Vec<u8> {
    Kind::Class.key(name.as_str().as_bytes())
}

/// Key of the place of a class's id.
pub(crate) fn class_id_key(id: &ClassId) -> Vec<u8> {
    Kind::ClassId.key(id.as_str().as_bytes())
}

/// Key of a run.
pub(crate) fn run_key(id: &RunId) -> Vec<u8> {
    Kind::Run.key(id.to_string().as_bytes())
}

/// Key of the revocation of a run's SVIDs.
pub(crate) fn revocation_key(id: &RunId) -> Vec<u8> {
    Kind::Revocation.key(id.to_string().as_bytes())
}

/// Key of a place; no name has the slash.
fn run_place_key(class: &ClassName, place: u32) -> Vec<u8> {
    Kind::RunPlace.key(format!("{class}/{place}").as_bytes())
}

/// Key of an entry.
pub(crate) fn entry_key(id: &EntryId) -> Vec<u8> {
    Kind::Entry.key(id.as_str().as_bytes())
}

/// Key of the place of a shape: its SHA-256, since shapes have no limit of length.
pub(crate) fn shape_key(shape: &str) -> Vec<u8> {
    Kind::Shape.key(digest(&SHA256, shape.as_bytes()).as_ref())
}

/// Key of a node.
pub(crate) fn node_key(id: &SpiffeId) -> Vec<u8> {
    Kind::Node.key(id.as_str().as_bytes())
}

/// Key of a join token.
pub(crate) fn token_key(hash: &TokenHash) -> Vec<u8> {
    Kind::Token.key(hash.0.as_bytes())
}

/// Key of a bundle.
pub(crate) fn bundle_key(trust_domain: &TrustDomain) -> Vec<u8> {
    Kind::Bundle.key(trust_domain.name().as_bytes())
}

/// What the keys of one server's journal begin with; the length keeps `a` apart from `ab`.
pub(crate) fn journal_prefix(server_id: &str) -> Vec<u8> {
    let mut name = (server_id.len() as u64).to_be_bytes().to_vec();
    name.extend_from_slice(server_id.as_bytes());
    Kind::Journal.key(&name)
}

fn journal_key(key: &JournalKey) -> Vec<u8> {
    let mut bytes = journal_prefix(&key.server_id);
    let rest = format!("{}/{}/{}", key.purpose.name(), key.algorithm, key.slot);
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Key of a numbered value: the changes of a revision, audit records by the last of them.
pub(crate) fn numbered_key(kind: Kind, number: u64) -> Vec<u8> {
    kind.key(&number.to_be_bytes())
}

/// A value as it is stored.
pub(crate) fn encode<T: Serialize>(kind: Kind, revision: Revision, value: &T) -> Result<Vec<u8>, StoreError> {
    let mut bytes = header(kind, revision, 512);
    serde_json::to_writer(&mut bytes, value)
        .map_err(|e| StoreError::Unstorable(format!("{}: {e}", kind.name())))?;
    Ok(bytes)
}

fn header(kind: Kind, revision: Revision, room: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(room);
    bytes.push(kind.version());
    bytes.extend_from_slice(&revision.0.to_be_bytes());
    bytes
}

/// Rows of the audit log that are being filled: each has as many records as fit, a line each, and stands under the
/// number of its last one, so that the row of a record is the first from its number on.
pub(crate) struct AuditRows {
    revision: Revision,
    row: Vec<u8>,
    last: u64,
    line: Vec<u8>,
}

impl AuditRows {
    /// Rows of one revision.
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            revision,
            row: Vec::new(),
            last: 0,
            line: Vec::new(),
        }
    }

    /// Adds the next record; gives the row before it, when that is full.
    pub(crate) fn add(&mut self, log_id: &str, seq: u64, draft: &Draft) -> Result<Option<Row>, StoreError> {
        self.line.clear();
        AuditRecord::write_line(log_id, seq, draft, &mut self.line)
            .map_err(|e| StoreError::Unstorable(format!("{}: {e}", Kind::Audit.name())))?;
        let is_full = !self.row.is_empty() && self.row.len() + 1 + self.line.len() > AUDIT_ROW_BYTES;
        let full = if is_full { self.end() } else { None };
        if self.row.is_empty() {
            self.row = header(Kind::Audit, self.revision, AUDIT_ROW_BYTES);
        } else {
            self.row.push(LINE_FEED);
        }
        self.row.extend_from_slice(&self.line);
        self.last = seq;
        Ok(full)
    }

    /// The row that is not full.
    pub(crate) fn end(&mut self) -> Option<Row> {
        let row = std::mem::take(&mut self.row);
        (!row.is_empty()).then(|| (numbered_key(Kind::Audit, self.last), row))
    }
}

/// The revision and the JSON of a stored value.
fn split(kind: Kind, bytes: &[u8]) -> Result<(Revision, &[u8]), StoreError> {
    let damaged = || StoreError::Corrupt(format!("{} is cut short", kind.name()));
    let (&version, _) = bytes.split_first().ok_or_else(damaged)?;
    if version > kind.version() {
        return Err(StoreError::Newer {
            what: kind.name().to_owned(),
            found: version.into(),
            known: kind.version().into(),
        });
    }
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or_else(damaged)?;
    let [_, revision @ ..] = *header;
    Ok((Revision(u64::from_be_bytes(revision)), body))
}

/// The revision of a stored value, without reading the value itself.
pub(crate) fn revision_of(kind: Kind, bytes: &[u8]) -> Result<Revision, StoreError> {
    split(kind, bytes).map(|(revision, _)| revision)
}

/// Reads a stored value.
pub(crate) fn decode<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<Versioned<T>, StoreError> {
    let (revision, body) = split(kind, bytes)?;
    let value = serde_json::from_slice(body)
        .map_err(|e| StoreError::Corrupt(format!("{} of revision {}: {e}", kind.name(), revision.0)))?;
    Ok(Versioned { value, revision })
}

/// Reads stored audit records, whose schema has a version of its own.
pub(crate) fn decode_audit(bytes: &[u8]) -> Result<Vec<AuditRecord>, StoreError> {
    let (revision, body) = split(Kind::Audit, bytes)?;
    let damaged =
        |why: String| StoreError::Corrupt(format!("audit record of revision {}: {why}", revision.0));
    let text = std::str::from_utf8(body).map_err(|e| damaged(e.to_string()))?;
    let read = |line: &str| {
        AuditRecord::from_line(line).map_err(|e| match e {
            RecordError::Newer { found } => StoreError::Newer {
                what: Kind::Audit.name().to_owned(),
                found,
                known: vouchsafe_audit::SCHEMA_VERSION,
            },
            other => damaged(other.to_string()),
        })
    };
    text.split(char::from(LINE_FEED)).map(read).collect()
}

#[cfg(test)]
mod tests;
