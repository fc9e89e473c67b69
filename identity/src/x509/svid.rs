//! Reading the leaf of an X.509-SVID by the rules of X509-SVID §2 to §5. Nothing is proved here:
//! the signature is the business of [`super::verify`].

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::{MAX_CERTIFICATE_BYTES, serial_hex};
use crate::{SpiffeId, SpiffeIdError};

/// Why a certificate is not the leaf of an X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// Longer than [`MAX_CERTIFICATE_BYTES`].
    #[error("a certificate of {0} bytes is longer than the limit of {MAX_CERTIFICATE_BYTES} bytes")]
    TooLong(usize),
    /// The bytes are no certificate in DER, or an extension cannot be read or stands twice.
    #[error("the certificate is malformed: {0}")]
    Malformed(&'static str),
    /// Bytes stand after the certificate.
    #[error("the certificate has extra bytes")]
    ExtraBytes,
    /// Not exactly one URI name (X509-SVID §2).
    #[error("the certificate has {0} URI names: an X.509-SVID has exactly one")]
    UriNames(usize),
    /// The URI name is not a SPIFFE ID.
    #[error("the certificate's URI name is not a SPIFFE ID")]
    Id(#[from] SpiffeIdError),
    /// The SPIFFE ID has no path, so it names a trust domain (X509-SVID §3.1).
    #[error("`{0}` has no path: it names a trust domain and no workload")]
    NoPath(SpiffeId),
    /// The subject is empty, so the names must be critical, and are not (X509-SVID §3.1).
    #[error("the certificate has no subject, and its names are not marked critical")]
    NamesNotCritical,
    /// The certificate is one of a CA (X509-SVID §4.1, §5.2).
    #[error("the certificate is one of a certificate authority")]
    IsCa,
    /// The key usage extension is missing or not critical (X509-SVID §4.3).
    #[error("the certificate has no key usage extension that is marked critical")]
    NoKeyUsage,
    /// The key usage lacks `digitalSignature` (X509-SVID §4.3).
    #[error("the certificate's key usage lacks digitalSignature")]
    NoDigitalSignature,
    /// The key usage has `keyCertSign` or `cRLSign` (X509-SVID §4.3, §5.2).
    #[error("the certificate may sign certificates or revocation lists")]
    SigningUsage,
    /// The extended key usage stands without both TLS purposes (X509-SVID §4.4).
    #[error("the certificate's extended key usage lacks serverAuth or clientAuth")]
    ExtendedKeyUsage,
}

/// What the leaf of an X.509-SVID says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafInfo {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid, this second included.
    pub not_after: OffsetDateTime,
    /// The serial number in lower-case hex, without leading zero bytes.
    pub serial: String,
    /// DNS names beside the SPIFFE ID.
    pub dns_names: Vec<String>,
    /// The key id of the authority that signed it, in lower-case hex, if the certificate names it.
    pub authority_key_id: Option<String>,
    /// The holder's public key: SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

/// Reads a leaf certificate by every rule of the standard that a certificate shows by itself.
///
/// # Errors
/// [`SvidError`], which names the rule that is broken.
pub fn parse_leaf(der: &[u8]) -> Result<LeafInfo, SvidError> {
    let certificate = parse(der)?;
    let names = Names::read(&certificate)?;
    let [uri] = names.uris.as_slice() else {
        return Err(SvidError::UriNames(names.uris.len()));
    };
    let spiffe_id = SpiffeId::new(uri)?;
    check_usage(&certificate)?;
    if spiffe_id.path().is_empty() {
        return Err(SvidError::NoPath(spiffe_id));
    }
    if certificate.subject().iter().next().is_none() && !names.critical {
        return Err(SvidError::NamesNotCritical);
    }
    let validity = certificate.validity();
    Ok(LeafInfo {
        spiffe_id,
        not_before: validity.not_before.to_datetime(),
        not_after: validity.not_after.to_datetime(),
        serial: serial_hex(certificate.raw_serial()),
        dns_names: names.dns_names,
        authority_key_id: authority_key_id(&certificate),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, SvidError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(SvidError::TooLong(der.len()));
    }
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| SvidError::Malformed("it is not a certificate in DER"))?;
    if !rest.is_empty() {
        return Err(SvidError::ExtraBytes);
    }
    if certificate.version() != X509Version::V3 {
        return Err(SvidError::Malformed("it is not of version 3"));
    }
    certificate
        .tbs_certificate
        .extensions_map()
        .map_err(|_| SvidError::Malformed("an extension stands twice"))?;
    if certificate
        .extensions()
        .iter()
        .any(|one| matches!(one.parsed_extension(), ParsedExtension::ParseError { .. }))
    {
        return Err(SvidError::Malformed("an extension cannot be read"));
    }
    Ok(certificate)
}

#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns_names: Vec<String>,
    critical: bool,
}

impl Names {
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, SvidError> {
        let mut names = Self::default();
        for extension in certificate.extensions() {
            let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
                continue;
            };
            names.critical = extension.critical;
            for name in &san.general_names {
                match name {
                    GeneralName::URI(uri) => names.uris.push((*uri).to_owned()),
                    GeneralName::DNSName(dns) => names.dns_names.push((*dns).to_owned()),
                    GeneralName::Invalid(..) => {
                        return Err(SvidError::Malformed("a name cannot be read"));
                    }
                    _ => {}
                }
            }
        }
        Ok(names)
    }
}

fn check_usage(certificate: &X509Certificate<'_>) -> Result<(), SvidError> {
    let mut key_usage: Option<&KeyUsage> = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
                return Err(SvidError::IsCa);
            }
            ParsedExtension::KeyUsage(usage) if extension.critical => key_usage = Some(usage),
            ParsedExtension::ExtendedKeyUsage(usage) => check_purposes(usage)?,
            _ => {}
        }
    }
    let usage = key_usage.ok_or(SvidError::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::SigningUsage);
    }
    if !usage.digital_signature() {
        return Err(SvidError::NoDigitalSignature);
    }
    Ok(())
}

fn check_purposes(usage: &ExtendedKeyUsage<'_>) -> Result<(), SvidError> {
    if usage.server_auth && usage.client_auth {
        Ok(())
    } else {
        Err(SvidError::ExtendedKeyUsage)
    }
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<String> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(aki) => {
                aki.key_identifier.as_ref().map(|id| hex::encode(id.0))
            }
            _ => None,
        })
}

#[cfg(test)]
mod tests;
