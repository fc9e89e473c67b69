//! Certificate requests (PKCS#10, RFC 2986): made by whoever holds the key, checked before issuing.
//!
//! Of a request only the public key is believed, once its signature proves that the sender holds
//! the private half. The names are what the sender asks for; granting them is the caller's decision.

use aws_lc_rs::signature::ParsedPublicKey;
use rcgen::{CertificateParams, DistinguishedName, IsCa, SanType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::oid_registry::{
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use super::dns::{self, DnsNameError};
use super::remote::RemoteKey;
use crate::der::{BIT_STRING, Field, OID, SEQUENCE, SET, fields, fields_of_one};
use crate::public_key::{CheckedKey, PublicKeyError, PublicKeyKind};
use crate::{SignError, Signer, SpiffeId};

/// Largest request that is read, in bytes: RSA with 4096 bits and the longest SPIFFE ID need 4 KiB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;
/// Most URI names in a request; an SVID has one.
const MAX_URIS: usize = 16;

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Longer than [`MAX_CSR_BYTES`].
    #[error("a certificate request of {0} bytes is longer than the limit of {MAX_CSR_BYTES} bytes")]
    TooLong(usize),
    /// The bytes are no PKCS#10 request in DER.
    #[error("the certificate request is malformed: {0}")]
    Malformed(&'static str),
    /// Bytes stand after the request or inside it where none may stand, or a field has not DER's form.
    #[error("the certificate request has extra bytes")]
    ExtraBytes,
    /// The public key is of a kind that is not supported, or weak.
    #[error("the certificate request's key is refused")]
    Key(#[from] PublicKeyError),
    /// The signature's algorithm is not supported, SHA-1 included.
    #[error(
        "the certificate request is signed with `{0}`, which is not supported: use SHA-256, SHA-384 or Ed25519"
    )]
    SignatureAlgorithm(String),
    /// The signature was not made by the private half of the request's public key.
    #[error("the certificate request's signature does not match its key")]
    Signature,
    /// The request asks to become a certificate authority.
    #[error("the certificate request asks for a certificate authority: leave out the CA flag")]
    CaRequested,
    /// The request asks for a key usage that only certificate authorities have.
    #[error("the certificate request asks to sign certificates or revocation lists")]
    SigningUsageRequested,
    /// A name that is neither URI nor DNS; it would be left out, so it is refused.
    #[error("the certificate request asks for a name of kind `{0}`: only URI and DNS names are issued")]
    NameKind(&'static str),
    /// More URI names than can make sense.
    #[error("the certificate request asks for {0} URI names: an SVID has exactly one")]
    TooManyUris(usize),
    /// A DNS name that may not stand in a certificate.
    #[error("the certificate request asks for a DNS name that cannot be issued")]
    DnsName(#[from] DnsNameError),
}

/// A request that was checked: a key that the sender holds and names that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedCsr {
    /// The public key.
    pub public_key: CheckedKey,
    /// URI names that the sender asks for, as they stand; not checked to be SPIFFE IDs.
    pub uris: Vec<String>,
    /// DNS names that the sender asks for.
    pub dns_names: Vec<String>,
}

/// Checks a request strictly: its form, its key, its signature and that it asks for no CA.
///
/// # Errors
/// [`CsrError`], one kind for each way in which a request can be wrong.
pub fn check(der: &[u8]) -> Result<CheckedCsr, CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLong(der.len()));
    }
    let (rest, csr) = X509CertificationRequest::from_der(der)
        .map_err(|_| CsrError::Malformed("it is not a PKCS#10 request in DER"))?;
    if !rest.is_empty() || !has_only_its_fields(der) {
        return Err(CsrError::ExtraBytes);
    }
    let info = &csr.certification_request_info;
    if info.version != X509Version::V1 {
        return Err(CsrError::Malformed("its version is not 1"));
    }
    let (public_key, key) = CheckedKey::read(info.subject_pki.raw)?;
    check_signature(&csr, public_key.kind(), &key)?;
    let mut checked = CheckedCsr {
        public_key,
        uris: Vec::new(),
        dns_names: Vec::new(),
    };
    for extension in requested_extensions(&csr)? {
        take_extension(extension, &mut checked)?;
    }
    if checked.uris.len() > MAX_URIS {
        return Err(CsrError::TooManyUris(checked.uris.len()));
    }
    dns::check_all(&checked.dns_names)?;
    Ok(checked)
}

/// The parser stops at the last field that it knows and takes some values in several forms;
/// what stands behind the fields, and any form but DER's, is found here.
fn has_only_its_fields(der: &[u8]) -> bool {
    let Some([info, algorithm, signature]) =
        fields_of_one(SEQUENCE, der).and_then(|parts| <[Field<'_>; 3]>::try_from(parts).ok())
    else {
        return false;
    };
    let info_is_whole = fields(info.content).is_some_and(|found| found.len() == 4);
    let algorithm_is_whole = fields(algorithm.content)
        .is_some_and(|found| found.len() <= 2 && found.first().is_some_and(|one| one.tag == OID));
    // A bit string begins with how many bits of its last byte do not count: none, in a signature.
    info_is_whole
        && algorithm_is_whole
        && (info.tag, algorithm.tag, signature.tag) == (SEQUENCE, SEQUENCE, BIT_STRING)
        && signature.content.first() == Some(&0)
}

fn check_signature(
    csr: &X509CertificationRequest<'_>,
    kind: PublicKeyKind,
    key: &ParsedPublicKey,
) -> Result<(), CsrError> {
    let algorithm = &csr.signature_algorithm.algorithm;
    if kind == PublicKeyKind::EcP256 && *algorithm == OID_SIG_ECDSA_WITH_SHA256 {
        // What nearly all ask with: the key has been read already, for this very algorithm.
        let verified = key.verify_sig(csr.certification_request_info.raw, &csr.signature_value.data);
        return verified.map_err(|_| CsrError::Signature);
    }
    let supported = [
        OID_SIG_ECDSA_WITH_SHA256,
        OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
        OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA,
        OID_PKCS1_SHA512WITHRSA,
        OID_PKCS1_RSASSAPSS,
    ];
    if !supported.contains(algorithm) {
        return Err(CsrError::SignatureAlgorithm(algorithm.to_string()));
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)
}

fn requested_extensions<'a>(
    csr: &'a X509CertificationRequest<'a>,
) -> Result<&'a [X509Extension<'a>], CsrError> {
    let mut found: Option<&[X509Extension<'_>]> = None;
    for attribute in csr.certification_request_info.attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            continue;
        };
        if found.is_some() {
            return Err(CsrError::Malformed("it asks for extensions twice"));
        }
        // The attribute is a set of one list; the parser looks at the first only.
        if fields_of_one(SET, attribute.value).is_none_or(|lists| lists.len() != 1) {
            return Err(CsrError::ExtraBytes);
        }
        found = Some(&request.extensions);
    }
    let extensions = found.unwrap_or_default();
    let repeats = extensions
        .iter()
        .enumerate()
        .any(|(at, one)| extensions.iter().skip(at + 1).any(|other| other.oid == one.oid));
    if repeats {
        return Err(CsrError::Malformed("it asks for one extension twice"));
    }
    Ok(extensions)
}

fn take_extension(extension: &X509Extension<'_>, checked: &mut CheckedCsr) -> Result<(), CsrError> {
    match extension.parsed_extension() {
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => Err(CsrError::CaRequested),
        ParsedExtension::KeyUsage(usage) if usage.key_cert_sign() || usage.crl_sign() => {
            Err(CsrError::SigningUsageRequested)
        }
        ParsedExtension::SubjectAlternativeName(san) => san
            .general_names
            .iter()
            .try_for_each(|name| take_name(name, checked)),
        ParsedExtension::ParseError { .. } => Err(CsrError::Malformed(
            "an extension that it asks for cannot be read",
        )),
        _ => Ok(()),
    }
}

fn take_name(name: &GeneralName<'_>, checked: &mut CheckedCsr) -> Result<(), CsrError> {
    let kind = match name {
        GeneralName::URI(uri) => {
            checked.uris.push((*uri).to_owned());
            return Ok(());
        }
        GeneralName::DNSName(dns) => {
            checked.dns_names.push((*dns).to_owned());
            return Ok(());
        }
        GeneralName::RFC822Name(_) => "email",
        GeneralName::IPAddress(_) => "IP address",
        GeneralName::DirectoryName(_) => "directory name",
        GeneralName::Invalid(..) => {
            return Err(CsrError::Malformed("a name that it asks for cannot be read"));
        }
        _ => "other name",
    };
    Err(CsrError::NameKind(kind))
}

/// Why a certificate request could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateCsrError {
    /// The key did not sign.
    #[error("the certificate request was not signed")]
    Sign(#[from] SignError),
    /// A DNS name that may not stand in a certificate.
    #[error("the DNS name cannot be requested")]
    DnsName(#[from] DnsNameError),
    /// The builder refused.
    #[error("the certificate request could not be built")]
    Build(#[source] rcgen::Error),
}

/// Makes a request for the signer's own key, which asks for the names given.
///
/// # Errors
/// [`CreateCsrError`] when the key does not sign or a DNS name is not one.
pub fn create(
    signer: &dyn Signer,
    uri: Option<&SpiffeId>,
    dns_names: &[String],
) -> Result<Vec<u8>, CreateCsrError> {
    dns::check_all(dns_names)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::NoCa;
    if let Some(uri) = uri {
        let name = uri.as_str().try_into().map_err(CreateCsrError::Build)?;
        params.subject_alt_names.push(SanType::URI(name));
    }
    for dns in dns_names {
        let name = dns.as_str().try_into().map_err(CreateCsrError::Build)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let key = RemoteKey::new(signer);
    match params.serialize_request(&key) {
        Ok(request) => Ok(request.der().to_vec()),
        Err(error) => Err(match key.into_failure() {
            Some(failure) => CreateCsrError::Sign(failure),
            None => CreateCsrError::Build(error),
        }),
    }
}

#[cfg(test)]
mod tests;
