//! Issuing: the one template of our X.509-SVIDs (SPIRE's, reference X509-SVID §3, §4) and of our authorities.

use std::sync::Arc;

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa,
    KeyIdMethod, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::dns::{self, DnsNameError};
use super::remote::RemoteKey;
use super::{CertifiedChain, MAX_CERTIFICATE_BYTES, key_id_bytes, serial_hex};
use crate::public_key::CheckedKey;
use crate::{SignError, Signer, SpiffeId, SpiffeIdError, TrustDomain};

mod name;

/// Longest common name in a subject, in characters (RFC 5280 appendix A.1, ub-common-name).
const MAX_COMMON_NAME: usize = 64;
/// The attribute `serialNumber` of a distinguished name (RFC 5280 appendix A.1).
const DN_SERIAL_NUMBER: [u64; 4] = [2, 5, 4, 5];

/// Why a certificate was not issued, or an authority is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The authority's certificate cannot be read.
    #[error("the authority's certificate is malformed: {0}")]
    MalformedAuthority(&'static str),
    /// The authority's certificate is not one of a CA that may sign certificates.
    #[error("the authority's certificate is not a signing certificate: {0}")]
    NotAnAuthority(&'static str),
    /// The key is not the one in the authority's certificate.
    #[error("key `{key_id}` is not the key in the authority's certificate")]
    KeyMismatch {
        /// The id of the key that was given.
        key_id: String,
    },
    /// The subject of the authority cannot be copied byte by byte into what it issues.
    #[error("the authority's subject name cannot be repeated in what it issues: {0}")]
    SubjectName(&'static str),
    /// A SPIFFE ID without a path, which names a trust domain (X509-SVID §3.1).
    #[error("`{0}` has no path: only a trust domain's authority may have it")]
    NoPath(SpiffeId),
    /// The SPIFFE ID lies in another trust domain than the authority.
    #[error("`{id}` does not belong to the authority's trust domain `{trust_domain}`")]
    ForeignTrustDomain {
        /// The id that was asked for.
        id: SpiffeId,
        /// Where the authority may issue.
        trust_domain: TrustDomain,
    },
    /// The authority's certificate has a URI name that is not the id of a trust domain (X509-SVID §3.2).
    #[error("the authority's certificate does not name a trust domain")]
    AuthorityId(#[source] SpiffeIdError),
    /// A DNS name that may not stand in a certificate.
    #[error("the DNS name cannot be issued")]
    DnsName(#[from] DnsNameError),
    /// Nothing is left between the dates, often because the authority is about to expire.
    #[error("the certificate would not be valid at any time: {not_before} to {not_after}")]
    Validity {
        /// From when it would be valid.
        not_before: OffsetDateTime,
        /// Until when it would be valid, capped to the authority's end.
        not_after: OffsetDateTime,
    },
    /// A serial number of zero (RFC 5280 §4.1.2.2).
    #[error("a serial number cannot be zero")]
    ZeroSerial,
    /// The key did not sign.
    #[error("the certificate was not signed")]
    Sign(#[from] SignError),
    /// The builder refused.
    #[error("the certificate could not be built")]
    Build(#[source] rcgen::Error),
}

/// What an X.509-SVID shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SvidRequest {
    /// Whose identity it is.
    pub spiffe_id: SpiffeId,
    /// The holder's public key.
    pub public_key: CheckedKey,
    /// DNS names beside the SPIFFE ID; the first becomes the common name.
    pub dns_names: Vec<String>,
    /// From when it is valid.
    pub not_before: OffsetDateTime,
    /// Until when it is valid, unless the authority ends earlier.
    pub not_after: OffsetDateTime,
    /// The serial number: 128 random bits.
    pub serial: [u8; 16],
}

/// An authority that is ready to issue: its certificate, parsed once, and its key.
#[derive(Debug, Clone)]
pub struct Issuer {
    certificate: Vec<u8>,
    template: CertificateParams,
    signer: Arc<dyn Signer>,
    trust_domain: Option<TrustDomain>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    key_id: String,
    upstream_chain: Vec<Vec<u8>>,
}

impl Issuer {
    /// Takes an authority's certificate and its key, and proves with a trial certificate
    /// (which goes nowhere) that both belong together.
    ///
    /// # Errors
    /// [`IssueError`] when the certificate is no signing certificate or the key is another one.
    pub fn new(certificate: &[u8], signer: Arc<dyn Signer>) -> Result<Self, IssueError> {
        let parsed = parse_authority(certificate)?;
        if parsed.tbs_certificate.subject_pki.raw != signer.public_key_spki() {
            return Err(IssueError::KeyMismatch {
                key_id: signer.key_id().to_owned(),
            });
        }
        let facts = AuthorityFacts::read(&parsed)?;
        let mut template = blank();
        template.distinguished_name = name::copy(&parsed.tbs_certificate.subject)?;
        template.key_identifier_method = KeyIdMethod::PreSpecified(facts.key_id.clone());
        let issuer = Self {
            certificate: certificate.to_vec(),
            template,
            signer,
            trust_domain: facts.trust_domain,
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
            key_id: hex::encode(facts.key_id),
            upstream_chain: Vec::new(),
        };
        issuer.try_out(&parsed)?;
        Ok(issuer)
    }

    /// Adds what a peer needs between this authority's leaves and a root: the authority's own
    /// certificate when it is not a root, then each one above it, without the root.
    #[must_use]
    pub fn with_upstream_chain(mut self, chain: Vec<Vec<u8>>) -> Self {
        self.upstream_chain = chain;
        self
    }

    /// The authority's certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// What stands between a leaf and the root.
    pub fn upstream_chain(&self) -> &[Vec<u8>] {
        &self.upstream_chain
    }

    /// The trust domain that the authority's certificate names, if it names one.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// From when the authority is valid.
    pub fn not_before(&self) -> OffsetDateTime {
        self.not_before
    }

    /// Until when the authority is valid; nothing that it issues lives longer.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// The authority's subject key id in lower-case hex: the id under which operators know it.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    fn sign(&self, params: &CertificateParams, subject: &impl PublicKeyData) -> Result<Vec<u8>, IssueError> {
        let key = RemoteKey::new(&*self.signer);
        let issuer = rcgen::Issuer::from_params(&self.template, &key);
        match params.signed_by(subject, &issuer) {
            Ok(certificate) => Ok(certificate.der().to_vec()),
            Err(error) => Err(build_error(error, key)),
        }
    }

    /// Issues a certificate that names nobody and is thrown away, to see that the issuer's name
    /// is repeated byte by byte and that the signature verifies.
    fn try_out(&self, authority: &X509Certificate<'_>) -> Result<(), IssueError> {
        let mut params = blank();
        params.not_before = OffsetDateTime::UNIX_EPOCH;
        params.not_after = OffsetDateTime::UNIX_EPOCH;
        params.serial_number = Some(SerialNumber::from_slice(&[1]));
        let subject =
            SubjectPublicKeyInfo::from_der(self.signer.public_key_spki()).map_err(IssueError::Build)?;
        let trial = self.sign(&params, &subject)?;
        let (_, trial) = X509Certificate::from_der(&trial)
            .map_err(|_| IssueError::MalformedAuthority("what it issues cannot be read"))?;
        if trial.issuer().as_raw() != authority.subject().as_raw() {
            return Err(IssueError::SubjectName("it would be written differently"));
        }
        trial
            .verify_signature(Some(authority.public_key()))
            .map_err(|_| IssueError::KeyMismatch {
                key_id: self.signer.key_id().to_owned(),
            })
    }
}

/// The key of a certificate's subject, as the builder writes it.
enum SubjectKey<'a> {
    /// A point on P-256, which needs no parser.
    P256(&'a [u8]),
    /// A key of another kind.
    Other(SubjectPublicKeyInfo),
}

impl<'a> SubjectKey<'a> {
    fn of(key: &'a CheckedKey) -> Result<Self, IssueError> {
        match key.p256_point() {
            Some(point) => Ok(Self::P256(point)),
            None => SubjectPublicKeyInfo::from_der(key.spki())
                .map(Self::Other)
                .map_err(IssueError::Build),
        }
    }
}

impl PublicKeyData for SubjectKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::P256(point) => point,
            Self::Other(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256(_) => &PKCS_ECDSA_P256_SHA256,
            Self::Other(key) => key.algorithm(),
        }
    }
}

fn build_error(error: rcgen::Error, key: RemoteKey<'_>) -> IssueError {
    match key.into_failure() {
        Some(failure) => IssueError::Sign(failure),
        None => IssueError::Build(error),
    }
}

fn parse_authority(der: &[u8]) -> Result<X509Certificate<'_>, IssueError> {
    if der.len() > MAX_CERTIFICATE_BYTES {
        return Err(IssueError::MalformedAuthority("it is too long"));
    }
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(IssueError::MalformedAuthority("it has extra bytes")),
        Err(_) => Err(IssueError::MalformedAuthority("it is not a certificate in DER")),
    }
}

/// What the extensions of an authority's certificate say.
struct AuthorityFacts {
    key_id: Vec<u8>,
    trust_domain: Option<TrustDomain>,
}

impl AuthorityFacts {
    fn read(certificate: &X509Certificate<'_>) -> Result<Self, IssueError> {
        let mut is_ca = false;
        let mut facts = Self {
            key_id: key_id_bytes(certificate.tbs_certificate.subject_pki.raw),
            trust_domain: None,
        };
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => is_ca = constraints.ca,
                ParsedExtension::KeyUsage(usage) if !usage.key_cert_sign() => {
                    return Err(IssueError::NotAnAuthority("it lacks keyCertSign"));
                }
                ParsedExtension::SubjectKeyIdentifier(id) => facts.key_id = id.0.to_vec(),
                ParsedExtension::SubjectAlternativeName(san) => {
                    for name in &san.general_names {
                        if let GeneralName::URI(uri) = name {
                            facts.trust_domain = Some(trust_domain_of(uri)?);
                        }
                    }
                }
                _ => {}
            }
        }
        if is_ca {
            Ok(facts)
        } else {
            Err(IssueError::NotAnAuthority("it lacks the CA flag"))
        }
    }
}

fn trust_domain_of(uri: &str) -> Result<TrustDomain, IssueError> {
    let id = SpiffeId::new(uri).map_err(IssueError::AuthorityId)?;
    if id.path().is_empty() {
        Ok(id.trust_domain())
    } else {
        Err(IssueError::NotAnAuthority("its SPIFFE ID has a path"))
    }
}

/// The builder's defaults name a subject, a span of centuries and no serial: none of it may stay.
fn blank() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
}

fn printable(text: &str) -> Result<DnValue, IssueError> {
    PrintableString::try_from(text)
        .map(DnValue::PrintableString)
        .map_err(IssueError::Build)
}

fn ia5(text: &str) -> Result<Ia5String, IssueError> {
    Ia5String::try_from(text).map_err(IssueError::Build)
}

/// Whole seconds, between 1970 and 9999: what a certificate can say.
fn check_validity(
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), IssueError> {
    let second = |at: OffsetDateTime| OffsetDateTime::from_unix_timestamp(at.unix_timestamp()).ok();
    match (second(not_before), second(not_after)) {
        (Some(from), Some(to)) if from >= OffsetDateTime::UNIX_EPOCH && from < to => Ok((from, to)),
        _ => Err(IssueError::Validity {
            not_before,
            not_after,
        }),
    }
}

/// Issues an X.509-SVID by the template, for no longer than the authority lives.
///
/// # Errors
/// [`IssueError`] when the request breaks a rule of the standard or the key does not sign.
pub fn issue_svid(request: &SvidRequest, issuer: &Issuer) -> Result<CertifiedChain, IssueError> {
    let id = &request.spiffe_id;
    if id.path().is_empty() {
        return Err(IssueError::NoPath(id.clone()));
    }
    if let Some(trust_domain) = issuer.trust_domain()
        && !id.is_member_of(trust_domain)
    {
        return Err(IssueError::ForeignTrustDomain {
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    dns::check_all(&request.dns_names)?;
    if request.serial == [0; 16] {
        return Err(IssueError::ZeroSerial);
    }
    let (not_before, not_after) =
        check_validity(request.not_before, request.not_after.min(issuer.not_after()))?;
    let subject = SubjectKey::of(&request.public_key)?;
    let mut params = svid_template(request)?;
    params.not_before = not_before;
    params.not_after = not_after;
    let leaf = issuer.sign(&params, &subject)?;
    let mut chain = Vec::with_capacity(1 + issuer.upstream_chain.len());
    chain.push(leaf);
    chain.extend(issuer.upstream_chain.iter().cloned());
    Ok(CertifiedChain {
        spiffe_id: id.clone(),
        chain,
        not_before,
        not_after,
        serial: serial_hex(&request.serial),
    })
}

fn svid_template(request: &SvidRequest) -> Result<CertificateParams, IssueError> {
    let mut params = blank();
    params
        .distinguished_name
        .push(DnType::CountryName, printable("US")?);
    params
        .distinguished_name
        .push(DnType::OrganizationName, printable("SPIRE")?);
    if let Some(first) = request.dns_names.first()
        && first.len() <= MAX_COMMON_NAME
    {
        params.distinguished_name.push(DnType::CommonName, first.as_str());
    }
    params
        .subject_alt_names
        .push(SanType::URI(ia5(request.spiffe_id.as_str())?));
    for dns in &request.dns_names {
        params.subject_alt_names.push(SanType::DnsName(ia5(dns)?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyAgreement,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id_bytes(request.public_key.spki()));
    params.serial_number = Some(SerialNumber::from_slice(&request.serial));
    Ok(params)
}

/// Makes the self-signed certificate of an authority (X509-SVID §3.2, §4).
///
/// # Errors
/// [`IssueError`] when the dates or the serial number make no certificate, or the key does not sign.
pub fn self_signed_ca(
    trust_domain: &TrustDomain,
    signer: &dyn Signer,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    serial: &[u8; 16],
) -> Result<Vec<u8>, IssueError> {
    if *serial == [0; 16] {
        return Err(IssueError::ZeroSerial);
    }
    let (not_before, not_after) = check_validity(not_before, not_after)?;
    let mut params = blank();
    let dn = &mut params.distinguished_name;
    dn.push(DnType::CountryName, printable("US")?);
    dn.push(DnType::OrganizationName, printable("SPIFFE")?);
    // Authorities of one trust domain must differ in their names, or a verifier tries each key.
    dn.push(
        DnType::CustomDnType(DN_SERIAL_NUMBER.to_vec()),
        printable(&u128::from_be_bytes(*serial).to_string())?,
    );
    params.not_before = not_before;
    params.not_after = not_after;
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params
        .subject_alt_names
        .push(SanType::URI(ia5(trust_domain.id().as_str())?));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id_bytes(signer.public_key_spki()));
    let key = RemoteKey::new(signer);
    match params.self_signed(&key) {
        Ok(certificate) => Ok(certificate.der().to_vec()),
        Err(error) => Err(build_error(error, key)),
    }
}

#[cfg(test)]
mod tests;
