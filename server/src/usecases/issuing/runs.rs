//! SVIDs of runs, to the agents that they were admitted for. The identity comes from the run, the key from the CSR.

use std::num::NonZeroU32;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_ca::{JwtRequest, X509Request};
use vouchsafe_identity::jwt::RunClaims;
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::{RunId, RunIdentity, SpiffeId};
use vouchsafe_store::Run;
use vouchsafe_store::class::Inherit;

use super::{AT_ONCE, IssuedToken, Issuing, IssuingError, check_audience, seconds};
use crate::index::{LiveRun, Number};
use crate::metrics::SvidKind;

/// What an agent asks for.
#[derive(Debug, Clone)]
pub struct RunItem {
    /// Whose SVID.
    pub run: RunId,
    /// For which child; 0: for the run itself.
    pub child: u32,
    /// The certificate request.
    pub csr: Vec<u8>,
}

impl Issuing {
    /// One X.509-SVID for each run and CSR, each by itself.
    pub async fn x509_for_runs(
        &self,
        node: &SpiffeId,
        items: Vec<Result<RunItem, IssuingError>>,
        now: OffsetDateTime,
    ) -> Vec<Result<CertifiedChain, IssuingError>> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (place, item) in items.into_iter().enumerate() {
            if place > 0 && place % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            outcomes.push(item.and_then(|item| self.x509_for_run(node, &item, now)));
        }
        outcomes
    }

    fn x509_for_run(
        &self,
        node: &SpiffeId,
        item: &RunItem,
        now: OffsetDateTime,
    ) -> Result<CertifiedChain, IssuingError> {
        let live = self.live(node, item.run, now)?;
        let csr = csr::check(&item.csr)?;
        let svid = self.ca.issue_x509(&X509Request {
            spiffe_id: identity(&live.run, item.child)?,
            public_key: csr.public_key,
            dns_names: Vec::new(),
            ttl: seconds(live.run.svids.x509_ttl_seconds),
            not_after: Some(live.run.expires_at),
        })?;
        live.used(now, Number::X509(svid.serial.clone()));
        self.issued.add(SvidKind::X509, 1);
        Ok(svid)
    }

    /// A JWT-SVID for a run, or for a child of one.
    pub fn jwt_for_run(
        &self,
        node: &SpiffeId,
        (run, child): (RunId, u32),
        audience: Vec<String>,
        now: OffsetDateTime,
    ) -> Result<IssuedToken, IssuingError> {
        check_audience(&audience)?;
        let live = self.live(node, run, now)?;
        let run = &live.run;
        if run.lease.is_some() {
            return Err(IssuingError::Unheard(run.id));
        }
        let own = identity(run, child)?;
        let policy = &run.svids;
        let is_class = all_or_none(
            "the class's id as subject",
            &audience,
            &policy.class_sub_audiences,
        )?;
        let has_claims = all_or_none("the run's claims", &audience, &policy.claims_audiences)?;
        let claims = RunClaims {
            run: identity(run, 0)?,
            class: has_claims.then(|| run.class_id.clone()),
            task: run.task.clone().filter(|_| has_claims),
        };
        let subject = match is_class {
            true => run.class_id.spiffe_id().clone(),
            false => own,
        };
        let jwt = self.ca.issue_jwt(&JwtRequest {
            spiffe_id: subject.clone(),
            audience,
            ttl: seconds(policy.jwt_ttl_seconds),
            include_jti: true,
            not_after: Some(run.expires_at),
            run: (is_class || has_claims).then_some(claims),
        })?;
        if let Some(jti) = &jwt.jti {
            live.used(now, Number::Jwt(jti.clone()));
        }
        self.issued.add(SvidKind::Jwt, 1);
        Ok(IssuedToken {
            spiffe_id: subject,
            jwt,
            hint: String::new(),
        })
    }

    /// A run that lives and was admitted for this node.
    fn live(&self, node: &SpiffeId, id: RunId, now: OffsetDateTime) -> Result<Arc<LiveRun>, IssuingError> {
        if let Some(live) = self.index.run(&id).filter(|live| live.run.node == *node) {
            return match live.run.expires_at > now {
                true => Ok(live),
                false => Err(ended(id, "expired".to_owned())),
            };
        }
        match self.index.ended_run(&id, node) {
            Some(end) => Err(ended(id, end.reason.text())),
            None => Err(IssuingError::NoRun(id)),
        }
    }
}

fn ended(id: RunId, how: String) -> IssuingError {
    IssuingError::RunEnded { id, how }
}

/// The id of a run, or of a child that may have one.
fn identity(run: &Run, child: u32) -> Result<SpiffeId, IssuingError> {
    let max = RunIdentity::MAX_CHILDREN;
    if child > max {
        let text = format!("child {child} is more than the limit of {max} children");
        return Err(IssuingError::Request(text));
    }
    if child > 0 && run.svids.inherit != Inherit::Derived {
        return Err(IssuingError::NoChildren(run.class.clone()));
    }
    let identity = RunIdentity {
        class: run.class_id.clone(),
        run: run.id,
        child: NonZeroU32::new(child),
    };
    identity
        .spiffe_id()
        .map_err(|e| IssuingError::Request(e.to_string()))
}

/// Whether a token is for listed audiences. One is for those that are listed or for those that are not: what it says
/// for the ones is not for the others.
fn all_or_none(what: &str, audience: &[String], listed: &[String]) -> Result<bool, IssuingError> {
    let count = audience.iter().filter(|name| listed.contains(name)).count();
    if count != 0 && count != audience.len() {
        let text = format!("some of these audiences get {what}, and others do not: ask for a token each");
        return Err(IssuingError::Request(text));
    }
    Ok(count != 0)
}
