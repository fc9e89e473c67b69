//! The SPIFFE bundle document: a JWK set (SPIFFE Trust Domain and Bundle §4, X509-SVID §6, JWT-SVID §6).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

use super::jwk::Jwk;
use super::pem::authority_key;
use super::{Bundle, BundleError, JwtAuthority, MAX_BUNDLE_BYTES, MAX_BUNDLE_KEYS, X509Authority};
use crate::TrustDomain;
use crate::public_key::PublicKeyError;

const USE_X509: &str = "x509-svid";
const USE_JWT: &str = "jwt-svid";

#[derive(Serialize)]
struct DocumentOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct DocumentIn {
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
    keys: Vec<Value>,
}

impl Bundle {
    /// Writes the SPIFFE bundle document.
    ///
    /// # Errors
    /// [`BundleError`] when an authority's key is of a kind that has no JWK here.
    pub fn to_jwks(&self) -> Result<Vec<u8>, BundleError> {
        let mut keys = Vec::new();
        for (at, authority) in self.x509_authorities.iter().enumerate() {
            let spki = authority_key(at, &authority.certificate)?;
            let mut key = jwk(at, &spki)?;
            key.key_use = Some(USE_X509.to_owned());
            key.x5c = Some(vec![STANDARD.encode(&authority.certificate)]);
            keys.push(key);
        }
        for (at, authority) in self.jwt_authorities.iter().enumerate() {
            let mut key = jwk(at, &authority.public_key)?;
            key.key_use = Some(USE_JWT.to_owned());
            key.kid = Some(authority.key_id.clone());
            keys.push(key);
        }
        write(&DocumentOut {
            spiffe_sequence: Some(self.sequence),
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
            keys,
        })
    }

    /// Writes the JWT keys alone as a plain JWK set, as the Workload API's `FetchJWTBundles` sends
    /// them: without SPIFFE's own parameters, which other JWT libraries would not know.
    ///
    /// # Errors
    /// [`BundleError`] when a key is of a kind that has no JWK here.
    pub fn jwt_jwks(&self) -> Result<Vec<u8>, BundleError> {
        let keys = self
            .jwt_authorities
            .iter()
            .enumerate()
            .map(|(at, authority)| {
                let mut key = jwk(at, &authority.public_key)?;
                key.kid = Some(authority.key_id.clone());
                Ok(key)
            })
            .collect::<Result<Vec<_>, BundleError>>()?;
        write(&DocumentOut {
            spiffe_sequence: None,
            spiffe_refresh_hint: None,
            keys,
        })
    }

    /// Reads a SPIFFE bundle document. Keys of unknown kinds and uses are left out, as the
    /// standard demands; a broken key of a known use refuses the whole document.
    ///
    /// # Errors
    /// [`BundleError`], which names what is wrong and where.
    pub fn from_jwks(trust_domain: TrustDomain, document: &[u8]) -> Result<Self, BundleError> {
        if document.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLong(document.len()));
        }
        let parsed: DocumentIn = serde_json::from_slice(document).map_err(BundleError::Json)?;
        if parsed.keys.len() > MAX_BUNDLE_KEYS {
            return Err(BundleError::TooManyKeys(parsed.keys.len()));
        }
        let mut bundle = Self::empty(trust_domain);
        bundle.sequence = parsed.spiffe_sequence.unwrap_or_default();
        bundle.refresh_hint = parsed.spiffe_refresh_hint.map(Duration::from_secs);
        for (at, value) in parsed.keys.into_iter().enumerate() {
            match value.get("use").and_then(Value::as_str) {
                Some(USE_X509) => bundle.take_x509(at, read_jwk(value)?)?,
                Some(USE_JWT) => bundle.take_jwt(at, &read_jwk(value)?)?,
                _ => {}
            }
        }
        Ok(bundle)
    }

    /// X509-SVID §6.2: no `x5c` means no entry; of several certificates the first counts.
    fn take_x509(&mut self, at: usize, jwk: Jwk) -> Result<(), BundleError> {
        let Some(encoded) = jwk.x5c.unwrap_or_default().into_iter().next() else {
            return Ok(());
        };
        let known = matches!(jwk.kty.as_deref(), Some("EC" | "RSA" | "OKP"));
        if !known {
            return Ok(());
        }
        let certificate = STANDARD.decode(encoded).map_err(|_| BundleError::Certificate {
            at,
            reason: "its x5c is not base64",
        })?;
        authority_key(at, &certificate)?;
        self.add_x509(certificate);
        Ok(())
    }

    pub(super) fn add_x509(&mut self, certificate: Vec<u8>) {
        let known = self
            .x509_authorities
            .iter()
            .any(|one| one.certificate == certificate);
        if !known {
            self.x509_authorities.push(X509Authority {
                certificate,
                tainted: false,
            });
        }
    }

    fn take_jwt(&mut self, at: usize, jwk: &Jwk) -> Result<(), BundleError> {
        let public_key = match jwk.to_spki() {
            None => return Ok(()),
            Some(Err(source)) => return Err(BundleError::Key { at, source }),
            Some(Ok(public_key)) => public_key,
        };
        let key_id = match &jwk.kid {
            Some(kid) if !kid.is_empty() => kid.clone(),
            _ => {
                return Err(BundleError::Jwk {
                    at,
                    reason: "a JWT key needs a `kid`",
                });
            }
        };
        match self.jwt_authority(&key_id) {
            Some(known) if known.public_key == public_key => {}
            Some(_) => return Err(BundleError::DuplicateKeyId(key_id)),
            None => self.jwt_authorities.push(JwtAuthority {
                key_id,
                public_key,
                expires_at: None,
                tainted: false,
            }),
        }
        Ok(())
    }
}

fn jwk(at: usize, spki: &[u8]) -> Result<Jwk, BundleError> {
    Jwk::from_spki(spki).map_err(|source: PublicKeyError| BundleError::Key { at, source })
}

fn read_jwk(value: Value) -> Result<Jwk, BundleError> {
    serde_json::from_value(value).map_err(BundleError::Json)
}

fn write(document: &DocumentOut) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec(document).map_err(BundleError::Json)
}
