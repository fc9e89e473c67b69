//! What `List` and `Count` ask for, as values; each is a question to one entry or node.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use vouchsafe_identity::{SelectorSet, SpiffeId, TrustDomain};
use vouchsafe_store::Node;

use super::entry::IndexedEntry;

/// How a row's set must relate to the asked one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The same.
    Exact,
    /// Nothing outside the asked set (and something).
    Subset,
    /// All of the asked set.
    Superset,
    /// At least one of the asked set.
    Any,
}

impl Relation {
    fn holds<T: Ord>(self, row: &[&T], asked: &BTreeSet<T>) -> bool {
        let common = row.iter().filter(|item| asked.contains(**item)).count();
        match self {
            Self::Exact => common == asked.len() && common == row.len(),
            Self::Subset => !row.is_empty() && common == row.len(),
            Self::Superset => common == asked.len(),
            Self::Any => common > 0,
        }
    }
}

/// Picks entries; all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct EntryFilter {
    /// Gives this identity.
    pub spiffe_id: Option<SpiffeId>,
    /// Stands under this parent.
    pub parent_id: Option<SpiffeId>,
    /// Its selectors relate so.
    pub selectors: Option<(SelectorSet, Relation)>,
    /// Its federated trust domains relate so.
    pub federates_with: Option<(BTreeSet<TrustDomain>, Relation)>,
    /// Has this hint.
    pub hint: Option<String>,
    /// Is, or is not, for a server below this one.
    pub downstream: Option<bool>,
}

impl EntryFilter {
    /// Whether the entry is meant.
    pub fn picks(&self, entry: &IndexedEntry) -> bool {
        let same = |asked: &Option<SpiffeId>, has: &SpiffeId| asked.as_ref().is_none_or(|id| id == has);
        same(&self.spiffe_id, &entry.spiffe_id)
            && same(&self.parent_id, &entry.parent_id)
            && self.hint.as_ref().is_none_or(|hint| **hint == *entry.hint)
            && self.downstream.is_none_or(|asked| asked == entry.downstream)
            && self.selectors.as_ref().is_none_or(|(asked, relation)| {
                relation.holds(&entry.selectors.iter().collect::<Vec<_>>(), asked)
            })
            && self.federates_with.as_ref().is_none_or(|(asked, relation)| {
                let has: BTreeSet<&TrustDomain> = entry.federates_with.iter().collect();
                relation.holds(&has.into_iter().collect::<Vec<_>>(), asked)
            })
    }
}

/// Picks nodes; all that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct NodeFilter {
    /// Attested in this way.
    pub attestation_type: Option<String>,
    /// Its selectors relate so.
    pub selectors: Option<(SelectorSet, Relation)>,
    /// Is, or is not, banned.
    pub banned: Option<bool>,
    /// May, or may not, attest again.
    pub can_reattest: Option<bool>,
    /// Its SVID in use expires before this.
    pub expires_before: Option<OffsetDateTime>,
}

impl NodeFilter {
    /// Whether the node is meant.
    pub fn picks(&self, node: &Node) -> bool {
        self.attestation_type
            .as_ref()
            .is_none_or(|asked| *asked == node.attestation_type)
            && self.banned.is_none_or(|asked| asked == node.banned)
            && self.can_reattest.is_none_or(|asked| asked == node.can_reattest)
            && self.expires_before.is_none_or(|limit| node.expires_at < limit)
            && self.selectors.as_ref().is_none_or(|(asked, relation)| {
                relation.holds(&node.selectors.iter().collect::<Vec<_>>(), asked)
            })
    }
}
