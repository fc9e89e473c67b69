//! Issuing SVIDs: for entries, to agents that may serve them, and directly, to operators.
//!
//! Only the key comes from a CSR of an agent; identity, DNS names and lives come from the entry. No store is read.

mod runs;

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_ca::{CaError, CaManager, IssuedJwt, JwtRequest, X509Request};
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::x509::csr::{self, CsrError};
use vouchsafe_identity::{ClassName, RunId, SpiffeId, TrustDomain};
use vouchsafe_store::EntryId;

use super::registry::{RuleError, workload_id};
use crate::index::{Index, IndexedEntry};
use crate::metrics::{Issued, SvidKind};

pub use runs::RunItem;

/// Most audiences of one token.
pub const MAX_AUDIENCES: usize = 64;
/// Longest audience in bytes.
pub const MAX_AUDIENCE_BYTES: usize = 2048;
/// CSRs that are checked and signed before other calls get their turn: about half a millisecond.
const AT_ONCE: usize = 8;

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
    /// No such run, or not admitted for this agent; which of both is not told.
    #[error("run `{0}` not found, or not admitted for this node")]
    NoRun(RunId),
    /// The run has ended.
    #[error("run `{id}` has ended: {how}")]
    RunEnded {
        /// Which.
        id: RunId,
        /// How.
        how: String,
    },
    /// The run was launched by a lease, and by whom and for what has not been heard yet.
    #[error("run `{0}` is leased, and its agent has not said yet that it was launched: try again")]
    Unheard(RunId),
    /// Children of the run have no ids of their own.
    #[error("children of runs of class `{0}` have no ids of their own")]
    NoChildren(ClassName),
    /// The id belongs to a class: only its runs get it.
    #[error("`{id}` belongs to class `{class}`: only its runs have such ids")]
    OfClass {
        /// The id.
        id: SpiffeId,
        /// The class.
        class: ClassName,
    },
    /// The authority could not issue.
    #[error(transparent)]
    Ca(#[from] CaError),
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

/// Issues SVIDs.
#[derive(Debug, Clone)]
pub struct Issuing {
    trust_domain: TrustDomain,
    index: Arc<Index>,
    ca: Arc<CaManager>,
    issued: Issued,
}

impl Issuing {
    /// Issues for a trust domain.
    pub fn new(trust_domain: TrustDomain, index: Arc<Index>, ca: Arc<CaManager>, issued: Issued) -> Self {
        Self {
            trust_domain,
            index,
            ca,
            issued,
        }
    }

    /// One X.509-SVID for each entry id and CSR, each by itself.
    ///
    /// Signs where it is called, a few at a time with others let in between: handing the work to other threads costs
    /// more than a third of the signatures. Many calls keep all cores busy; a lone one keeps one.
    pub async fn x509_for_entries(
        &self,
        agent: &SpiffeId,
        items: Vec<(String, Vec<u8>)>,
        now: OffsetDateTime,
    ) -> Vec<Result<EntrySvid, IssuingError>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (place, (id, csr)) in items.into_iter().enumerate() {
            if place > 0 && place % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let entry = self.authorized(agent, &id, now);
            outcomes.push(entry.and_then(|entry| issue_for(&self.ca, &entry, &csr)));
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
            not_after: None,
            run: None,
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
        self.no_class_owns(&id)?;
        let svid = self.ca.issue_x509(&X509Request {
            spiffe_id: id,
            public_key: csr.public_key,
            dns_names: csr.dns_names,
            ttl: seconds(ttl_seconds),
            not_after: None,
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
        self.no_class_owns(&id)?;
        check_audience(&audience)?;
        let jwt = self.ca.issue_jwt(&JwtRequest {
            spiffe_id: id.clone(),
            audience,
            ttl: seconds(ttl_seconds),
            include_jti: false,
            not_after: None,
            run: None,
        })?;
        self.issued.add(SvidKind::Jwt, 1);
        Ok(IssuedToken {
            spiffe_id: id,
            jwt,
            hint: String::new(),
        })
    }

    fn no_class_owns(&self, id: &SpiffeId) -> Result<(), IssuingError> {
        match self.index.class_owning(id) {
            None => Ok(()),
            Some(class) => Err(IssuingError::OfClass {
                id: id.clone(),
                class,
            }),
        }
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
        not_after: None,
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

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use time::Duration as Span;
    use vouchsafe_ca::CaConfig;
    use vouchsafe_runtime::Clock;
    use vouchsafe_runtime::keys::MemoryKeys;
    use vouchsafe_store::{MemoryStore, SharedStore};

    use super::*;

    #[tokio::test]
    async fn other_calls_get_their_turn_after_so_many_requests() {
        let trust_domain = TrustDomain::new("example.org").unwrap();
        let store: SharedStore = Arc::new(MemoryStore::new("server-1"));
        let now = OffsetDateTime::UNIX_EPOCH + Span::days(20_000);
        let config = CaConfig::new(trust_domain.clone());
        let keys = Arc::new(MemoryKeys::new());
        let ca = CaManager::start(config, Arc::clone(&store), keys, Clock::manual(now)).await;
        let index = Index::load(&store).await.unwrap();
        let issuing = Issuing::new(trust_domain, index, ca.unwrap(), Issued::default());
        let agent = SpiffeId::new("spiffe://example.org/spire/agent/join_token/a").unwrap();
        for (requests, turns) in [
            (1, 0),
            (AT_ONCE, 0),
            (AT_ONCE + 1, 1),
            (2 * AT_ONCE, 1),
            (2 * AT_ONCE + 1, 2),
        ] {
            let items = vec![("none".to_owned(), Vec::new()); requests];
            let mut issued = pin!(issuing.x509_for_entries(&agent, items, now));
            let mut found = 0;
            let outcomes = loop {
                match issued.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(outcomes) => break outcomes,
                    Poll::Pending => found += 1,
                }
            };
            assert_eq!((outcomes.len(), found), (requests, turns));
        }
    }
}
