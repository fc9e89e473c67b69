//! Filters of `List` and `Count`. SPIRE has the same filter twice under two names: hence the macros.

use time::OffsetDateTime;
use vouchsafe_proto::spire::api::server::agent::v1::{count_agents_request, list_agents_request};
use vouchsafe_proto::spire::api::server::entry::v1::{count_entries_request, list_entries_request};
use vouchsafe_proto::spire::api::types::{
    FederatesWithMatch, SelectorMatch, federates_with_match, selector_match,
};

use super::{ConvertError, entry, selectors, spiffe_id};
use crate::index::{EntryFilter, NodeFilter, Relation};

/// SPIRE's layout of `by_expires_before`, as Go writes times by default; the zone's name is not looked at.
const GO_TIME: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
    "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

macro_rules! entry_filter {
    ($name:ident, $message:ty) => {
        /// Which entries are asked for.
        pub fn $name(filter: Option<&$message>) -> Result<EntryFilter, ConvertError> {
            let Some(filter) = filter else {
                return Ok(EntryFilter::default());
            };
            let id = |field, id: &Option<_>| id.as_ref().map(|id| spiffe_id(field, Some(id))).transpose();
            Ok(EntryFilter {
                spiffe_id: id("by_spiffe_id", &filter.by_spiffe_id)?,
                parent_id: id("by_parent_id", &filter.by_parent_id)?,
                selectors: filter.by_selectors.as_ref().map(by_selectors).transpose()?,
                federates_with: filter
                    .by_federates_with
                    .as_ref()
                    .map(by_federates_with)
                    .transpose()?,
                hint: filter.by_hint.clone(),
                // SPIRE's `entry show` says `false` where it does not ask.
                downstream: filter.by_downstream.filter(|asked| *asked),
            })
        }
    };
}

entry_filter!(list_entries, list_entries_request::Filter);
entry_filter!(count_entries, count_entries_request::Filter);

macro_rules! node_filter {
    ($name:ident, $message:ty) => {
        /// Which agents are asked for.
        pub fn $name(filter: Option<&$message>) -> Result<NodeFilter, ConvertError> {
            let Some(filter) = filter else {
                return Ok(NodeFilter::default());
            };
            let kind = &filter.by_attestation_type;
            Ok(NodeFilter {
                attestation_type: (!kind.is_empty()).then(|| kind.clone()),
                selectors: filter
                    .by_selector_match
                    .as_ref()
                    .map(by_selectors)
                    .transpose()?,
                banned: filter.by_banned,
                can_reattest: filter.by_can_reattest,
                expires_before: expires_before(&filter.by_expires_before)?,
            })
        }
    };
}

node_filter!(list_agents, list_agents_request::Filter);
node_filter!(count_agents, count_agents_request::Filter);

fn by_selectors(asked: &SelectorMatch) -> Result<(vouchsafe_identity::SelectorSet, Relation), ConvertError> {
    use selector_match::MatchBehavior;
    let relation = match MatchBehavior::try_from(asked.r#match) {
        Ok(MatchBehavior::MatchExact) => Relation::Exact,
        Ok(MatchBehavior::MatchSubset) => Relation::Subset,
        Ok(MatchBehavior::MatchSuperset) => Relation::Superset,
        Ok(MatchBehavior::MatchAny) => Relation::Any,
        Err(_) => return Err(unknown("match", asked.r#match)),
    };
    if asked.selectors.is_empty() {
        return Err(ConvertError::EmptySet("selectors"));
    }
    Ok((selectors(&asked.selectors)?, relation))
}

fn by_federates_with(
    asked: &FederatesWithMatch,
) -> Result<
    (
        std::collections::BTreeSet<vouchsafe_identity::TrustDomain>,
        Relation,
    ),
    ConvertError,
> {
    use federates_with_match::MatchBehavior;
    let relation = match MatchBehavior::try_from(asked.r#match) {
        Ok(MatchBehavior::MatchExact) => Relation::Exact,
        Ok(MatchBehavior::MatchSubset) => Relation::Subset,
        Ok(MatchBehavior::MatchSuperset) => Relation::Superset,
        Ok(MatchBehavior::MatchAny) => Relation::Any,
        Err(_) => return Err(unknown("match", asked.r#match)),
    };
    if asked.trust_domains.is_empty() {
        return Err(ConvertError::EmptySet("trust_domains"));
    }
    Ok((
        entry::trust_domains(&asked.trust_domains)?.into_iter().collect(),
        relation,
    ))
}

fn unknown(field: &'static str, value: i32) -> ConvertError {
    ConvertError::Enumeration { field, value }
}

/// Go's `2006-01-02 15:04:05 -0700 -07`; fractions of seconds and the zone's name may be there or not.
fn expires_before(text: &str) -> Result<Option<OffsetDateTime>, ConvertError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || ConvertError::Time {
        field: "by_expires_before",
        value: text.chars().take(64).collect(),
    };
    let mut words = text.split(' ');
    let (Some(day), Some(hour), Some(zone)) = (words.next(), words.next(), words.next()) else {
        return Err(malformed());
    };
    let hour = hour.split_once('.').map_or(hour, |(whole, _fraction)| whole);
    OffsetDateTime::parse(&format!("{day} {hour} {zone}"), GO_TIME)
        .map(Some)
        .map_err(|_| malformed())
}
