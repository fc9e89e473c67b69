//! One JSON Web Key (RFC 7517, RFC 7518 §6, RFC 8037) and its public key in DER, both ways.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, EcdsaVerificationAlgorithm, ParsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;

use crate::public_key::{self, PublicKeyError, PublicKeyKind, key_bits};

/// The parameters of a JWK that matter here; all others are ignored.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Jwk {
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub(super) key_use: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kty: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) x5c: Option<Vec<String>>,
}

impl Jwk {
    /// The key parameters of a SubjectPublicKeyInfo.
    pub(super) fn from_spki(spki: &[u8]) -> Result<Self, PublicKeyError> {
        let kind = public_key::check(spki)?;
        let bits = key_bits(spki).ok_or(PublicKeyError::Malformed)?;
        match kind {
            PublicKeyKind::EcP256 => Self::from_point("P-256", &bits),
            PublicKeyKind::EcP384 => Self::from_point("P-384", &bits),
            PublicKeyKind::Ed25519 => Ok(Self {
                kty: Some("OKP".to_owned()),
                crv: Some("Ed25519".to_owned()),
                x: Some(URL_SAFE_NO_PAD.encode(bits)),
                ..Self::default()
            }),
            PublicKeyKind::Rsa => {
                let (_, key) = RSAPublicKey::from_der(&bits).map_err(|_| PublicKeyError::Malformed)?;
                Ok(Self {
                    kty: Some("RSA".to_owned()),
                    n: Some(encode_unsigned(key.modulus)),
                    e: Some(encode_unsigned(key.exponent)),
                    ..Self::default()
                })
            }
        }
    }

    fn from_point(curve: &str, point: &[u8]) -> Result<Self, PublicKeyError> {
        let Some((4, halves)) = point.split_first() else {
            return Err(PublicKeyError::Malformed);
        };
        let (x, y) = halves.split_at(halves.len() / 2);
        Ok(Self {
            kty: Some("EC".to_owned()),
            crv: Some(curve.to_owned()),
            x: Some(URL_SAFE_NO_PAD.encode(x)),
            y: Some(URL_SAFE_NO_PAD.encode(y)),
            ..Self::default()
        })
    }

    /// The key as SubjectPublicKeyInfo, or nothing when its kind is unknown.
    pub(super) fn to_spki(&self) -> Option<Result<Vec<u8>, PublicKeyError>> {
        let spki = match (self.kty.as_deref()?, self.crv.as_deref()) {
            ("EC", Some("P-256")) => self.point(&ECDSA_P256_SHA256_ASN1, 32),
            ("EC", Some("P-384")) => self.point(&ECDSA_P384_SHA384_ASN1, 48),
            ("OKP", Some("Ed25519")) => self.edwards_point(),
            ("RSA", _) => self.modulus(),
            _ => return None,
        };
        Some(spki.and_then(|spki| public_key::check(&spki).map(|_| spki)))
    }

    fn point(
        &self,
        algorithm: &'static EcdsaVerificationAlgorithm,
        half: usize,
    ) -> Result<Vec<u8>, PublicKeyError> {
        let (x, y) = (decode(self.x.as_ref())?, decode(self.y.as_ref())?);
        // RFC 7518 §6.2.1.2: each coordinate has the full length of the curve.
        if x.len() != half || y.len() != half {
            return Err(PublicKeyError::Malformed);
        }
        let point = [&[4], x.as_slice(), y.as_slice()].concat();
        to_der(&ParsedPublicKey::new(algorithm, point).map_err(|_| PublicKeyError::Malformed)?)
    }

    fn edwards_point(&self) -> Result<Vec<u8>, PublicKeyError> {
        let x = decode(self.x.as_ref())?;
        if x.len() != 32 {
            return Err(PublicKeyError::Malformed);
        }
        to_der(&ParsedPublicKey::new(&ED25519, x).map_err(|_| PublicKeyError::Malformed)?)
    }

    fn modulus(&self) -> Result<Vec<u8>, PublicKeyError> {
        to_der(&PublicKeyComponents {
            n: decode(self.n.as_ref())?,
            e: decode(self.e.as_ref())?,
        })
    }
}

fn to_der(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<Vec<u8>, PublicKeyError> {
    key.as_der()
        .map(|der| der.as_ref().to_vec())
        .map_err(|_| PublicKeyError::Malformed)
}

fn encode_unsigned(integer: &[u8]) -> String {
    let start = integer.iter().position(|byte| *byte != 0).unwrap_or(0);
    URL_SAFE_NO_PAD.encode(integer.get(start..).unwrap_or_default())
}

fn decode(parameter: Option<&String>) -> Result<Vec<u8>, PublicKeyError> {
    parameter
        .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
        .ok_or(PublicKeyError::Malformed)
}
