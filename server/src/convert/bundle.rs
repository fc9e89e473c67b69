//! Bundles and their masks.

use vouchsafe_identity::Bundle;
use vouchsafe_proto::spire::api::types::{self, BundleMask};

/// The mask that stands for all fields.
const ALL: BundleMask = BundleMask {
    x509_authorities: true,
    jwt_authorities: true,
    refresh_hint: true,
    sequence_number: true,
    wit_authorities: true,
};

/// The bundle as a message, with the fields that the mask picks.
pub fn message(bundle: &Bundle, mask: Option<&BundleMask>) -> types::Bundle {
    let mask = mask.unwrap_or(&ALL);
    let mut message = types::Bundle {
        trust_domain: bundle.trust_domain.name().to_owned(),
        ..types::Bundle::default()
    };
    if mask.x509_authorities {
        let authorities = bundle.x509_authorities.iter();
        message.x509_authorities = authorities
            .map(|authority| types::X509Certificate {
                asn1: authority.certificate.clone(),
                tainted: authority.tainted,
            })
            .collect();
    }
    if mask.jwt_authorities {
        let authorities = bundle.jwt_authorities.iter();
        message.jwt_authorities = authorities
            .map(|authority| types::JwtKey {
                public_key: authority.public_key.clone(),
                key_id: authority.key_id.clone(),
                expires_at: authority.expires_at.map_or(0, |at| at.unix_timestamp()),
                tainted: authority.tainted,
            })
            .collect();
    }
    if mask.refresh_hint {
        let hint = bundle.refresh_hint.unwrap_or_default();
        message.refresh_hint = i64::try_from(hint.as_secs()).unwrap_or(i64::MAX);
    }
    if mask.sequence_number {
        message.sequence_number = bundle.sequence;
    }
    message
}
