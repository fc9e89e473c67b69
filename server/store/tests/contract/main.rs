//! What every store must do, run on each adapter, and what the embedded one must survive.
//!
//! A further adapter joins by one line of [`contract!`].

#![expect(
    clippy::unwrap_used,
    reason = "tests; helpers stand outside of test functions"
)]

mod backup;
mod commits;
mod kill;
mod logs;
mod migration;
mod model;
mod reads;
mod restart;
mod samples;

use std::ops::Deref;
use std::sync::Arc;

use tempfile::TempDir;
use vouchsafe_store::{MemoryStore, SharedStore, SledConfig, SledStore};

/// A store under test, with the directory that must outlive it.
struct Made {
    store: SharedStore,
    _dir: Option<TempDir>,
}

impl Deref for Made {
    type Target = SharedStore;

    fn deref(&self) -> &SharedStore {
        &self.store
    }
}

/// Makes an empty store whose change log keeps so many revisions.
type Make = fn(keep_changes: u64) -> Made;

fn in_memory(keep_changes: u64) -> Made {
    Made {
        store: Arc::new(MemoryStore::keeping("server-1", keep_changes)),
        _dir: None,
    }
}

fn in_sled(keep_changes: u64) -> Made {
    let dir = tempfile::tempdir().unwrap();
    let config = SledConfig {
        keep_changes,
        ..SledConfig::default()
    };
    Made {
        store: Arc::new(SledStore::open(dir.path(), &config).unwrap()),
        _dir: Some(dir),
    }
}

macro_rules! contract {
    (adapters { $($adapter:ident: $make:path;)+ } tests $tests:tt) => {
        $(contract!(@ $adapter $make, $tests);)+
    };
    (@ $adapter:ident $make:path, { $($room:ident: $($test:ident),+;)+ }) => {
        mod $adapter {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$room::$test($make).await;
                }
            )+)+
        }
    };
}

contract! {
    adapters {
        memory: super::in_memory;
        sled: super::in_sled;
    }
    tests {
        reads: what_is_not_there_is_none, the_middle_entry_halves_what_is_there, each_entity_is_read_back, entries_come_by_pages,
            nodes_and_tokens_come_by_pages, classes_and_runs_come_by_pages, bundles_and_journals_come_in_order,
            journals_of_other_servers_stay_apart, long_values_are_read_back;
        commits: a_conflict_changes_nothing, each_expectation_is_kept,
            sixteen_callers_race_for_one_token, racing_updates_are_never_lost,
            a_shape_has_one_entry, an_update_frees_the_old_shape, a_deletion_frees_the_shape,
            an_id_has_one_class, a_place_has_one_run,
            shapes_follow_the_order_of_a_commit, a_shape_is_not_deleted_by_itself,
            deleting_what_is_missing_is_no_error, values_of_one_commit_share_its_revision;
        logs: revisions_grow_by_one_and_are_announced, changes_come_in_order_by_whole_revisions,
            a_pruned_change_log_says_so, a_reader_ahead_of_the_log_starts_anew,
            audit_records_have_no_gaps, the_log_belongs_to_the_server,
            followers_see_every_change_once;
    }
}
