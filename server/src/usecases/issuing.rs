//! Issuing SVIDs: for entries, to agents that may serve them, and directly, to operators.
//!
//! Only the key comes from a CSR of an agent; identity, DNS names and lives come from the entry. No store is read.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use vouchsafe_ca::{CaError, CaManager, IssuedJwt, JwtRequest, X509Request};
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::x509::csr::{self, CsrError};
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_store::EntryId;

use super::registry::{RuleError, workload_id};
use crate::index::{Index, IndexedEntry};
use crate::metrics::{Issued, SvidKind};

/// Most audiences of one token.
pub const MAX_AUDIENCES: usize = 64;
/// Longest audience in bytes.
pub const MAX_AUDIENCE_BYTES: usize = 2048;
/// CSRs that one blocking task checks and signs.
const CHUNK: usize = 16;

/// Why an SVID was not issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuingError {
    /// A field of the request is wrong.
    #[error("{0}")]
    Request(String),
    /// The certificate request is wrong.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The identity is not one that may be minted.
    #[error(transparent)]
    Identity(#[from] RuleError),
    /// No such entry, or not for this agent; which of both is not told.
    #[error("entry not found or not authorized")]
    NotAuthorized,
    /// The authority could not issue.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The work was dropped, as at shutdown.
    #[error("the server is shutting down")]
    Dropped,
}

/// An X.509-SVID that was issued for an entry.
#[derive(Debug)]
pub struct EntrySvid {
    /// The SVID.
    pub svid: CertifiedChain,
    /// The entry's hint.
    pub hint: String,
}

/// A JWT-SVID that was issued.
#[derive(Debug)]
pub struct IssuedToken {
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// The token and its times.
    pub jwt: IssuedJwt,
    /// The entry's hint.
    pub hint: String,
}

/// An entry that the agent may serve, with the CSR for it.
type Job = (Arc<IndexedEntry>, Vec<u8>);

/// Issues SVIDs.
#[derive(Debug, Clone)]
pub struct Issuing {
    trust_domain: TrustDomain,
    index: Arc<Index>,
    ca: Arc<CaManager>,
    issued: Issued,
    /// One for each core: more threads that check and sign at once only take the caches from each other.
    cores: Arc<Semaphore>,
}

impl Issuing {
    /// Issues for a trust domain.
    pub fn new(trust_domain: TrustDomain, index: Arc<Index>, ca: Arc<CaManager>, issued: Issued) -> Self {
        Self {
            trust_domain,
            index,
            ca,
            issued,
            cores: Arc::new(Semaphore::new(available_parallelism().map_or(1, usize::from))),
        }
    }

    /// One X.509-SVID for each entry id and CSR, each by itself; the work is spread over the cores.
    pub async fn x509_for_entries(
        &self,
        agent: &SpiffeId,
        items: Vec<(String, Vec<u8>)>,
        now: OffsetDateTime,
    ) -> Vec<Result<EntrySvid, IssuingError>> {
        let mut jobs: Vec<Result<Job, IssuingError>> = items
            .into_iter()
            .map(|(id, csr)| Ok((self.authorized(agent, &id, now)?, csr)))
            .collect();
        let mut running = Vec::new();
        while !jobs.is_empty() {
            let rest = jobs.split_off(jobs.len().min(CHUNK));
            let chunk = std::mem::replace(&mut jobs, rest);
            let (count, ca) = (chunk.len(), Arc::clone(&self.ca));
            // Nobody closes the semaphore.
            let core = Arc::clone(&self.cores).acquire_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                let _core = core;
                chunk
                    .into_iter()
                    .map(|job| job.and_then(|(entry, csr)| issue_for(&ca, &entry, &csr)))
                    .collect::<Vec<_>>()
            });
            running.push((count, task));
        }
        let mut outcomes = Vec::new();
        for (count, task) in running {
            match task.await {
                Ok(done) => outcomes.extend(done),
                Err(_dropped) => outcomes.extend((0..count).map(|_| Err(IssuingError::Dropped))),
            }
        }
        let signed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.issued
            .add(SvidKind::X509, u64::try_from(signed).unwrap_or(u64::MAX));
        outcomes
    }

    /// A JWT-SVID for an entry.
    pub fn jwt_for_entry(
        &self,
        agent: &SpiffeId,
        entry_id: &str,
        audience: Vec<String>,
        now: OffsetDateTime,
    ) -> Result<IssuedToken, IssuingError> {
        check_audience(&audience)?;
        let entry = self.authorized(agent, entry_id, now)?;
        let jwt = self.ca.issue_jwt(&JwtRequest {
            spiffe_id: entry.spiffe_id.clone(),
            audience,
            ttl: seconds(entry.jwt_svid_ttl_seconds),
            include_jti: entry.jwt_svid_include_jti,
        })?;
        self.issued.add(SvidKind::Jwt, 1);
        Ok(IssuedToken {
            spiffe_id: entry.spiffe_id.clone(),
            jwt,
            hint: entry.hint.to_string(),
        })
    }

    /// An X.509-SVID as its CSR asks, without an entry: for operators.
    pub fn mint_x509(&self, csr: &[u8], ttl_seconds: u32) -> Result<CertifiedChain, IssuingError> {
        let csr = csr::check(csr)?;
        let [uri] = csr.uris.as_slice() else {
            let text = format!(
                "the certificate request has {} URI names: it needs exactly one",
                csr.uris.len()
            );
            return Err(IssuingError::Request(text));
        };
        let field = "the certificate request's URI";
        let id = SpiffeId::new(uri).map_err(|source| RuleError::SpiffeId { field, source })?;
        workload_id(field, &self.trust_domain, &id)?;
        let svid = self.ca.issue_x509(&X509Request {
            spiffe_id: id,
            public_key: csr.public_key,
            dns_names: csr.dns_names,
            ttl: seconds(ttl_seconds),
        })?;
        self.issued.add(SvidKind::X509, 1);
        Ok(svid)
    }

    /// A JWT-SVID for any workload's id, without an entry: for operators.
    pub fn mint_jwt(
        &self,
        id: SpiffeId,
        audience: Vec<String>,
        ttl_seconds: u32,
    ) -> Result<IssuedToken, IssuingError> {
        workload_id("id", &self.trust_domain, &id)?;
        check_audience(&audience)?;
        let jwt = self.ca.issue_jwt(&JwtRequest {
            spiffe_id: id.clone(),
            audience,
            ttl: seconds(ttl_seconds),
            include_jti: false,
        })?;
        self.issued.add(SvidKind::Jwt, 1);
        Ok(IssuedToken {
            spiffe_id: id,
            jwt,
            hint: String::new(),
        })
    }

    fn authorized(
        &self,
        agent: &SpiffeId,
        id: &str,
        now: OffsetDateTime,
    ) -> Result<Arc<IndexedEntry>, IssuingError> {
        let id = EntryId::new(id).map_err(|_not_an_id| IssuingError::NotAuthorized)?;
        let entry = self.index.authorized_entry(agent, &id, now);
        entry.ok_or(IssuingError::NotAuthorized)
    }
}

fn issue_for(ca: &CaManager, entry: &IndexedEntry, csr: &[u8]) -> Result<EntrySvid, IssuingError> {
    let csr = csr::check(csr)?;
    let svid = ca.issue_x509(&X509Request {
        spiffe_id: entry.spiffe_id.clone(),
        public_key: csr.public_key,
        dns_names: entry.dns_names.iter().map(ToString::to_string).collect(),
        ttl: seconds(entry.x509_svid_ttl_seconds),
    })?;
    Ok(EntrySvid {
        svid,
        hint: entry.hint.to_string(),
    })
}

fn seconds(ttl: u32) -> Option<Duration> {
    (ttl > 0).then(|| Duration::from_secs(ttl.into()))
}

fn check_audience(audience: &[String]) -> Result<(), IssuingError> {
    let text = if audience.is_empty() {
        "at least one audience is required".to_owned()
    } else if audience.len() > MAX_AUDIENCES {
        format!(
            "{} audiences are more than the limit of {MAX_AUDIENCES}",
            audience.len()
        )
    } else if audience.iter().any(String::is_empty) {
        "an audience is empty".to_owned()
    } else if audience.iter().any(|name| name.len() > MAX_AUDIENCE_BYTES) {
        format!("an audience is longer than the limit of {MAX_AUDIENCE_BYTES} bytes")
    } else {
        return Ok(());
    };
    Err(IssuingError::Request(text))
}
