//! An entry as it is printed, and the small conversions to the wire.

use serde::Serialize;
use vouchsafe_identity::{Selector, SpiffeId};
use vouchsafe_proto::spire::api::types;

use super::{show_moment, show_ttl};
use crate::output;

/// An entry for people and programs; field names are stable.
#[derive(Debug, Serialize)]
pub(crate) struct EntryView {
    pub(crate) id: String,
    pub(crate) spiffe_id: String,
    parent_id: String,
    revision: i64,
    selectors: Vec<String>,
    x509_svid_ttl_seconds: i32,
    jwt_svid_ttl_seconds: i32,
    federates_with: Vec<String>,
    dns_names: Vec<String>,
    hint: String,
    admin: bool,
    downstream: bool,
    store_svid: bool,
    jwt_svid_include_jti: bool,
    disable_x509_svid_prefetch: bool,
    expires_at: Option<String>,
    created_at: Option<String>,
}

impl From<types::Entry> for EntryView {
    fn from(entry: types::Entry) -> Self {
        let more = entry.additional_attributes.unwrap_or_default();
        Self {
            id: entry.id,
            spiffe_id: show_id(entry.spiffe_id.as_ref()),
            parent_id: show_id(entry.parent_id.as_ref()),
            revision: entry.revision_number,
            selectors: entry
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
            x509_svid_ttl_seconds: entry.x509_svid_ttl,
            jwt_svid_ttl_seconds: entry.jwt_svid_ttl,
            federates_with: entry.federates_with,
            dns_names: entry.dns_names,
            hint: entry.hint,
            admin: entry.admin,
            downstream: entry.downstream,
            store_svid: entry.store_svid,
            jwt_svid_include_jti: more.jwt_svid_include_jti,
            disable_x509_svid_prefetch: more.disable_x509_svid_prefetch,
            expires_at: show_moment(entry.expires_at),
            created_at: show_moment(entry.created_at),
        }
    }
}

impl EntryView {
    /// Labels and values, one a line; what is not set is left out.
    pub(crate) fn block(&self) -> String {
        let mut rows = vec![
            ("Entry ID", self.id.clone()),
            ("SPIFFE ID", self.spiffe_id.clone()),
            ("Parent ID", self.parent_id.clone()),
            ("Revision", self.revision.to_string()),
            ("X509-SVID TTL", show_ttl(self.x509_svid_ttl_seconds)),
            ("JWT-SVID TTL", show_ttl(self.jwt_svid_ttl_seconds)),
        ];
        rows.extend(self.expires_at.clone().map(|at| ("Expiration time", at)));
        rows.extend(self.selectors.iter().map(|s| ("Selector", s.clone())));
        rows.extend(self.federates_with.iter().map(|td| ("FederatesWith", td.clone())));
        rows.extend(self.dns_names.iter().map(|name| ("DNS name", name.clone())));
        let flags = [
            ("Downstream", self.downstream),
            ("Admin", self.admin),
            ("StoreSvid", self.store_svid),
            ("DisableX509SvidPrefetch", self.disable_x509_svid_prefetch),
            ("JwtSvidIncludeJti", self.jwt_svid_include_jti),
        ];
        rows.extend(
            flags
                .into_iter()
                .filter(|(_, set)| *set)
                .map(|(label, _)| (label, "true".to_owned())),
        );
        if !self.hint.is_empty() {
            rows.push(("Hint", self.hint.clone()));
        }
        output::pairs(&rows)
    }
}

/// The id of the wire as text; empty where it is missing.
pub(crate) fn show_id(id: Option<&types::Spiffeid>) -> String {
    id.map(|id| format!("spiffe://{}{}", id.trust_domain, id.path))
        .unwrap_or_default()
}

/// An id as the wire has it.
pub(crate) fn wire_id(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// A selector as the wire has it.
pub(crate) fn wire_selector(selector: &Selector) -> types::Selector {
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    }
}
