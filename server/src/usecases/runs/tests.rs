//! Admission where the index is behind the store, as it is for those that ask at the same moment.

use std::pin::pin;
use std::task::{Context, Waker};

use serde_json::json;
use vouchsafe_identity::{ClassId, ClassName};
use vouchsafe_store::class::Isolation;
use vouchsafe_store::{Class, MemoryStore};

use super::*;

fn class(now: OffsetDateTime) -> Class {
    let spec = json!({
        "program": { "executable": { "path": "/agent", "sha256": "0a".repeat(32) } },
        "nodes": "any",
        "launchers": ["uid:1000"],
        "max_ttl_seconds": 60,
        "max_runs": 1,
    });
    Class {
        name: ClassName::new("researcher").unwrap(),
        id: ClassId::new("spiffe://example.org/agent/researcher").unwrap(),
        version: 1,
        spec: serde_json::from_value(spec).unwrap(),
        created_at: now,
        updated_at: now,
    }
}

#[tokio::test]
async fn a_place_that_only_looks_free_is_given_to_nobody() {
    let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
    let store: SharedStore = Arc::new(MemoryStore::new("server-1"));
    let class = class(now);
    let commit = Commit::default().put(Record::Class(class.clone()));
    store.commit(commit).await.unwrap();
    // Nothing follows the store for this index: it shows no run that is admitted.
    let index = Index::load(&store).await.unwrap();
    let times = Times {
        x509_svid_ttl: Duration::from_secs(60),
        jwt_svid_ttl: Duration::from_secs(60),
        keep_ended_runs: Duration::from_secs(60),
    };
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let runs = Runs::new(trust_domain, Arc::clone(&store), index, times);
    let node = SpiffeId::new("spiffe://example.org/spire/agent/x").unwrap();
    let asked = Admission {
        class: class.name,
        class_version: 1,
        launcher: Launcher {
            uid: 1000,
            ..Launcher::default()
        },
        parent: None,
        task: None,
        labels: vouchsafe_identity::Labels::default(),
        uid: 1000,
        isolation: Isolation::Process,
        measured_sha256: None,
        selectors: Vec::new(),
    };
    let origin = Origin::system("test", now);
    for _ in 0..3 {
        let mut admission = pin!(runs.admit(&origin, &node, &asked));
        // The first waits for the index; the others for what took their place.
        for _ in 0..100 {
            let polled = admission.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
    }
    assert_eq!(store.runs(None, 9).await.unwrap().len(), 1);
}
