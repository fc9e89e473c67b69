//! What a frame says: changes of entries, bundles, classes, runs, revocations and X.509-SVIDs, as protobuf messages of our own.
//! What cannot be turned into our types condemns the whole: it was sealed by us, so it is damage of another kind.

mod reader;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::{Message, Oneof};
use time::OffsetDateTime;
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{Bundle, JwtAuthority, SelectorSet, TrustDomain, X509Authority};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;
use vouchsafe_runtime::set_digest::ItemDigest;
use zeroize::{Zeroize, Zeroizing};

use super::log::BadSeal;
use crate::cache::rotation::Lifetime;
use crate::cache::slots::X509Svid;
use crate::entry::{Entry, EntryId, EntryVersion};
use crate::knowledge::Resume;
pub use reader::{Contents, Reader};

/// Changes that belong together.
#[derive(Clone, PartialEq, Message)]
pub struct Batch {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<Change>,
    /// Whether this is all: changes count from the frame on that says so.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// One change.
#[derive(Clone, PartialEq, Message)]
pub struct Change {
    /// Which.
    #[prost(
        oneof = "Kind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16"
    )]
    pub kind: Option<Kind>,
}

/// What changes.
#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    /// An entry is new, or differs.
    #[prost(message, tag = "1")]
    Entry(EntryRecord),
    /// The entry of this id is gone.
    #[prost(string, tag = "2")]
    EntryGone(String),
    /// A bundle is new, or differs.
    #[prost(message, tag = "3")]
    Bundle(BundleRecord),
    /// The bundle of this trust domain is gone.
    #[prost(string, tag = "4")]
    BundleGone(String),
    /// An X.509-SVID is new, or replaces another of its entry.
    #[prost(message, tag = "5")]
    Svid(SvidRecord),
    /// The X.509-SVID of this entry is gone.
    #[prost(string, tag = "6")]
    SvidGone(String),
    /// When the server was last heard, in Unix seconds.
    #[prost(int64, tag = "7")]
    Heard(i64),
    /// Up to where the server's changes were followed.
    #[prost(message, tag = "8")]
    Resume(ResumeRecord),
    /// A class is new, or differs; as the server told it.
    #[prost(message, boxed, tag = "9")]
    Class(Box<Class>),
    /// The class of this name is gone.
    #[prost(string, tag = "10")]
    ClassGone(String),
    /// A run lives; as the server told it.
    #[prost(message, tag = "11")]
    Run(LiveRun),
    /// The run of this id has ended.
    #[prost(string, tag = "12")]
    RunGone(String),
    /// The SVIDs of a run are revoked; as the server told it.
    #[prost(message, tag = "13")]
    Revocation(Revocation),
    /// The revocation of the run of this id is over.
    #[prost(string, tag = "14")]
    RevocationGone(String),
    /// An X.509-SVID of a run or of a launch lease is new, or replaces another: apart from those of entries, whose ids an
    /// operator may choose.
    #[prost(message, tag = "15")]
    RunSvid(SvidRecord),
    /// The X.509-SVID of this run is gone.
    #[prost(string, tag = "16")]
    RunSvidGone(String),
}

/// A place in the server's log of changes. The digest of the set is reckoned again from what is sealed.
#[derive(Clone, PartialEq, Message)]
pub struct ResumeRecord {
    /// Empty: there is no such place.
    #[prost(string, tag = "1")]
    log_id: String,
    #[prost(uint64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    unusable: Vec<UnusableRecord>,
}

/// An entry that the server told and that cannot be used.
#[derive(Clone, PartialEq, Message)]
pub struct UnusableRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    revision: i64,
    #[prost(int64, tag = "3")]
    created_at: i64,
}

/// An entry.
#[derive(Clone, PartialEq, Message)]
pub struct EntryRecord {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    revision: i64,
    #[prost(int64, tag = "3")]
    created_at: i64,
    #[prost(string, tag = "4")]
    spiffe_id: String,
    #[prost(string, repeated, tag = "5")]
    selectors: Vec<String>,
    #[prost(string, repeated, tag = "6")]
    federates_with: Vec<String>,
    #[prost(string, tag = "7")]
    hint: String,
    #[prost(bool, tag = "8")]
    store_svid: bool,
    #[prost(bool, tag = "9")]
    prefetch: bool,
    #[prost(bool, tag = "10")]
    single_jwt: bool,
}

/// A bundle, with its taints.
#[derive(Clone, PartialEq, Message)]
pub struct BundleRecord {
    #[prost(string, tag = "1")]
    trust_domain: String,
    #[prost(message, repeated, tag = "2")]
    x509: Vec<X509Record>,
    #[prost(message, repeated, tag = "3")]
    jwt: Vec<JwtRecord>,
    #[prost(uint64, optional, tag = "4")]
    refresh_hint_seconds: Option<u64>,
    #[prost(uint64, tag = "5")]
    sequence: u64,
}

/// An X.509 authority.
#[derive(Clone, PartialEq, Message)]
pub struct X509Record {
    #[prost(bytes = "vec", tag = "1")]
    certificate: Vec<u8>,
    #[prost(bool, tag = "2")]
    tainted: bool,
}

/// A JWT authority.
#[derive(Clone, PartialEq, Message)]
pub struct JwtRecord {
    #[prost(string, tag = "1")]
    key_id: String,
    #[prost(bytes = "vec", tag = "2")]
    public_key: Vec<u8>,
    #[prost(int64, optional, tag = "3")]
    expires_at: Option<i64>,
    #[prost(bool, tag = "4")]
    tainted: bool,
}

/// An X.509-SVID with its key, which is wiped when this is dropped.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct SvidRecord {
    #[prost(string, tag = "1")]
    entry_id: String,
    #[prost(int64, tag = "2")]
    revision: i64,
    #[prost(int64, tag = "3")]
    created_at: i64,
    #[prost(string, tag = "4")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "5")]
    certificates: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    key: Vec<u8>,
    #[prost(int64, tag = "7")]
    not_before: i64,
    #[prost(int64, tag = "8")]
    not_after: i64,
    #[prost(string, tag = "9")]
    serial: String,
}

impl Drop for SvidRecord {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl std::fmt::Debug for SvidRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SvidRecord")
            .field("entry_id", &self.entry_id)
            .field("serial", &self.serial)
            .finish_non_exhaustive()
    }
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id.to_string(),
            revision: entry.version.revision,
            created_at: entry.version.created_at,
            spiffe_id: entry.spiffe_id.to_string(),
            selectors: entry.selectors.iter().map(ToString::to_string).collect(),
            federates_with: entry
                .federates_with
                .iter()
                .map(|trust_domain| trust_domain.name().to_owned())
                .collect(),
            hint: entry.hint.clone(),
            store_svid: entry.store_svid,
            prefetch: entry.prefetch,
            single_jwt: entry.single_jwt,
        }
    }
}

fn nonsense(error: impl ToString) -> BadSeal {
    BadSeal::Nonsense(error.to_string())
}

fn moment(seconds: i64) -> Result<OffsetDateTime, BadSeal> {
    OffsetDateTime::from_unix_timestamp(seconds).map_err(nonsense)
}

impl TryFrom<EntryRecord> for Entry {
    type Error = BadSeal;

    fn try_from(record: EntryRecord) -> Result<Self, BadSeal> {
        let selectors: Result<SelectorSet, _> = record.selectors.iter().map(|text| text.parse()).collect();
        let federates_with: Result<Vec<_>, _> = record
            .federates_with
            .iter()
            .map(|name| TrustDomain::new(name))
            .collect();
        Ok(Self {
            id: record.id.as_str().into(),
            version: EntryVersion {
                revision: record.revision,
                created_at: record.created_at,
            },
            spiffe_id: record.spiffe_id.parse().map_err(nonsense)?,
            selectors: selectors.map_err(nonsense)?,
            federates_with: federates_with.map_err(nonsense)?,
            hint: record.hint,
            store_svid: record.store_svid,
            prefetch: record.prefetch,
            single_jwt: record.single_jwt,
        })
    }
}

impl From<&Bundle> for BundleRecord {
    fn from(bundle: &Bundle) -> Self {
        let x509 = bundle.x509_authorities.iter().map(|authority| X509Record {
            certificate: authority.certificate.clone(),
            tainted: authority.tainted,
        });
        let jwt = bundle.jwt_authorities.iter().map(|authority| JwtRecord {
            key_id: authority.key_id.clone(),
            public_key: authority.public_key.clone(),
            expires_at: authority.expires_at.map(OffsetDateTime::unix_timestamp),
            tainted: authority.tainted,
        });
        Self {
            trust_domain: bundle.trust_domain.name().to_owned(),
            x509: x509.collect(),
            jwt: jwt.collect(),
            refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
            sequence: bundle.sequence,
        }
    }
}

impl TryFrom<BundleRecord> for Bundle {
    type Error = BadSeal;

    fn try_from(record: BundleRecord) -> Result<Self, BadSeal> {
        let x509 = record.x509.into_iter().map(|authority| X509Authority {
            certificate: authority.certificate,
            tainted: authority.tainted,
        });
        let jwt = record.jwt.into_iter().map(|authority| {
            Ok(JwtAuthority {
                key_id: authority.key_id,
                public_key: authority.public_key,
                expires_at: authority.expires_at.map(moment).transpose()?,
                tainted: authority.tainted,
            })
        });
        Ok(Self {
            trust_domain: TrustDomain::new(&record.trust_domain).map_err(nonsense)?,
            x509_authorities: x509.collect(),
            jwt_authorities: jwt.collect::<Result<_, BadSeal>>()?,
            refresh_hint: record.refresh_hint_seconds.map(Duration::from_secs),
            sequence: record.sequence,
        })
    }
}

impl SvidRecord {
    fn of(entry: &EntryId, svid: &X509Svid) -> Self {
        Self {
            entry_id: entry.to_string(),
            revision: svid.version.revision,
            created_at: svid.version.created_at,
            spiffe_id: svid.spiffe_id.to_string(),
            certificates: svid.certificates.clone(),
            key: svid.key.expose().clone(),
            not_before: svid.lifetime.not_before.unix_timestamp(),
            not_after: svid.lifetime.not_after.unix_timestamp(),
            serial: svid.serial.clone(),
        }
    }

    /// The SVID, to be replaced at its end: who takes it in says when to do so earlier.
    fn read(mut self) -> Result<X509Svid, BadSeal> {
        let lifetime = Lifetime {
            not_before: moment(self.not_before)?,
            not_after: moment(self.not_after)?,
        };
        Ok(X509Svid {
            spiffe_id: self.spiffe_id.parse().map_err(nonsense)?,
            version: EntryVersion {
                revision: self.revision,
                created_at: self.created_at,
            },
            certificates: std::mem::take(&mut self.certificates),
            key: Secret::new(std::mem::take(&mut self.key)),
            lifetime,
            rotate_at: lifetime.not_after,
            serial: std::mem::take(&mut self.serial),
        })
    }
}

impl ResumeRecord {
    /// The place, for these entries and bundles, and what else was told.
    fn read(
        self,
        entries: &[Arc<Entry>],
        bundles: &[Bundle],
        others: impl Iterator<Item = ItemDigest>,
    ) -> Option<Resume> {
        if self.log_id.is_empty() {
            return None;
        }
        let unusable: BTreeMap<EntryId, EntryVersion> = self
            .unusable
            .into_iter()
            .map(|one| {
                let version = EntryVersion {
                    revision: one.revision,
                    created_at: one.created_at,
                };
                (one.id.as_str().into(), version)
            })
            .collect();
        let of = |id: &EntryId, version: &EntryVersion| {
            ItemDigest::of_entry(id.as_str(), version.revision, version.created_at)
        };
        let told = unusable.iter().map(|(id, version)| of(id, version));
        let entries = entries.iter().map(|entry| of(&entry.id, &entry.version));
        let bundles = bundles.iter().map(ItemDigest::of_bundle);
        Some(Resume {
            log_id: self.log_id.into(),
            revision: self.revision,
            digest: told.chain(entries).chain(bundles).chain(others).collect(),
            unusable: Arc::new(unusable),
        })
    }
}

impl Change {
    /// An entry is new, or differs.
    pub fn entry(entry: &Entry) -> Self {
        Kind::Entry(entry.into()).into()
    }

    /// A bundle is new, or differs.
    pub fn bundle(bundle: &Bundle) -> Self {
        Kind::Bundle(bundle.into()).into()
    }

    /// Up to where the server's changes were followed, if they were.
    pub fn resume(resume: Option<&Resume>) -> Self {
        let record = resume.map(|resume| ResumeRecord {
            log_id: resume.log_id.to_string(),
            revision: resume.revision,
            unusable: resume
                .unusable
                .iter()
                .map(|(id, version)| UnusableRecord {
                    id: id.to_string(),
                    revision: version.revision,
                    created_at: version.created_at,
                })
                .collect(),
        });
        Kind::Resume(record.unwrap_or_default()).into()
    }

    /// An X.509-SVID is new, or replaces another.
    pub fn svid(entry: &EntryId, svid: &X509Svid) -> Self {
        Kind::Svid(SvidRecord::of(entry, svid)).into()
    }

    /// The same of a run.
    pub fn run_svid(run: &EntryId, svid: &X509Svid) -> Self {
        Kind::RunSvid(SvidRecord::of(run, svid)).into()
    }
}

impl From<Kind> for Change {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }
}

impl Batch {
    /// The batch as bytes, which hold keys.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Room for all of it from the start: a buffer that grows leaves copies of keys behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.encoded_len()));
        let _never_full = self.encode(&mut *bytes);
        bytes
    }
}

#[cfg(test)]
mod tests;
