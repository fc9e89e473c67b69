//! Classes, runs and revocations as part of what is known. They come and go without a new version: no workload is answered otherwise
//! for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_identity::{ClassName, RunId};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;

use super::{Knowledge, RunNews};

/// Of how many ended runs it is remembered how.
const MAX_ENDED: usize = 1024;

impl Knowledge {
    /// Takes in what changed; whether anything differs.
    pub(super) fn take_in_runs(
        &mut self,
        classes: BTreeMap<ClassName, Option<Arc<Class>>>,
        runs: BTreeMap<RunId, RunNews>,
        revoked: BTreeMap<RunId, Option<Arc<Revocation>>>,
    ) -> bool {
        let mut differs = take_in(&mut self.classes, classes);
        differs |= take_in(&mut self.revoked, revoked);
        for (id, news) in runs {
            match news {
                RunNews::Lives(run) if self.runs.get(&id) == Some(&run) => {}
                RunNews::Lives(run) => {
                    differs = true;
                    Arc::make_mut(&mut self.runs).insert(id, run);
                }
                RunNews::Ended(how) if self.runs.contains_key(&id) => {
                    differs = true;
                    Arc::make_mut(&mut self.runs).remove(&id);
                    let ended = Arc::make_mut(&mut self.ended_runs);
                    ended.insert(id, how);
                    if ended.len() > MAX_ENDED {
                        ended.pop_first();
                    }
                }
                RunNews::Ended(_) => {}
            }
        }
        differs
    }

    /// What of all runs differs from those that are known.
    pub(super) fn runs_to(&self, whole: BTreeMap<RunId, Arc<LiveRun>>) -> BTreeMap<RunId, RunNews> {
        let unknown: Arc<str> = "".into();
        let gone = self.runs.keys().filter(|id| !whole.contains_key(id));
        let gone: Vec<_> = gone
            .map(|id| (*id, RunNews::Ended(Arc::clone(&unknown))))
            .collect();
        let all = whole.into_iter().map(|(id, run)| (id, RunNews::Lives(run)));
        all.chain(gone).collect()
    }
}

/// Takes in what came, differs or went; whether anything differs.
fn take_in<K: Ord + Clone, V: PartialEq>(
    known: &mut Arc<BTreeMap<K, Arc<V>>>,
    changes: BTreeMap<K, Option<Arc<V>>>,
) -> bool {
    let mut differs = false;
    for (key, value) in changes {
        if known.get(&key) == value.as_ref() {
            continue;
        }
        differs = true;
        let known = Arc::make_mut(known);
        match value {
            Some(value) => known.insert(key, value),
            None => known.remove(&key),
        };
    }
    differs
}

/// What of all that there is differs from what is known.
pub(super) fn changes<K: Ord + Clone, V>(
    known: &BTreeMap<K, Arc<V>>,
    whole: BTreeMap<K, Arc<V>>,
) -> BTreeMap<K, Option<Arc<V>>> {
    let gone = known.keys().filter(|key| !whole.contains_key(key));
    let gone: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
    let all = whole.into_iter().map(|(key, value)| (key, Some(value)));
    all.chain(gone).collect()
}
