//! JWT-SVIDs: signing, verifying and looking into them (standard JWT-SVID).
//!
//! Tokens are signed by any [`Signer`] and verified by `jsonwebtoken`; dates are judged here,
//! against the `now` that the caller gives.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime};

use crate::{ClassId, KeyAlgorithm, SignError, Signer, SpiffeId, SpiffeIdError, TaskId, TrustDomain};

mod ecdsa;
mod lease;
mod verify;

pub use lease::{LaunchLease, sign_lease, verify_lease};
pub use verify::{VerifiedSvid, verify_svid};

/// Largest token that is made or read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// How far a token's `nbf` may lie in the future, because clocks differ. For `exp` there is no leeway.
pub const NOT_BEFORE_LEEWAY: Duration = Duration::seconds(10);

/// Why a JWT-SVID was not signed or is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("a token of {0} bytes is longer than the limit of {MAX_TOKEN_BYTES} bytes")]
    TooLong(usize),
    /// Not three parts of base64url, or a part is not the JSON that it should be.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// A header other than `alg`, `kid` and `typ`, or one of these twice or of a wrong type (JWT-SVID §2).
    #[error("the token's header is refused: only `alg`, `kid` and `typ` may stand in it")]
    Header(#[source] serde_json::Error),
    /// An algorithm that JWT-SVID §2.1 does not list, `none` and HMAC included, or that is not supported.
    #[error(
        "the token's algorithm `{0}` is not supported: use ES256, ES384, RS256 to RS512 or PS256 to PS512"
    )]
    Algorithm(String),
    /// A `typ` other than `JWT` and `JOSE` (JWT-SVID §2.3).
    #[error("the token's type `{0}` is neither `JWT` nor `JOSE`")]
    Type(String),
    /// A `typ` other than a launch lease's.
    #[error("the token is not a launch lease")]
    NotALease,
    /// A claim is missing or of a wrong type.
    #[error("the token's claim `{0}` is missing or of a wrong type")]
    Claim(&'static str),
    /// The subject is not a SPIFFE ID (JWT-SVID §3.1).
    #[error("the token's subject is not a SPIFFE ID")]
    Subject(#[from] SpiffeIdError),
    /// A SPIFFE ID without a path, which names a trust domain and no workload.
    #[error("`{0}` has no path: a token is issued to a workload")]
    NoPath(SpiffeId),
    /// There is no bundle for the trust domain of the subject.
    #[error("trust domain `{0}` is not known, so its tokens are not trusted")]
    UnknownTrustDomain(TrustDomain),
    /// The trust domain has no such key, or it has expired.
    #[error("trust domain `{trust_domain}` has no valid JWT key `{key_id}`")]
    UnknownKey {
        /// Whose key is meant.
        trust_domain: TrustDomain,
        /// The `kid`, empty if the token names none.
        key_id: String,
    },
    /// The signature does not verify, or its algorithm does not fit the key.
    #[error("the token's signature does not verify")]
    Signature,
    /// The token is not meant for who checks it (JWT-SVID §3.2).
    #[error("the token is not for audience `{0}`")]
    Audience(String),
    /// A token without audience, or with an empty one, is asked for (JWT-SVID §3.2).
    #[error("a token needs at least one audience, and none may be empty")]
    NoAudience,
    /// The token has expired (JWT-SVID §3.3).
    #[error("the token expired at {0}")]
    Expired(OffsetDateTime),
    /// The token is not valid yet.
    #[error("the token is not valid before {0}")]
    NotYetValid(OffsetDateTime),
    /// The token would expire before it is issued.
    #[error("the token would expire at {expires_at}, which is not after {issued_at}")]
    Validity {
        /// When it is issued.
        issued_at: OffsetDateTime,
        /// When it would expire.
        expires_at: OffsetDateTime,
    },
    /// The key did not sign.
    #[error("the token was not signed")]
    Sign(#[from] SignError),
    /// The signer's answer is not a signature.
    #[error("key `{0}` gave something that is not a signature")]
    BadSigner(String),
}

/// What a JWT-SVID says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidClaims {
    /// Whose identity it is.
    pub subject: SpiffeId,
    /// For whom it is meant: one in most cases (JWT-SVID §7.2).
    pub audience: Vec<String>,
    /// When it is issued.
    pub issued_at: OffsetDateTime,
    /// When it ceases to be valid.
    pub expires_at: OffsetDateTime,
    /// Who issues it, as OIDC relying parties want to see it.
    pub issuer: Option<String>,
    /// A name of this one token.
    pub jti: Option<String>,
    /// Which run it is issued to, where the audience is to know.
    pub run: Option<RunClaims>,
}

/// What a token says of the run that it is issued to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunClaims {
    /// The run's SPIFFE ID.
    pub run: SpiffeId,
    /// The class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassId>,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    alg: &'static str,
    kid: &'a str,
    typ: &'static str,
}

#[derive(Serialize)]
struct ClaimsOut<'a> {
    sub: &'a str,
    aud: &'a [String],
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'a str>,
    #[serde(flatten)]
    run: Option<&'a RunClaims>,
}

/// Signs a JWT-SVID; `key_id` is the `kid` under which the bundle lists the key.
///
/// # Errors
/// [`JwtError`] when the claims break a rule of the standard or the key does not sign.
pub fn sign_svid(claims: &SvidClaims, key_id: &str, signer: &dyn Signer) -> Result<String, JwtError> {
    if claims.subject.path().is_empty() {
        return Err(JwtError::NoPath(claims.subject.clone()));
    }
    if claims.audience.is_empty() || claims.audience.iter().any(String::is_empty) {
        return Err(JwtError::NoAudience);
    }
    let (iat, exp) = (
        claims.issued_at.unix_timestamp(),
        claims.expires_at.unix_timestamp(),
    );
    if exp <= iat {
        return Err(JwtError::Validity {
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
        });
    }
    let payload = ClaimsOut {
        sub: claims.subject.as_str(),
        aud: &claims.audience,
        exp,
        iat,
        iss: claims.issuer.as_deref(),
        jti: claims.jti.as_deref(),
        run: claims.run.as_ref(),
    };
    sign("JWT", &payload, key_id, signer)
}

/// A token of this type with these claims.
fn sign<T: Serialize>(
    typ: &'static str,
    claims: &T,
    key_id: &str,
    signer: &dyn Signer,
) -> Result<String, JwtError> {
    let alg = match signer.algorithm() {
        KeyAlgorithm::EcP256 => "ES256",
    };
    let header = encode(&HeaderOut {
        alg,
        kid: key_id,
        typ,
    })?;
    let payload = encode(claims)?;
    let mut token = format!("{header}.{payload}");
    let signature = signer.sign(token.as_bytes())?;
    let fixed = match signer.algorithm() {
        KeyAlgorithm::EcP256 => ecdsa::to_fixed_p256(&signature),
    }
    .ok_or_else(|| JwtError::BadSigner(signer.key_id().to_owned()))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(fixed, &mut token);
    if token.len() > MAX_TOKEN_BYTES {
        return Err(JwtError::TooLong(token.len()));
    }
    Ok(token)
}

fn encode<T: Serialize>(part: &T) -> Result<String, JwtError> {
    serde_json::to_vec(part)
        .map(|json| URL_SAFE_NO_PAD.encode(json))
        .map_err(|_| JwtError::Malformed("a claim cannot be written as JSON"))
}

/// What a token claims to say. Nobody has checked the signature: use it to file tokens that come
/// from a trusted hand, never to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedClaims {
    /// The `kid` that the token names.
    pub key_id: Option<String>,
    /// Whose identity it claims to be.
    pub subject: SpiffeId,
    /// For whom it claims to be meant.
    pub audience: Vec<String>,
    /// When it claims to have been issued.
    pub issued_at: Option<OffsetDateTime>,
    /// When it claims to expire.
    pub expires_at: OffsetDateTime,
}

/// Looks into a token **without checking its signature, its audience or its dates**.
///
/// # Errors
/// [`JwtError`] when the token has not the form of a JWT-SVID.
pub fn peek_unverified(token: &str) -> Result<UnverifiedClaims, JwtError> {
    let parts = Parts::read(token)?;
    let claims = &parts.claims;
    Ok(UnverifiedClaims {
        subject: subject(claims)?,
        audience: audience(claims)?,
        issued_at: match claims.get("iat") {
            Some(_) => Some(date(claims, "iat")?),
            None => None,
        },
        expires_at: date(claims, "exp")?,
        key_id: parts.header.kid,
    })
}

/// A token's header as JWT-SVID §2 allows it: nothing else may stand in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
}

/// The parts of a token, decoded and not verified.
struct Parts {
    header: Header,
    claims: Map<String, Value>,
}

impl Parts {
    fn read(token: &str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(JwtError::TooLong(token.len()));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, _signature] = parts.as_slice() else {
            return Err(JwtError::Malformed("it has not three parts"));
        };
        let header = serde_json::from_slice(&decode(header)?).map_err(JwtError::Header)?;
        let claims = serde_json::from_slice(&decode(payload)?)
            .map_err(|_| JwtError::Malformed("its claims are not a JSON object"))?;
        Ok(Self { header, claims })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| JwtError::Malformed("a part of it is not base64url"))
}

fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtError> {
    let text = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or(JwtError::Claim("sub"))?;
    Ok(SpiffeId::new(text)?)
}

/// One text or a list of texts (RFC 7519 §4.1.3); at least one.
fn audience(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let wrong = || JwtError::Claim("aud");
    let list = match claims.get("aud").ok_or_else(wrong)? {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many
            .iter()
            .map(|one| one.as_str().map(ToOwned::to_owned))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(wrong)?,
        _ => return Err(wrong()),
    };
    if list.is_empty() {
        return Err(wrong());
    }
    Ok(list)
}

/// A NumericDate (RFC 7519 §2): seconds, perhaps with a fraction, which is cut off.
fn date(claims: &Map<String, Value>, name: &'static str) -> Result<OffsetDateTime, JwtError> {
    let wrong = || JwtError::Claim(name);
    let value = claims.get(name).ok_or_else(wrong)?;
    let seconds = match (value.as_i64(), value.as_f64()) {
        (Some(whole), _) => whole,
        (None, Some(fraction)) => {
            let length = Duration::checked_seconds_f64(fraction).ok_or_else(wrong)?;
            length.whole_seconds()
        }
        (None, None) => return Err(wrong()),
    };
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests;
