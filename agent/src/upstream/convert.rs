//! From the server's messages to our types. An entry that cannot be used is left out, with a warning: one bad entry
//! must not keep the others from being served.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_identity::{
    Bundle, JwtAuthority, Selector, SelectorSet, SpiffeId, SpiffeIdError, TrustDomain, X509Authority,
};
use vouchsafe_proto::spire::api::types;

use super::UpstreamError;
use crate::entry::{Entry, EntryVersion};

/// Why an entry of the server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadEntry {
    /// It has no id.
    #[error("it has no id")]
    NoId,
    /// Its SPIFFE ID is missing.
    #[error("it has no SPIFFE ID")]
    NoSpiffeId,
    /// Its SPIFFE ID, or that of a trust domain, is not one.
    #[error(transparent)]
    SpiffeId(#[from] SpiffeIdError),
    /// It gives an identity of another trust domain.
    #[error("it gives `{id}`, which is not of trust domain `{trust_domain}`")]
    Foreign {
        /// The identity.
        id: SpiffeId,
        /// The own trust domain.
        trust_domain: TrustDomain,
    },
    /// One of its selectors is not one.
    #[error(transparent)]
    Selector(#[from] vouchsafe_identity::SelectorError),
}

/// An id from its two parts.
///
/// # Errors
/// [`SpiffeIdError`] when they do not make one.
pub fn spiffe_id(id: &types::Spiffeid) -> Result<SpiffeId, SpiffeIdError> {
    let trust_domain = TrustDomain::new(&id.trust_domain)?;
    match id.path.as_str() {
        "" => Ok(trust_domain.id()),
        path if path.starts_with('/') => trust_domain.with_path(path),
        path => trust_domain.with_path(&format!("/{path}")),
    }
}

/// An entry.
///
/// # Errors
/// [`BadEntry`] says what is wrong with it.
pub fn entry(entry: types::Entry) -> Result<Entry, BadEntry> {
    if entry.id.is_empty() {
        return Err(BadEntry::NoId);
    }
    let attributes = entry.additional_attributes.unwrap_or_default();
    let selectors: Result<SelectorSet, _> = entry
        .selectors
        .iter()
        .map(|selector| Selector::new(&selector.r#type, &selector.value))
        .collect();
    let federates_with: Result<Vec<_>, _> = entry
        .federates_with
        .iter()
        .map(|name| TrustDomain::new(name))
        .collect();
    Ok(Entry {
        id: entry.id.as_str().into(),
        version: EntryVersion {
            revision: entry.revision_number,
            created_at: entry.created_at,
        },
        spiffe_id: spiffe_id(&entry.spiffe_id.ok_or(BadEntry::NoSpiffeId)?)?,
        selectors: selectors?,
        federates_with: federates_with?,
        hint: entry.hint,
        store_svid: entry.store_svid,
        prefetch: !attributes.disable_x509_svid_prefetch,
        single_jwt: attributes.jwt_svid_include_jti,
    })
}

/// An entry that gives an identity of this trust domain.
///
/// # Errors
/// [`BadEntry`] says what is wrong with it.
pub fn entry_of(message: types::Entry, trust_domain: &TrustDomain) -> Result<Entry, BadEntry> {
    let entry = entry(message)?;
    match entry.spiffe_id.is_member_of(trust_domain) {
        true => Ok(entry),
        false => Err(BadEntry::Foreign {
            id: entry.spiffe_id,
            trust_domain: trust_domain.clone(),
        }),
    }
}

/// All entries that can be used.
pub fn entries(entries: impl IntoIterator<Item = types::Entry>) -> Vec<Arc<Entry>> {
    let usable = |message: types::Entry| {
        let id = message.id.clone();
        match entry(message) {
            Ok(entry) => Some(Arc::new(entry)),
            Err(error) => {
                tracing::warn!(entry_id = id, %error, "an entry of the server cannot be used and is left out");
                None
            }
        }
    };
    entries.into_iter().filter_map(usable).collect()
}

/// A bundle.
///
/// # Errors
/// [`UpstreamError::Nonsense`] when its trust domain is not one, or a JWT authority has no key id. It is refused as a whole:
/// with a part left out, what we hold would not be what the server takes us to hold.
pub fn bundle(bundle: types::Bundle) -> Result<Bundle, UpstreamError> {
    let trust_domain =
        TrustDomain::new(&bundle.trust_domain).map_err(|e| UpstreamError::Nonsense(e.to_string()))?;
    if bundle.jwt_authorities.iter().any(|one| one.key_id.is_empty()) {
        return Err(UpstreamError::Nonsense(format!(
            "the bundle of `{trust_domain}` has a JWT authority without a key id"
        )));
    }
    let x509_authorities = bundle
        .x509_authorities
        .into_iter()
        .map(|authority| X509Authority {
            certificate: authority.asn1,
            tainted: authority.tainted,
        })
        .collect();
    let jwt_authorities = bundle
        .jwt_authorities
        .into_iter()
        .map(|authority| JwtAuthority {
            key_id: authority.key_id,
            public_key: authority.public_key,
            expires_at: moment(authority.expires_at),
            tainted: authority.tainted,
        })
        .collect();
    Ok(Bundle {
        trust_domain,
        x509_authorities,
        jwt_authorities,
        refresh_hint: u64::try_from(bundle.refresh_hint)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
        sequence: bundle.sequence_number,
    })
}

/// A moment from Unix seconds, of which 0 means none.
pub fn moment(seconds: i64) -> Option<OffsetDateTime> {
    (seconds != 0)
        .then(|| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, path: &str, selector: (&str, &str)) -> types::Entry {
        types::Entry {
            id: id.to_owned(),
            spiffe_id: Some(types::Spiffeid {
                trust_domain: "example.org".to_owned(),
                path: path.to_owned(),
            }),
            selectors: vec![types::Selector {
                r#type: selector.0.to_owned(),
                value: selector.1.to_owned(),
            }],
            ..types::Entry::default()
        }
    }

    #[test]
    fn a_bundle_with_a_nameless_jwt_authority_is_refused() {
        let key = |id: &str| types::JwtKey {
            key_id: id.to_owned(),
            public_key: vec![1],
            ..types::JwtKey::default()
        };
        let message = |keys: Vec<types::JwtKey>| types::Bundle {
            trust_domain: "example.org".to_owned(),
            jwt_authorities: keys,
            ..types::Bundle::default()
        };
        assert_eq!(bundle(message(vec![key("a")])).unwrap().jwt_authorities.len(), 1);
        let refused = bundle(message(vec![key("a"), key("")])).unwrap_err();
        assert!(refused.to_string().contains("without a key id"), "{refused}");
    }

    #[test]
    fn a_bad_entry_is_left_out_and_the_others_stay() {
        let taken = entries([
            message("", "/a", ("unix", "uid:1")),
            message("bad-path", "/a//b", ("unix", "uid:1")),
            message("bad-selector", "/a", ("unix", "")),
            types::Entry {
                id: "no-spiffe-id".to_owned(),
                ..types::Entry::default()
            },
            message("good", "/a", ("unix", "uid:1")),
        ]);
        let ids: Vec<_> = taken.iter().map(|entry| entry.id.to_string()).collect();
        assert_eq!(ids, ["good"]);
        assert_eq!(taken[0].spiffe_id.as_str(), "spiffe://example.org/a");
        assert!(taken[0].prefetch);
    }
}
