//! What every entry must keep to, whoever writes it.

use vouchsafe_attestors::{Trust, trust_of};
use vouchsafe_identity::x509::dns::{self, DnsNameError};
use vouchsafe_identity::{SelectorError, SpiffeId, SpiffeIdError, TrustDomain};
use vouchsafe_store::Entry;
use vouchsafe_store::entry::EntryIdError;

/// Longest hint in bytes (SPIRE's limit).
pub(super) const MAX_HINT_BYTES: usize = 1024;
/// Most selectors of one entry.
pub(super) const MAX_SELECTORS: usize = 256;
/// Most federated trust domains of one entry.
pub(super) const MAX_FEDERATED: usize = 256;

/// Which rule an entry breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A field that every entry has is missing.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The id has a character that ids may not have, or is too long.
    #[error(transparent)]
    Id(#[from] EntryIdError),
    /// A selector is malformed.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A SPIFFE ID is malformed.
    #[error("{field}: {source}")]
    SpiffeId {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        source: SpiffeIdError,
    },
    /// A SPIFFE ID is of another trust domain.
    #[error("{field} `{id}` is not a member of trust domain `{trust_domain}`")]
    Foreign {
        /// Which field.
        field: &'static str,
        /// Its value.
        id: SpiffeId,
        /// The server's trust domain.
        trust_domain: TrustDomain,
    },
    /// A SPIFFE ID without a path is the trust domain itself.
    #[error("{field} `{id}` has no path")]
    NoPath {
        /// Which field.
        field: &'static str,
        /// Its value.
        id: SpiffeId,
    },
    /// Ids under `/spire` belong to the system.
    #[error("spiffe_id `{0}` lies under `/spire`, which is reserved for the system")]
    Reserved(SpiffeId),
    /// Nothing would have to match.
    #[error("an entry needs at least one selector")]
    NoSelectors,
    /// More of something than the limit.
    #[error("{count} {what} are more than the limit of {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// An SVID store serves one platform.
    #[error("all selectors of an entry for an SVID store must be of one type")]
    MixedStoreSelectors,
    /// The hint is too long.
    #[error("a hint of {0} bytes is longer than the limit of {MAX_HINT_BYTES} bytes")]
    LongHint(usize),
    /// A DNS name cannot stand in a certificate.
    #[error(transparent)]
    DnsName(#[from] DnsNameError),
    /// A DNS name is covered by a wildcard beside it, or stands twice.
    #[error("DNS name `{name}` is covered by `{by}` already")]
    DnsOverlap {
        /// The name.
        name: String,
        /// What covers it.
        by: String,
    },
    /// There is no bundle of a trust domain that the entry federates with.
    #[error("no bundle of trust domain `{0}` is known: set it before entries federate with it")]
    NoBundle(TrustDomain),
    /// Everybody has the bundle of the own trust domain.
    #[error("`federates_with` names the server's own trust domain `{0}`")]
    OwnTrustDomain(TrustDomain),
    /// The entry rests on asserted selectors alone.
    #[error(
        "all selectors can be arranged by the process itself: add a measured one, such as `unix:uid:1000` (server config: `asserted_entries`)"
    )]
    AssertedOnly,
    /// A number is out of its range.
    #[error("`{field}` of {value} is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
}

/// Whether nothing that we measured ourselves stands behind the entry.
pub fn rests_on_asserted(entry: &Entry) -> bool {
    let asserted = |selector| trust_of(selector) == Trust::Asserted;
    !entry.selectors.is_empty() && entry.selectors.iter().all(asserted)
}

/// Checks an entry that is to be written.
pub(super) fn check(trust_domain: &TrustDomain, entry: &Entry) -> Result<(), RuleError> {
    member("parent_id", trust_domain, &entry.parent_id)?;
    workload_id("spiffe_id", trust_domain, &entry.spiffe_id)?;
    at_most("selectors", entry.selectors.len(), MAX_SELECTORS)?;
    at_most(
        "federated trust domains",
        entry.federates_with.len(),
        MAX_FEDERATED,
    )?;
    if entry.federates_with.contains(trust_domain) {
        return Err(RuleError::OwnTrustDomain(trust_domain.clone()));
    }
    let Some(first) = entry.selectors.first() else {
        return Err(RuleError::NoSelectors);
    };
    if entry.store_svid && entry.selectors.iter().any(|s| s.kind() != first.kind()) {
        return Err(RuleError::MixedStoreSelectors);
    }
    if entry.hint.len() > MAX_HINT_BYTES {
        return Err(RuleError::LongHint(entry.hint.len()));
    }
    dns::check_all(&entry.dns_names)?;
    no_overlap(&entry.dns_names)
}

/// Checks that an id belongs to a workload of the trust domain.
pub(crate) fn workload_id(
    field: &'static str,
    trust_domain: &TrustDomain,
    id: &SpiffeId,
) -> Result<(), RuleError> {
    member(field, trust_domain, id)?;
    if id.is_reserved() {
        return Err(RuleError::Reserved(id.clone()));
    }
    Ok(())
}

fn member(field: &'static str, trust_domain: &TrustDomain, id: &SpiffeId) -> Result<(), RuleError> {
    if !id.is_member_of(trust_domain) {
        return Err(RuleError::Foreign {
            field,
            id: id.clone(),
            trust_domain: trust_domain.clone(),
        });
    }
    if id.path().is_empty() {
        return Err(RuleError::NoPath {
            field,
            id: id.clone(),
        });
    }
    Ok(())
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), RuleError> {
    if count > limit {
        return Err(RuleError::TooMany { what, count, limit });
    }
    Ok(())
}

/// Refuses names that stand twice, or beside a wildcard that covers them.
fn no_overlap(names: &[String]) -> Result<(), RuleError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(RuleError::DnsOverlap {
                name: name.clone(),
                by: name.clone(),
            });
        }
    }
    for name in names {
        let lower = name.to_ascii_lowercase();
        let Some((_, rest)) = lower.split_once('.') else {
            continue;
        };
        let wildcard = format!("*.{rest}");
        if lower != wildcard && seen.contains(&wildcard) {
            return Err(RuleError::DnsOverlap {
                name: name.clone(),
                by: wildcard,
            });
        }
    }
    Ok(())
}
