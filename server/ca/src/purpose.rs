//! What differs between keys that sign X.509-SVIDs and keys that sign JWT-SVIDs.
//!
//! The life cycle, the journal and the slots are the same code for every purpose.

use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::x509::issue::{Issuer, self_signed_ca};
use vouchsafe_identity::{Bundle, JwtAuthority, Signer, TrustDomain, X509Authority, key, x509};
use vouchsafe_store::{JournalRow, KeyPurpose};

use crate::CaError;

/// What stands in a new journal row beside the key itself.
#[derive(Debug)]
pub struct Published {
    /// Subject key id (hex) or `kid`.
    pub authority_id: String,
    /// The CA's certificate, DER; empty where there is none.
    pub certificate: Vec<u8>,
}

/// One kind of signing key.
pub trait Purpose: Send + Sync + 'static {
    /// The journal's name for it.
    const PURPOSE: KeyPurpose;
    /// Whether an old key still signs something: what the server itself shows.
    const SIGNS_WHEN_OLD: bool;
    /// What signs, once active.
    type Issuer: Send + Sync + std::fmt::Debug;

    /// Makes what is published of a new key.
    ///
    /// # Errors
    /// [`CaError`] when the certificate cannot be made.
    fn publish(
        trust_domain: &TrustDomain,
        signer: &Arc<dyn Signer>,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<Published, CaError>;

    /// Puts a new authority into the bundle.
    fn add_to(bundle: &mut Bundle, row: &JournalRow);

    /// Whether the bundle has the authority of this row.
    fn is_in(bundle: &Bundle, row: &JournalRow) -> bool;

    /// Whether the authority of this id is tainted; `None` when the bundle does not have it.
    fn tainted(bundle: &Bundle, authority_id: &str) -> Option<bool>;

    /// Marks the authority of this id as tainted.
    fn taint(bundle: &mut Bundle, authority_id: &str);

    /// Takes the authority of this id out of the bundle.
    fn remove_from(bundle: &mut Bundle, authority_id: &str);

    /// Makes the issuer of a stored row and its key.
    ///
    /// # Errors
    /// [`CaError`] when row and key do not belong together.
    fn issuer(row: &JournalRow, signer: Arc<dyn Signer>) -> Result<Self::Issuer, CaError>;
}

/// Signs X.509-SVIDs.
#[derive(Debug)]
pub struct X509Ca;

impl Purpose for X509Ca {
    const PURPOSE: KeyPurpose = KeyPurpose::X509Ca;
    const SIGNS_WHEN_OLD: bool = true;
    type Issuer = Issuer;

    fn publish(
        trust_domain: &TrustDomain,
        signer: &Arc<dyn Signer>,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<Published, CaError> {
        let serial = key::random_serial().map_err(|e| CaError::Request(e.to_string()))?;
        let certificate = self_signed_ca(trust_domain, signer.as_ref(), from, to, &serial)?;
        let authority_id = x509::key_id(signer.public_key_spki());
        Ok(Published {
            authority_id,
            certificate,
        })
    }

    fn add_to(bundle: &mut Bundle, row: &JournalRow) {
        bundle.x509_authorities.push(X509Authority {
            certificate: row.certificate.clone(),
            tainted: false,
        });
    }

    fn is_in(bundle: &Bundle, row: &JournalRow) -> bool {
        bundle
            .x509_authorities
            .iter()
            .any(|authority| authority.certificate == row.certificate)
    }

    fn tainted(bundle: &Bundle, authority_id: &str) -> Option<bool> {
        let mut named = bundle
            .x509_authorities
            .iter()
            .filter(|authority| has_key_id(authority, authority_id))
            .peekable();
        named.peek()?;
        Some(named.any(|authority| authority.tainted))
    }

    fn taint(bundle: &mut Bundle, authority_id: &str) {
        for authority in &mut bundle.x509_authorities {
            authority.tainted |= has_key_id(authority, authority_id);
        }
    }

    fn remove_from(bundle: &mut Bundle, authority_id: &str) {
        bundle
            .x509_authorities
            .retain(|authority| !has_key_id(authority, authority_id));
    }

    fn issuer(row: &JournalRow, signer: Arc<dyn Signer>) -> Result<Issuer, CaError> {
        Ok(Issuer::new(&row.certificate, signer)?)
    }
}

fn has_key_id(authority: &X509Authority, key_id: &str) -> bool {
    authority.key_id().as_deref() == Some(key_id)
}

/// The key that signs JWT-SVIDs, with its term.
#[derive(Debug)]
pub struct JwtIssuer {
    /// The `kid` that its tokens name.
    pub key_id: String,
    /// The private half.
    pub signer: Arc<dyn Signer>,
    /// No token outlives this.
    pub expires_at: OffsetDateTime,
}

/// Signs JWT-SVIDs.
#[derive(Debug)]
pub struct JwtSigner;

impl Purpose for JwtSigner {
    const PURPOSE: KeyPurpose = KeyPurpose::JwtSigner;
    const SIGNS_WHEN_OLD: bool = false;
    type Issuer = JwtIssuer;

    fn publish(
        _trust_domain: &TrustDomain,
        signer: &Arc<dyn Signer>,
        _from: OffsetDateTime,
        _to: OffsetDateTime,
    ) -> Result<Published, CaError> {
        Ok(Published {
            authority_id: signer.key_id().to_owned(),
            certificate: Vec::new(),
        })
    }

    fn add_to(bundle: &mut Bundle, row: &JournalRow) {
        bundle.jwt_authorities.push(JwtAuthority {
            key_id: row.authority_id.clone(),
            public_key: row.public_key.clone(),
            expires_at: Some(row.expires_at),
            tainted: false,
        });
    }

    fn is_in(bundle: &Bundle, row: &JournalRow) -> bool {
        bundle
            .jwt_authorities
            .iter()
            .any(|authority| authority.key_id == row.authority_id)
    }

    fn tainted(bundle: &Bundle, authority_id: &str) -> Option<bool> {
        bundle
            .jwt_authority(authority_id)
            .map(|authority| authority.tainted)
    }

    fn taint(bundle: &mut Bundle, authority_id: &str) {
        for authority in &mut bundle.jwt_authorities {
            authority.tainted |= authority.key_id == authority_id;
        }
    }

    fn remove_from(bundle: &mut Bundle, authority_id: &str) {
        bundle
            .jwt_authorities
            .retain(|authority| authority.key_id != authority_id);
    }

    fn issuer(row: &JournalRow, signer: Arc<dyn Signer>) -> Result<JwtIssuer, CaError> {
        Ok(JwtIssuer {
            key_id: row.authority_id.clone(),
            signer,
            expires_at: row.expires_at,
        })
    }
}
