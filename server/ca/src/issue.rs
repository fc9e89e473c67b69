//! Issuing: X.509-SVIDs and JWT-SVIDs from one snapshot of the active keys.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_identity::jwt::{LaunchLease, RunClaims, SvidClaims, sign_lease, sign_svid};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid};
use vouchsafe_identity::{SpiffeId, key};

use crate::purpose::JwtIssuer;
use crate::{CaConfig, CaError};

/// How far a certificate's start lies in the past, for verifiers whose clocks are behind (SPIRE's 10 s).
pub const BACKDATE: Duration = Duration::from_secs(10);

/// How long an old authority must last to sign what the server shows, so that this is not renewed again and again.
const LEAST_LEFT: Duration = Duration::from_secs(10 * 60);

/// What an X.509-SVID shall say. Nothing of it comes from the CSR but the key.
#[derive(Debug, Clone)]
pub struct X509Request {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// The key of a CSR that has been checked.
    pub public_key: CheckedKey,
    /// DNS names, at most as the entry lists them.
    pub dns_names: Vec<String>,
    /// Its life; the default where `None`.
    pub ttl: Option<Duration>,
    /// It ends by then, however long its life should be.
    pub not_after: Option<OffsetDateTime>,
}

/// What a JWT-SVID shall say.
#[derive(Debug, Clone)]
pub struct JwtRequest {
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// Who may accept it; at least one.
    pub audience: Vec<String>,
    /// Its life; the default where `None`.
    pub ttl: Option<Duration>,
    /// Whether it carries a `jti`.
    pub include_jti: bool,
    /// It ends by then, however long its life should be.
    pub not_after: Option<OffsetDateTime>,
    /// What it says of the run that it is issued to.
    pub run: Option<RunClaims>,
}

/// A token with its times.
#[derive(Debug)]
pub struct IssuedJwt {
    /// The token, compact serialisation.
    pub token: String,
    /// `iat`.
    pub issued_at: OffsetDateTime,
    /// `exp`.
    pub expires_at: OffsetDateTime,
    /// `jti`, if it carries one.
    pub jti: Option<String>,
}

/// What signs now.
#[derive(Debug, Default)]
pub(crate) enum Active<I> {
    /// Nothing.
    #[default]
    None,
    /// Nothing, because the authority of this id is tainted.
    Tainted(String),
    /// This.
    Issuer(Arc<I>),
}

impl<I> Active<I> {
    fn issuer(&self, purpose: &'static str) -> Result<&Arc<I>, CaError> {
        match self {
            Self::Issuer(issuer) => Ok(issuer),
            Self::None => Err(CaError::NoActiveAuthority(purpose)),
            Self::Tainted(authority_id) => Err(CaError::Tainted {
                purpose,
                authority_id: authority_id.clone(),
            }),
        }
    }
}

/// The keys that sign now.
#[derive(Debug, Default)]
pub(crate) struct Signing {
    pub(crate) x509: Active<Issuer>,
    pub(crate) jwt: Active<JwtIssuer>,
    /// The X.509 authorities that the bundle has and that are not tainted, the one that is known for longest first.
    pub(crate) trusted: Vec<Known>,
}

/// An authority that those who verify may know.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) since: OffsetDateTime,
    pub(crate) issuer: Arc<Issuer>,
}

impl Signing {
    pub(crate) fn x509(
        &self,
        config: &CaConfig,
        request: &X509Request,
        now: OffsetDateTime,
    ) -> Result<CertifiedChain, CaError> {
        let issuer = self.x509.issuer("X.509")?;
        // One of before the clock was put back verifies nowhere yet.
        if issuer.not_after() <= now || issuer.not_before() > now {
            return Err(CaError::NoActiveAuthority("X.509"));
        }
        issue_by(issuer, config, request, now)
    }

    /// By the authority that signs, once it is known for `heard_within`; until then by the one that is known for
    /// longest and does not end within [`LEAST_LEFT`].
    pub(crate) fn x509_for_server(
        &self,
        config: &CaConfig,
        request: &X509Request,
        (heard_within, now): (Duration, OffsetDateTime),
    ) -> Result<CertifiedChain, CaError> {
        let least = LEAST_LEFT.min(request.ttl.unwrap_or(config.x509_svid_ttl));
        let lasts = |known: &&Known| {
            let Known { issuer, .. } = known;
            issuer.not_before() <= now && issuer.not_after() >= now + least
        };
        let active = self.x509.issuer("X.509").ok();
        let is_heard = self.trusted.iter().any(|known| {
            active.is_some_and(|active| active.key_id() == known.issuer.key_id())
                && known.since + heard_within <= now
        });
        match self.trusted.iter().find(lasts) {
            Some(known) if !is_heard => issue_by(&known.issuer, config, request, now),
            _ => self.x509(config, request, now),
        }
    }

    fn jwt_issuer(&self, now: OffsetDateTime) -> Result<&JwtIssuer, CaError> {
        let issuer = self.jwt.issuer("JWT")?;
        match issuer.expires_at > now {
            true => Ok(issuer),
            false => Err(CaError::NoActiveAuthority("JWT")),
        }
    }

    /// Signs a lease, which ends with the key that signs it.
    pub(crate) fn lease(
        &self,
        mut lease: LaunchLease,
        now: OffsetDateTime,
    ) -> Result<(String, LaunchLease), CaError> {
        let issuer = self.jwt_issuer(now)?;
        lease.expires_at = lease.expires_at.min(issuer.expires_at);
        let token = sign_lease(&lease, &issuer.key_id, issuer.signer.as_ref())?;
        Ok((token, lease))
    }

    pub(crate) fn jwt(
        &self,
        config: &CaConfig,
        request: &JwtRequest,
        now: OffsetDateTime,
    ) -> Result<IssuedJwt, CaError> {
        let issuer = self.jwt_issuer(now)?;
        if request.audience.is_empty() || request.audience.iter().any(String::is_empty) {
            return Err(CaError::Request(
                "a JWT-SVID needs at least one audience, and none may be empty".to_owned(),
            ));
        }
        let wanted = cut(
            now + request.ttl.unwrap_or(config.jwt_svid_ttl),
            request.not_after,
        );
        let expires_at = wanted.min(issuer.expires_at);
        let claims = SvidClaims {
            subject: request.spiffe_id.clone(),
            audience: request.audience.clone(),
            issued_at: now,
            expires_at,
            issuer: config.jwt_issuer.clone(),
            jti: request.include_jti.then(|| Uuid::new_v4().to_string()),
            run: request.run.clone(),
        };
        let token = sign_svid(&claims, &issuer.key_id, issuer.signer.as_ref())?;
        Ok(IssuedJwt {
            token,
            issued_at: now,
            expires_at,
            jti: claims.jti,
        })
    }
}

/// The earlier of both ends.
fn cut(end: OffsetDateTime, not_after: Option<OffsetDateTime>) -> OffsetDateTime {
    not_after.map_or(end, |not_after| end.min(not_after))
}

fn issue_by(
    issuer: &Issuer,
    config: &CaConfig,
    request: &X509Request,
    now: OffsetDateTime,
) -> Result<CertifiedChain, CaError> {
    let request = SvidRequest {
        spiffe_id: request.spiffe_id.clone(),
        public_key: request.public_key.clone(),
        dns_names: request.dns_names.clone(),
        not_before: now - BACKDATE,
        not_after: cut(
            now + request.ttl.unwrap_or(config.x509_svid_ttl),
            request.not_after,
        ),
        serial: key::random_serial().map_err(|e| CaError::Request(e.to_string()))?,
    };
    Ok(issue_svid(&request, issuer)?)
}
