//! Bundles as PEM: X.509 authorities alone, as operators carry them to bootstrap an agent.

use ::pem::{EncodeConfig, LineEnding, Pem, encode_many_config, parse_many};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::{Bundle, BundleError, MAX_BUNDLE_BYTES, MAX_BUNDLE_KEYS};
use crate::TrustDomain;
use crate::x509::MAX_CERTIFICATE_BYTES;

const CERTIFICATE: &str = "CERTIFICATE";

impl Bundle {
    /// Writes the X.509 authorities as PEM.
    pub fn to_pem(&self) -> String {
        let blocks: Vec<Pem> = self
            .x509_authorities
            .iter()
            .map(|authority| Pem::new(CERTIFICATE, authority.certificate.clone()))
            .collect();
        encode_many_config(&blocks, EncodeConfig::new().set_line_ending(LineEnding::LF))
    }

    /// Reads X.509 authorities from PEM: one certificate at least, and nothing else.
    ///
    /// # Errors
    /// [`BundleError`] for anything that is not the certificate of an authority.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLong(text.len()));
        }
        let blocks = parse_many(text).map_err(BundleError::Pem)?;
        if blocks.is_empty() {
            return Err(BundleError::Empty);
        }
        if blocks.len() > MAX_BUNDLE_KEYS {
            return Err(BundleError::TooManyKeys(blocks.len()));
        }
        let mut bundle = Self::empty(trust_domain);
        for (at, block) in blocks.into_iter().enumerate() {
            if block.tag() != CERTIFICATE {
                return Err(BundleError::PemBlock(block.tag().to_owned()));
            }
            authority_key(at, block.contents())?;
            bundle.add_x509(block.into_contents());
        }
        Ok(bundle)
    }
}

/// The public key of an authority's certificate, which must be one of a CA.
pub(super) fn authority_key(at: usize, certificate: &[u8]) -> Result<Vec<u8>, BundleError> {
    let refused = |reason| BundleError::Certificate { at, reason };
    if certificate.len() > MAX_CERTIFICATE_BYTES {
        return Err(refused("it is too long"));
    }
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| refused("it cannot be read"))?;
    if !rest.is_empty() {
        return Err(refused("it has extra bytes"));
    }
    if !parsed.is_ca() {
        return Err(refused("it is not one of a certificate authority"));
    }
    match parsed.key_usage() {
        Ok(Some(usage)) if !usage.value.key_cert_sign() => {
            return Err(refused("it may not sign certificates"));
        }
        Ok(_) => {}
        Err(_) => return Err(refused("its key usage cannot be read")),
    }
    Ok(parsed.public_key().raw.to_vec())
}
