//! Launch leases: a server's word that a node may launch one run of a class while the server is away.
//!
//! They are JWTs with a type of their own (RFC 8725 §3.11), without subject and audience, so that nobody takes one for a
//! JWT-SVID, nor a JWT-SVID for one.

use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::verify::{algorithm, verify_signature};
use super::{JwtError, Parts, date, sign};
use crate::{Bundle, ClassName, Signer, SpiffeId};

/// The `typ`.
const TYPE: &str = "launch-lease+jwt";

/// What a launch lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchLease {
    /// The SPIFFE ID that the run will have.
    pub run: SpiffeId,
    /// The node agent that may launch it.
    pub node: SpiffeId,
    /// The class.
    pub class: ClassName,
    /// The version of the class that it holds for.
    pub class_version: u64,
    /// When it was given or renewed.
    pub issued_at: OffsetDateTime,
    /// When it ends, and with it a run of which the server has not heard by then.
    pub expires_at: OffsetDateTime,
}

#[derive(Serialize)]
struct Claims<'a> {
    run: &'a str,
    node: &'a str,
    class: &'a str,
    class_version: u64,
    iat: i64,
    exp: i64,
}

/// Signs a lease; `key_id` is the `kid` under which the bundle lists the key.
///
/// # Errors
/// [`JwtError`] when it would end before it begins, or the key does not sign.
pub fn sign_lease(lease: &LaunchLease, key_id: &str, signer: &dyn Signer) -> Result<String, JwtError> {
    if lease.expires_at <= lease.issued_at {
        return Err(JwtError::Validity {
            issued_at: lease.issued_at,
            expires_at: lease.expires_at,
        });
    }
    let claims = Claims {
        run: lease.run.as_str(),
        node: lease.node.as_str(),
        class: lease.class.as_str(),
        class_version: lease.class_version,
        iat: lease.issued_at.unix_timestamp(),
        exp: lease.expires_at.unix_timestamp(),
    };
    sign(TYPE, &claims, key_id, signer)
}

/// Verifies a lease against the bundle of the node's own trust domain. An authority that is tainted vouches for no lease.
///
/// # Errors
/// [`JwtError`], which names the first check that fails.
pub fn verify_lease(token: &str, bundle: &Bundle, now: OffsetDateTime) -> Result<LaunchLease, JwtError> {
    let parts = Parts::read(token)?;
    if parts.header.typ.as_deref() != Some(TYPE) {
        return Err(JwtError::NotALease);
    }
    let mut trusted = bundle.clone();
    trusted.jwt_authorities.retain(|authority| !authority.tainted);
    let claims = verify_signature(token, &parts.header, algorithm(&parts.header)?, &trusted, now)?;
    let lease = LaunchLease {
        run: SpiffeId::new(text(&claims, "run")?)?,
        node: SpiffeId::new(text(&claims, "node")?)?,
        class: ClassName::new(text(&claims, "class")?).map_err(|_| JwtError::Claim("class"))?,
        class_version: claims
            .get("class_version")
            .and_then(Value::as_u64)
            .ok_or(JwtError::Claim("class_version"))?,
        issued_at: date(&claims, "iat")?,
        expires_at: date(&claims, "exp")?,
    };
    match now < lease.expires_at {
        true => Ok(lease),
        false => Err(JwtError::Expired(lease.expires_at)),
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, JwtError> {
    claims
        .get(name)
        .and_then(Value::as_str)
        .ok_or(JwtError::Claim(name))
}

#[cfg(test)]
mod tests;
