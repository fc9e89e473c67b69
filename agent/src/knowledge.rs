//! What the agent knows from the server: entries and bundles, as one snapshot that readers take without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use vouchsafe_identity::{Bundle, TrustDomain};

use crate::cache::EntryIndex;
use crate::entry::Entry;

/// One state of what is known. It is replaced as a whole, and only when something differs.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// The agent's own trust domain.
    pub trust_domain: TrustDomain,
    /// The entries that this agent may serve.
    pub entries: Arc<EntryIndex>,
    /// Bundles of the own trust domain and of those that entries federate with.
    pub bundles: BTreeMap<TrustDomain, Arc<Bundle>>,
    /// Whether the server has been heard since the start.
    pub complete: bool,
}

/// Everything that a source learned from the server in one go.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// All entries that this agent may serve.
    pub entries: Vec<Arc<Entry>>,
    /// All bundles that there are.
    pub bundles: Vec<Bundle>,
}

impl Knowledge {
    /// The bundle of the agent's own trust domain.
    pub fn own_bundle(&self) -> Option<&Arc<Bundle>> {
        self.bundles.get(&self.trust_domain)
    }

    /// The bundles, without the own one, of the trust domains that these entries federate with.
    pub fn federated<'a>(&'a self, entries: &[Arc<Entry>]) -> BTreeMap<&'a TrustDomain, &'a Arc<Bundle>> {
        entries
            .iter()
            .flat_map(|entry| &entry.federates_with)
            .filter(|trust_domain| **trust_domain != self.trust_domain)
            .filter_map(|trust_domain| self.bundles.get_key_value(trust_domain))
            .collect()
    }
}

/// Holds the present [`Knowledge`] and tells of each change. Cheap to clone.
#[derive(Debug, Clone)]
pub struct KnowledgeBase(watch::Sender<Arc<Knowledge>>);

impl KnowledgeBase {
    /// Knows nothing of entries yet, and the own bundle if one is given.
    pub fn new(trust_domain: TrustDomain, own: Option<Bundle>) -> Self {
        let bundles = own
            .into_iter()
            .map(|bundle| (bundle.trust_domain.clone(), Arc::new(bundle)))
            .collect();
        Self(watch::Sender::new(Arc::new(Knowledge {
            trust_domain,
            entries: Arc::default(),
            bundles,
            complete: false,
        })))
    }

    /// What is known now.
    pub fn get(&self) -> Arc<Knowledge> {
        Arc::clone(&self.0.borrow())
    }

    /// To wait for changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Knowledge>> {
        self.0.subscribe()
    }

    /// Takes in what the server says; whether anything differs. What is equal stays the same object.
    pub fn learn(&self, news: News) -> bool {
        let known = self.get();
        let entries = EntryIndex::new(news.entries);
        let same_entries = known.complete && known.entries.same_as(&entries);
        let bundles: BTreeMap<_, _> = news
            .bundles
            .into_iter()
            .map(|bundle| match known.bundles.get(&bundle.trust_domain) {
                Some(same) if **same == bundle => (bundle.trust_domain.clone(), Arc::clone(same)),
                _ => (bundle.trust_domain.clone(), Arc::new(bundle)),
            })
            .collect();
        if same_entries && bundles == known.bundles {
            return false;
        }
        let entries = match same_entries {
            true => Arc::clone(&known.entries),
            false => Arc::new(entries),
        };
        self.0.send_replace(Arc::new(Knowledge {
            trust_domain: known.trust_domain.clone(),
            entries,
            bundles,
            complete: true,
        }));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::entry;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(name).unwrap()
    }

    fn news(ids: &[&str], domains: &[&str]) -> News {
        News {
            entries: ids.iter().map(|id| entry(id, &["unix:uid:1"])).collect(),
            bundles: domains.iter().map(|name| Bundle::empty(domain(name))).collect(),
        }
    }

    #[test]
    fn equal_news_wake_nobody() {
        let base = KnowledgeBase::new(domain("example.org"), None);
        let mut changes = base.changes();
        assert!(base.learn(news(&["a"], &["example.org"])));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let before = base.get();
        assert!(!base.learn(news(&["a"], &["example.org"])));
        assert!(!changes.has_changed().unwrap());
        assert!(base.learn(news(&["a", "b"], &["example.org"])));
        let after = base.get();
        let trust_domain = domain("example.org");
        assert!(Arc::ptr_eq(
            &before.bundles[&trust_domain],
            &after.bundles[&trust_domain]
        ));
    }

    #[test]
    fn an_empty_answer_is_an_answer() {
        let base = KnowledgeBase::new(domain("example.org"), None);
        assert!(!base.get().complete);
        base.learn(News::default());
        assert!(base.get().complete);
    }

    #[test]
    fn only_bundles_that_an_entry_names_are_given() {
        let base = KnowledgeBase::new(domain("example.org"), None);
        base.learn(news(&["a"], &["example.org", "far.example", "other.example"]));
        let mut federated = Entry::clone(&entry("a", &["unix:uid:1"]));
        federated.federates_with = vec![
            domain("far.example"),
            domain("gone.example"),
            domain("example.org"),
        ];
        let known = base.get();
        let given: Vec<_> = known
            .federated(&[Arc::new(federated)])
            .into_keys()
            .cloned()
            .collect();
        assert_eq!(given, [domain("far.example")]);
    }
}
