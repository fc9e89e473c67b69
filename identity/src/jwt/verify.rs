//! Verifying a JWT-SVID against the bundle of its subject's trust domain (JWT-SVID §4).

use jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::{Header, JwtError, NOT_BEFORE_LEEWAY, Parts, audience, date, subject};
use crate::public_key::{self, PublicKeyKind, key_bits};
use crate::{Bundle, JwtAuthority, SpiffeId, TrustDomain};

/// A JWT-SVID that was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedSvid {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// When it ceases to be valid.
    pub expires_at: OffsetDateTime,
    /// All that it says.
    pub claims: Map<String, Value>,
}

/// Verifies a token for one audience: form, algorithm, key, signature, audience and dates.
///
/// `bundles` finds the bundle of a trust domain; without one the token is not trusted. A tainted
/// authority still verifies until it is revoked, that is, until it has left the bundle.
///
/// # Errors
/// [`JwtError`], which names the first check that fails.
pub fn verify_svid<'b>(
    token: &str,
    expected_audience: &str,
    bundles: impl Fn(&TrustDomain) -> Option<&'b Bundle>,
    now: OffsetDateTime,
) -> Result<VerifiedSvid, JwtError> {
    if expected_audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    let parts = Parts::read(token)?;
    let algorithm = check_header(&parts.header)?;
    let trust_domain = subject(&parts.claims)?.trust_domain();
    let bundle = bundles(&trust_domain).ok_or_else(|| JwtError::UnknownTrustDomain(trust_domain.clone()))?;
    if bundle.trust_domain != trust_domain {
        return Err(JwtError::UnknownTrustDomain(trust_domain));
    }
    let claims = verify_signature(token, &parts.header, algorithm, bundle, now)?;

    let spiffe_id = subject(&claims)?;
    if !audience(&claims)?.iter().any(|one| one == expected_audience) {
        return Err(JwtError::Audience(expected_audience.to_owned()));
    }
    let expires_at = date(&claims, "exp")?;
    if now >= expires_at {
        return Err(JwtError::Expired(expires_at));
    }
    if claims.contains_key("nbf") {
        let not_before = date(&claims, "nbf")?;
        if not_before - now > NOT_BEFORE_LEEWAY {
            return Err(JwtError::NotYetValid(not_before));
        }
    }
    Ok(VerifiedSvid {
        spiffe_id,
        expires_at,
        claims,
    })
}

fn check_header(header: &Header) -> Result<Algorithm, JwtError> {
    if let Some(typ) = &header.typ
        && typ != "JWT"
        && typ != "JOSE"
    {
        return Err(JwtError::Type(typ.clone()));
    }
    algorithm(header)
}

/// The algorithm, if it is one that JWT-SVID lists.
pub(super) fn algorithm(header: &Header) -> Result<Algorithm, JwtError> {
    match header.alg.as_str() {
        "ES256" => Ok(Algorithm::ES256),
        "ES384" => Ok(Algorithm::ES384),
        "RS256" => Ok(Algorithm::RS256),
        "RS384" => Ok(Algorithm::RS384),
        "RS512" => Ok(Algorithm::RS512),
        "PS256" => Ok(Algorithm::PS256),
        "PS384" => Ok(Algorithm::PS384),
        "PS512" => Ok(Algorithm::PS512),
        other => Err(JwtError::Algorithm(other.to_owned())),
    }
}

/// Tries the key that the token names or, as `kid` is optional (JWT-SVID §2.2), each key that fits.
pub(super) fn verify_signature(
    token: &str,
    header: &Header,
    algorithm: Algorithm,
    bundle: &Bundle,
    now: OffsetDateTime,
) -> Result<Map<String, Value>, JwtError> {
    let mut candidates = bundle
        .jwt_authorities
        .iter()
        .filter(|authority| authority.expires_at.is_none_or(|end| now < end))
        .filter(|authority| header.kid.as_ref().is_none_or(|kid| *kid == authority.key_id))
        .peekable();
    if candidates.peek().is_none() {
        return Err(JwtError::UnknownKey {
            trust_domain: bundle.trust_domain.clone(),
            key_id: header.kid.clone().unwrap_or_default(),
        });
    }
    candidates
        .filter_map(|authority| decoding_key(authority, algorithm))
        .find_map(|key| decode(token, &key, algorithm))
        .ok_or(JwtError::Signature)
}

/// The key in the library's form, if the algorithm is one of this kind of key.
fn decoding_key(authority: &JwtAuthority, algorithm: Algorithm) -> Option<DecodingKey> {
    let kind = public_key::check(&authority.public_key).ok()?;
    let bits = key_bits(&authority.public_key)?;
    match (kind, algorithm) {
        (PublicKeyKind::EcP256, Algorithm::ES256) | (PublicKeyKind::EcP384, Algorithm::ES384) => {
            Some(DecodingKey::from_ec_der(&bits))
        }
        (
            PublicKeyKind::Rsa,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512,
        ) => Some(DecodingKey::from_rsa_der(&bits)),
        _ => None,
    }
}

fn decode(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Option<Map<String, Value>> {
    // Two features of the library exclude each other at run time; naming the provider settles it.
    // An error says only that it is installed already.
    let _ = DEFAULT_PROVIDER.install_default();
    let mut validation = Validation::new(algorithm);
    // Dates and audience are judged by our caller: the library would read the system's clock.
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation)
        .ok()
        .map(|data| data.claims)
}
