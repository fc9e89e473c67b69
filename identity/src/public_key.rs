//! Public keys from outside, as SubjectPublicKeyInfo: which kinds are taken, and how strong.
//!
//! A key is taken only in the one canonical DER form, so that equal keys are equal bytes.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256,
    VerificationAlgorithm,
};
use x509_parser::asn1_rs::Tag;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// Smallest RSA modulus that is taken, in bits (NIST SP 800-57 part 1).
pub const MIN_RSA_BITS: usize = 2048;
/// Largest RSA modulus that is taken, in bits: verifying a larger one costs too much.
pub const MAX_RSA_BITS: usize = 4096;
/// Smallest RSA public exponent that is taken (FIPS 186-5 §5.1).
pub const MIN_RSA_EXPONENT: u64 = 65_537;
/// Largest SubjectPublicKeyInfo that is looked at, in bytes: RSA with 4096 bits needs 550.
pub const MAX_SPKI_BYTES: usize = 2048;

/// The canonical form of a P-256 key (RFC 5480 §2), up to the coordinates of its uncompressed point.
const P256_HEAD: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// Length of that form, in bytes.
const P256_SPKI_BYTES: usize = 91;

/// Why a public key is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublicKeyError {
    /// The bytes are no SubjectPublicKeyInfo in canonical DER, or the point is not on its curve.
    #[error("the public key is malformed")]
    Malformed,
    /// A key of a kind that is not on the list.
    #[error(
        "public keys of kind `{0}` are not supported: use ec-p256, ec-p384, ed25519 or rsa-2048 to rsa-4096"
    )]
    Unsupported(String),
    /// An RSA key that is too short or too long.
    #[error("an RSA key of {0} bits is not taken: it must have {MIN_RSA_BITS} to {MAX_RSA_BITS}")]
    RsaSize(usize),
    /// An RSA key with a small or even public exponent.
    #[error(
        "an RSA key with the public exponent {0} is not taken: it must be odd and at least {MIN_RSA_EXPONENT}"
    )]
    RsaExponent(u64),
}

/// The kinds of public keys that workloads and foreign authorities may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublicKeyKind {
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// EdDSA on Curve25519.
    Ed25519,
    /// RSA with [`MIN_RSA_BITS`] to [`MAX_RSA_BITS`] bits.
    Rsa,
}

/// A public key that was checked once, so that nobody who is given it has to check it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedKey {
    spki: Vec<u8>,
    kind: PublicKeyKind,
}

impl CheckedKey {
    /// Checks a SubjectPublicKeyInfo as [`check`] does and keeps it.
    ///
    /// # Errors
    /// As [`check`].
    pub fn new(spki: &[u8]) -> Result<Self, PublicKeyError> {
        Self::read(spki).map(|(checked, _)| checked)
    }

    /// As [`CheckedKey::new`], with the key as it was read. Of an elliptic curve it verifies with the digest of the
    /// curve's size, of RSA with SHA-256.
    pub(crate) fn read(spki: &[u8]) -> Result<(Self, ParsedPublicKey), PublicKeyError> {
        let (kind, key) = read(spki)?;
        let spki = spki.to_vec();
        Ok((Self { spki, kind }, key))
    }

    /// SubjectPublicKeyInfo in canonical DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Of which kind it is.
    pub fn kind(&self) -> PublicKeyKind {
        self.kind
    }

    /// The uncompressed point, where the key is one on P-256.
    pub(crate) fn p256_point(&self) -> Option<&[u8]> {
        p256_point(&self.spki)
    }
}

/// Checks a SubjectPublicKeyInfo in DER against the list of kinds and says which it is.
///
/// # Errors
/// [`PublicKeyError`] for bytes that are not canonical DER, kinds that are not supported and weak keys.
pub fn check(spki: &[u8]) -> Result<PublicKeyKind, PublicKeyError> {
    read(spki).map(|(kind, _)| kind)
}

fn read(spki: &[u8]) -> Result<(PublicKeyKind, ParsedPublicKey), PublicKeyError> {
    if spki.len() > MAX_SPKI_BYTES {
        return Err(PublicKeyError::Malformed);
    }
    if is_canonical_p256(spki) {
        // Nothing but the coordinates can vary here: that they are in range and on the curve is found by reading
        // the key, and writing it out again to compare would cost as much as all the rest.
        let read = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki);
        return read
            .map(|key| (PublicKeyKind::EcP256, key))
            .map_err(|_| PublicKeyError::Malformed);
    }
    let (rest, parsed) = SubjectPublicKeyInfo::from_der(spki).map_err(|_| PublicKeyError::Malformed)?;
    if !rest.is_empty() {
        return Err(PublicKeyError::Malformed);
    }
    let kind = kind_of(&parsed)?;
    let algorithm: &'static dyn VerificationAlgorithm = match kind {
        PublicKeyKind::EcP256 => &ECDSA_P256_SHA256_ASN1,
        PublicKeyKind::EcP384 => &ECDSA_P384_SHA384_ASN1,
        PublicKeyKind::Ed25519 => &ED25519,
        PublicKeyKind::Rsa => {
            check_rsa(spki, &parsed)?;
            &RSA_PKCS1_2048_8192_SHA256
        }
    };
    let key = ParsedPublicKey::new(algorithm, spki).map_err(|_| PublicKeyError::Malformed)?;
    let canonical: PublicKeyX509Der<'_> = key.as_der().map_err(|_| PublicKeyError::Malformed)?;
    if canonical.as_ref() == spki {
        Ok((kind, key))
    } else {
        Err(PublicKeyError::Malformed)
    }
}

/// Whether the bytes are a P-256 key in its canonical form, as far as that can be seen without reading the point.
fn is_canonical_p256(spki: &[u8]) -> bool {
    spki.len() == P256_SPKI_BYTES && spki.starts_with(&P256_HEAD)
}

/// The point of a P-256 key in its canonical form.
fn p256_point(spki: &[u8]) -> Option<&[u8]> {
    // It begins with the last byte of the head, which says that it is not compressed.
    is_canonical_p256(spki)
        .then(|| spki.get(P256_HEAD.len() - 1..))
        .flatten()
}

fn kind_of(spki: &SubjectPublicKeyInfo<'_>) -> Result<PublicKeyKind, PublicKeyError> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = spki
            .algorithm
            .parameters
            .as_ref()
            .filter(|parameters| parameters.tag() == Tag::Oid)
            .and_then(|parameters| parameters.as_oid().ok())
            .ok_or(PublicKeyError::Malformed)?;
        if curve == OID_EC_P256 {
            Ok(PublicKeyKind::EcP256)
        } else if curve == OID_NIST_EC_P384 {
            Ok(PublicKeyKind::EcP384)
        } else {
            Err(PublicKeyError::Unsupported(format!("ec {curve}")))
        }
    } else if *algorithm == OID_PKCS1_RSAENCRYPTION {
        Ok(PublicKeyKind::Rsa)
    } else if *algorithm == OID_SIG_ED25519 {
        Ok(PublicKeyKind::Ed25519)
    } else {
        Err(PublicKeyError::Unsupported(algorithm.to_string()))
    }
}

fn check_rsa(der: &[u8], spki: &SubjectPublicKeyInfo<'_>) -> Result<(), PublicKeyError> {
    let (_, key) =
        RSAPublicKey::from_der(&spki.subject_public_key.data).map_err(|_| PublicKeyError::Malformed)?;
    let exponent = key
        .try_exponent()
        .map_err(|_| PublicKeyError::RsaExponent(u64::MAX))?;
    let bits =
        PublicEncryptingKey::from_der(der).map_or_else(|_| key.key_size(), |public| public.key_size_bits());
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(PublicKeyError::RsaSize(bits));
    }
    if exponent < MIN_RSA_EXPONENT || exponent % 2 == 0 {
        return Err(PublicKeyError::RsaExponent(exponent));
    }
    Ok(())
}

/// The bits inside a SubjectPublicKeyInfo: the EC point, the RSA key or the Ed25519 point.
pub(crate) fn key_bits(spki: &[u8]) -> Option<Vec<u8>> {
    if let Some(point) = p256_point(spki) {
        return Some(point.to_vec());
    }
    match SubjectPublicKeyInfo::from_der(spki) {
        Ok(([], parsed)) => Some(parsed.subject_public_key.data.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyAlgorithm, Signer, key::LocalKey};

    #[test]
    fn the_bits_of_a_key_in_the_canonical_form_are_those_that_a_parser_finds() {
        let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
        let spki = key.public_key_spki();
        let (_, parsed) = SubjectPublicKeyInfo::from_der(spki).unwrap();
        assert!(is_canonical_p256(spki));
        assert_eq!(key_bits(spki).unwrap(), parsed.subject_public_key.data.as_ref());
    }

    #[test]
    fn a_point_off_its_curve_or_out_of_range_is_refused_in_the_canonical_form_too() {
        let key = LocalKey::generate("k", KeyAlgorithm::EcP256).unwrap();
        let good = key.public_key_spki();
        assert!(good.starts_with(&P256_HEAD) && good.len() == P256_SPKI_BYTES);
        assert_eq!(CheckedKey::new(good).unwrap().kind(), PublicKeyKind::EcP256);
        let longer = [good, &[0]].concat();
        assert_eq!(CheckedKey::new(&longer), Err(PublicKeyError::Malformed));
        assert_eq!(CheckedKey::new(b"key"), Err(PublicKeyError::Malformed));
        let mut off = good.to_vec();
        off[P256_SPKI_BYTES - 1] ^= 1;
        assert_eq!(check(&off), Err(PublicKeyError::Malformed));
        let mut out_of_range = good.to_vec();
        out_of_range[P256_HEAD.len()..].fill(0xff);
        assert_eq!(check(&out_of_range), Err(PublicKeyError::Malformed));
        let mut zero = good.to_vec();
        zero[P256_HEAD.len()..].fill(0);
        assert_eq!(check(&zero), Err(PublicKeyError::Malformed));
    }
}
