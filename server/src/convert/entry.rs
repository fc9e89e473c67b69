//! Entries and their masks.

use vouchsafe_identity::TrustDomain;
use vouchsafe_proto::spire::api::types::{self, EntryMask, entry::AdditionalAttributes};

use super::{
    ConvertError, selector_messages, selectors, spiffe_id, spiffe_id_message, time, ttl, ttl_message,
};
use crate::index::IndexedEntry;
use crate::usecases::registry::EntryPatch;

/// The mask that stands for all fields.
pub const ALL: EntryMask = EntryMask {
    spiffe_id: true,
    parent_id: true,
    selectors: true,
    x509_svid_ttl: true,
    federates_with: true,
    admin: true,
    downstream: true,
    expires_at: true,
    dns_names: true,
    revision_number: true,
    store_svid: true,
    jwt_svid_ttl: true,
    hint: true,
    created_at: true,
    additional_attributes: true,
};

/// The fields of the message that the mask picks. The id, and what the server sets itself, are not among them.
pub fn patch(entry: &types::Entry, mask: Option<&EntryMask>) -> Result<EntryPatch, ConvertError> {
    let mask = mask.unwrap_or(&ALL);
    let attributes = entry.additional_attributes.unwrap_or_default();
    let pick = |picked: bool| picked.then_some(());
    Ok(EntryPatch {
        spiffe_id: pick(mask.spiffe_id)
            .map(|()| spiffe_id("spiffe_id", entry.spiffe_id.as_ref()))
            .transpose()?,
        parent_id: pick(mask.parent_id)
            .map(|()| spiffe_id("parent_id", entry.parent_id.as_ref()))
            .transpose()?,
        selectors: pick(mask.selectors)
            .map(|()| selectors(&entry.selectors))
            .transpose()?,
        x509_svid_ttl_seconds: pick(mask.x509_svid_ttl)
            .map(|()| ttl("x509_svid_ttl", entry.x509_svid_ttl))
            .transpose()?,
        jwt_svid_ttl_seconds: pick(mask.jwt_svid_ttl)
            .map(|()| ttl("jwt_svid_ttl", entry.jwt_svid_ttl))
            .transpose()?,
        federates_with: pick(mask.federates_with)
            .map(|()| trust_domains(&entry.federates_with))
            .transpose()?,
        admin: mask.admin.then_some(entry.admin),
        downstream: mask.downstream.then_some(entry.downstream),
        expires_at: pick(mask.expires_at)
            .map(|()| time("expires_at", entry.expires_at))
            .transpose()?,
        dns_names: mask.dns_names.then(|| entry.dns_names.clone()),
        store_svid: mask.store_svid.then_some(entry.store_svid),
        hint: mask.hint.then(|| entry.hint.clone()),
        disable_x509_svid_prefetch: mask
            .additional_attributes
            .then_some(attributes.disable_x509_svid_prefetch),
        jwt_svid_include_jti: mask
            .additional_attributes
            .then_some(attributes.jwt_svid_include_jti),
    })
}

/// The entry as a message, with the fields that the mask picks.
pub fn message(entry: &IndexedEntry, mask: Option<&EntryMask>) -> types::Entry {
    let mask = mask.unwrap_or(&ALL);
    let attributes = AdditionalAttributes {
        disable_x509_svid_prefetch: entry.disable_x509_svid_prefetch,
        jwt_svid_include_jti: entry.jwt_svid_include_jti,
    };
    let has_attributes = attributes != AdditionalAttributes::default();
    let mut message = types::Entry {
        id: entry.id.to_string(),
        ..types::Entry::default()
    };
    if mask.spiffe_id {
        message.spiffe_id = Some(spiffe_id_message(&entry.spiffe_id));
    }
    if mask.parent_id {
        message.parent_id = Some(spiffe_id_message(&entry.parent_id));
    }
    if mask.selectors {
        message.selectors = selector_messages(&entry.selectors);
    }
    if mask.x509_svid_ttl {
        message.x509_svid_ttl = ttl_message(entry.x509_svid_ttl_seconds);
    }
    if mask.federates_with {
        message.federates_with = entry.federates_with.iter().map(ToString::to_string).collect();
    }
    message.admin = mask.admin && entry.admin;
    message.downstream = mask.downstream && entry.downstream;
    if mask.expires_at {
        message.expires_at = entry.expires_at.map_or(0, i64::from);
    }
    if mask.dns_names {
        message.dns_names = entry.dns_names.iter().map(ToString::to_string).collect();
    }
    if mask.revision_number {
        message.revision_number = entry.revision_number;
    }
    message.store_svid = mask.store_svid && entry.store_svid;
    if mask.jwt_svid_ttl {
        message.jwt_svid_ttl = ttl_message(entry.jwt_svid_ttl_seconds);
    }
    if mask.hint {
        message.hint = entry.hint.to_string();
    }
    if mask.created_at {
        message.created_at = entry.created_at;
    }
    if mask.additional_attributes && has_attributes {
        message.additional_attributes = Some(attributes);
    }
    message
}

/// Names of trust domains, each once, in order.
pub fn trust_domains(names: &[String]) -> Result<Vec<TrustDomain>, ConvertError> {
    let parse = |name: &String| {
        TrustDomain::new(name).map_err(|source| ConvertError::SpiffeId {
            field: "federates_with",
            source,
        })
    };
    let mut parsed = names.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    parsed.sort();
    parsed.dedup();
    Ok(parsed)
}
