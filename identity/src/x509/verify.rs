//! Verifying an X.509-SVID against the authorities of its own trust domain (X509-SVID §5).
//!
//! Path building is RFC 5280's, done by webpki; the rules of SPIFFE come on top. The bundle must be
//! that of the leaf's trust domain: authorities of one domain never vouch for another.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::svid::{LeafInfo, SvidError, parse_leaf};
use super::{MAX_CERTIFICATE_BYTES, MAX_CHAIN_CERTIFICATES};
use crate::{Bundle, SpiffeId, TrustDomain};

/// Why an X.509-SVID is not believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no certificate at all.
    #[error("there is no certificate")]
    NoCertificate,
    /// More than [`MAX_CHAIN_CERTIFICATES`] certificates.
    #[error("a chain of {0} certificates is longer than the limit of {MAX_CHAIN_CERTIFICATES}")]
    ChainTooLong(usize),
    /// The leaf is not one of an X.509-SVID.
    #[error("the certificate is not an X.509-SVID")]
    Svid(#[from] SvidError),
    /// The leaf belongs to another trust domain than the authorities.
    #[error("`{id}` cannot be verified by the authorities of `{trust_domain}`")]
    ForeignTrustDomain {
        /// Whom the leaf names.
        id: SpiffeId,
        /// Whose authorities were given.
        trust_domain: TrustDomain,
    },
    /// The trust domain has no authority that is valid now.
    #[error("trust domain `{0}` has no X.509 authority that is valid now")]
    NoAuthority(TrustDomain),
    /// The leaf is not valid yet.
    #[error("the X.509-SVID of `{id}` is not valid before {not_before}")]
    NotYetValid {
        /// Whom the leaf names.
        id: SpiffeId,
        /// From when it is valid.
        not_before: OffsetDateTime,
    },
    /// The leaf has expired.
    #[error("the X.509-SVID of `{id}` expired at {not_after}")]
    Expired {
        /// Whom the leaf names.
        id: SpiffeId,
        /// Until when it was valid.
        not_after: OffsetDateTime,
    },
    /// A certificate on the path to the root has the SPIFFE ID of a workload (X509-SVID §3.2).
    #[error("`{0}` has a path, so it cannot sign X.509-SVIDs")]
    SignedByWorkload(SpiffeId),
    /// No path leads from the leaf to an authority.
    #[error("the X.509-SVID of `{id}` was not issued by an authority of its trust domain")]
    Untrusted {
        /// Whom the leaf names.
        id: SpiffeId,
        /// What path validation says.
        source: webpki::Error,
    },
}

/// Verifies a chain (the leaf first) against a bundle and says what the leaf says.
///
/// # Errors
/// [`VerifyError`], which names the first check that fails.
pub fn verify_svid<C: AsRef<[u8]>>(
    chain: &[C],
    bundle: &Bundle,
    now: OffsetDateTime,
) -> Result<LeafInfo, VerifyError> {
    let (leaf_der, rest) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
    if chain.len() > MAX_CHAIN_CERTIFICATES {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    if let Some(long) = rest
        .iter()
        .map(|one| one.as_ref().len())
        .find(|len| *len > MAX_CERTIFICATE_BYTES)
    {
        return Err(SvidError::TooLong(long).into());
    }
    let leaf = parse_leaf(leaf_der.as_ref())?;
    let id = &leaf.spiffe_id;
    if !id.is_member_of(&bundle.trust_domain) {
        return Err(VerifyError::ForeignTrustDomain {
            id: id.clone(),
            trust_domain: bundle.trust_domain.clone(),
        });
    }
    check_dates(&leaf, now)?;
    let roots: Vec<CertificateDer<'_>> = bundle
        .x509_authorities
        .iter()
        .filter(|root| is_valid_at(&root.certificate, now))
        .map(|root| CertificateDer::from(root.certificate.as_slice()))
        .collect();
    verify_path(leaf_der.as_ref(), rest, &roots, &leaf, now)?;
    Ok(leaf)
}

fn check_dates(leaf: &LeafInfo, now: OffsetDateTime) -> Result<(), VerifyError> {
    if now < leaf.not_before {
        return Err(VerifyError::NotYetValid {
            id: leaf.spiffe_id.clone(),
            not_before: leaf.not_before,
        });
    }
    if now.unix_timestamp() > leaf.not_after.unix_timestamp() {
        return Err(VerifyError::Expired {
            id: leaf.spiffe_id.clone(),
            not_after: leaf.not_after,
        });
    }
    Ok(())
}

/// The path builder takes roots as they are; an authority past its end must not vouch.
fn is_valid_at(certificate: &[u8], now: OffsetDateTime) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| {
        let validity = parsed.validity();
        (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now.unix_timestamp())
    })
}

fn verify_path<C: AsRef<[u8]>>(
    leaf_der: &[u8],
    intermediates: &[C],
    roots: &[CertificateDer<'_>],
    leaf: &LeafInfo,
    now: OffsetDateTime,
) -> Result<(), VerifyError> {
    let untrusted = |source| VerifyError::Untrusted {
        id: leaf.spiffe_id.clone(),
        source,
    };
    let anchors: Vec<TrustAnchor<'_>> = roots
        .iter()
        .filter_map(|root| anchor_from_trusted_cert(root).ok())
        .collect();
    if anchors.is_empty() {
        return Err(VerifyError::NoAuthority(leaf.spiffe_id.trust_domain()));
    }
    let leaf_der = CertificateDer::from(leaf_der);
    let intermediates: Vec<CertificateDer<'_>> = intermediates
        .iter()
        .map(|one| CertificateDer::from(one.as_ref()))
        .collect();
    let end_entity = EndEntityCert::try_from(&leaf_der).map_err(untrusted)?;
    let seconds = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let path = end_entity
        .verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            &intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(untrusted)?;
    let mut depth = 0;
    for signer in path.intermediate_certificates() {
        check_signer(&signer.der())?;
        depth += 1;
    }
    let permitted = roots.iter().any(|root| {
        anchor_from_trusted_cert(root).is_ok_and(|anchor| anchor == *path.anchor())
            && permits_depth(root, depth)
    });
    if permitted {
        Ok(())
    } else {
        Err(untrusted(webpki::Error::PathLenConstraintViolated))
    }
}

/// Whether a root allows so many certificates between it and a leaf; the path builder obeys
/// such limits below the root only.
fn permits_depth(root: &[u8], depth: u32) -> bool {
    X509Certificate::from_der(root).is_ok_and(|(_, parsed)| {
        parsed.basic_constraints().is_ok_and(|constraints| {
            constraints
                .and_then(|constraints| constraints.value.path_len_constraint)
                .is_none_or(|limit| depth <= limit)
        })
    })
}

/// A signing certificate may name its trust domain, never a workload.
fn check_signer(der: &[u8]) -> Result<(), VerifyError> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Err(SvidError::Malformed("a signing certificate cannot be read").into());
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Ok(());
    };
    for name in &names.value.general_names {
        if let GeneralName::URI(uri) = name
            && let Ok(id) = SpiffeId::new(uri)
            && !id.path().is_empty()
        {
            return Err(VerifyError::SignedByWorkload(id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
