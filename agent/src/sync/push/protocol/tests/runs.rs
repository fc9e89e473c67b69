//! Classes and runs: known where the server tells of them, and unknown where it does not.

use vouchsafe_identity::{ClassName, RunId};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};

use super::*;
use crate::testing::selectors;

const RUN: &str = "01K9Z3V7Q8R4S5T6V7W8X9YZAB";

fn class(version: u64) -> Class {
    Class {
        name: "researcher".to_owned(),
        id: "spiffe://example.org/agent/researcher".to_owned(),
        version,
        ..Class::default()
    }
}

fn run() -> api::LiveRun {
    api::LiveRun {
        run_id: RUN.to_owned(),
        spiffe_id: format!("spiffe://example.org/agent/researcher/run/{RUN}"),
        class: "researcher".to_owned(),
        class_version: 1,
        admitted_at: 5,
        expires_at: 9,
        lease: String::new(),
    }
}

fn revocation() -> Revocation {
    Revocation {
        run_id: RUN.to_owned(),
        spiffe_id: run().spiffe_id,
        revoked_at: 7,
        until: 9,
        x509_serials: vec!["0a".to_owned()],
        jwt_ids: vec!["1b".to_owned()],
    }
}

fn welcome_with(full_reason: api::FullReason, features: &[&str]) -> api::FollowResponse {
    response(Response::Welcome(api::Welcome {
        version: 1,
        features: features.iter().map(ToString::to_string).collect(),
        full_reason: full_reason.into(),
        log_id: LOG.to_owned(),
    }))
}

/// A resume point of the server's set with these classes and runs.
fn point(server: &Server, classes: &[Class], runs: &[api::LiveRun]) -> api::ResumePoint {
    let mut digest = server.digest();
    classes
        .iter()
        .for_each(|class| digest.toggle(class_digest(class)));
    runs.iter().for_each(|run| digest.toggle(run_digest(run)));
    api::ResumePoint {
        digest: digest.as_bytes().to_vec(),
        ..server.point()
    }
}

fn whole(server: &Server, classes: Vec<Class>, runs: Vec<api::LiveRun>) -> api::FollowResponse {
    response(Response::Page(api::Page {
        entries: server.entries.values().cloned().collect(),
        bundles: server.bundles.values().cloned().collect(),
        resume: Some(point(server, &classes, &runs)),
        classes,
        runs,
        ..api::Page::default()
    }))
}

/// An agent that knows the class and the run.
fn knowing(server: &Server) -> Agent {
    let mut agent = Agent::new();
    assert_eq!(agent.hello.features, [RUNS]);
    agent
        .hear(welcome_with(api::FullReason::First, &["runs", "later"]))
        .unwrap();
    assert!(!agent.hear(whole(server, vec![class(1)], vec![run()])).unwrap());
    agent
}

fn known(agent: &Agent) -> (Vec<(String, u64)>, Vec<String>) {
    let known = agent.base.get();
    let classes = known
        .classes
        .iter()
        .map(|(name, class)| (name.to_string(), class.version));
    (
        classes.collect(),
        known.runs.keys().map(ToString::to_string).collect(),
    )
}

#[test]
fn what_is_no_name_and_no_id_is_refused() {
    let mut server = Server::new(&["a"]);
    let (mut nameless, mut other) = (class(1), run());
    nameless.name = "No Name".to_owned();
    other.run_id = "x".to_owned();
    for kind in [
        Kind::ClassPut(Box::new(nameless)),
        Kind::ClassGone("No Name".to_owned()),
        Kind::RunPut(other),
        Kind::RunGone(api::RunGone::default()),
        Kind::RevocationPut(Revocation::default()),
        Kind::RevocationGone("x".to_owned()),
    ] {
        let mut agent = knowing(&server);
        let refused = agent.hear(server.change([kind]));
        assert!(matches!(refused, Err(ProtocolError::Run(_))), "{refused:?}");
        assert_eq!(known(&agent).1, [RUN], "what was known stays");
    }
}

#[test]
fn classes_and_runs_come_change_and_go_and_wake_who_waits() {
    let mut server = Server::new(&["a"]);
    let mut agent = knowing(&server);
    let mut changes = agent.base.changes();
    changes.mark_unchanged();
    let seen = agent.base.get().version;
    server.revision += 1;
    let update = Kind::ClassPut(Box::new(class(2)));
    let told = delta([update], Some(point(&server, &[class(2)], &[run()])));
    assert!(!agent.hear(told).unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(known(&agent).0, [("researcher".to_owned(), 2)]);
    changes.mark_unchanged();
    server.revision += 1;
    let ended = Kind::RunGone(api::RunGone {
        run_id: RUN.to_owned(),
        reason: "killed(uid 0)".to_owned(),
    });
    let gone = Kind::ClassGone("researcher".to_owned());
    assert!(!agent.hear(delta([ended, gone], Some(server.point()))).unwrap());
    assert!(changes.has_changed().unwrap());
    assert_eq!(known(&agent), (Vec::new(), Vec::new()));
    let id = RunId::new(RUN).unwrap();
    let now = agent.base.get();
    assert_eq!(now.ended_runs[&id].as_ref(), "killed(uid 0)");
    // Streams of workloads are not looked at for it.
    assert!(!now.concerns(seen, &selectors(&["unix:uid:1"])));
    assert_eq!(now.version, seen);
}

#[test]
fn revocations_come_and_go_and_count_in_the_digest() {
    let mut server = Server::new(&["a"]);
    let mut agent = knowing(&server);
    let id = RunId::new(RUN).unwrap();
    let mut with = point(&server, &[class(1)], &[run()]);
    with.revision += 1;
    server.revision += 1;
    let asks = agent.hear(delta([Kind::RevocationPut(revocation())], Some(with)));
    assert!(asks.unwrap(), "a digest that leaves it out is of another set");
    let mut agent = knowing(&server);
    let mut digest = server.digest();
    [
        class_digest(&class(1)),
        run_digest(&run()),
        revocation_digest(&revocation()),
    ]
    .into_iter()
    .for_each(|one| digest.toggle(one));
    let with = api::ResumePoint {
        digest: digest.as_bytes().to_vec(),
        ..server.point()
    };
    let told = delta([Kind::RevocationPut(revocation())], Some(with));
    assert!(!agent.hear(told).unwrap());
    assert_eq!(*agent.base.get().revoked[&id], revocation());
    server.revision += 1;
    let over = delta(
        [Kind::RevocationGone(RUN.to_owned())],
        Some(point(&server, &[class(1)], &[run()])),
    );
    assert!(!agent.hear(over).unwrap());
    assert!(agent.base.get().revoked.is_empty());
}

#[test]
fn a_set_that_differs_in_a_run_is_asked_for() {
    let mut server = Server::new(&["a"]);
    let mut agent = knowing(&server);
    server.revision += 1;
    let asks = agent.hear(delta([], Some(point(&server, &[class(1)], &[]))));
    assert!(asks.unwrap());
}

#[test]
fn a_server_without_the_feature_leaves_no_classes_and_runs() {
    let mut server = Server::new(&["a"]);
    let agent = knowing(&server);
    let mut agent = Agent::on(agent.base);
    agent.hear(welcome(api::FullReason::Unspecified)).unwrap();
    let told = server.put(entry("b", 1));
    assert!(!agent.hear(told).unwrap(), "its digest counts none of them");
    assert_eq!(known(&agent), (Vec::new(), Vec::new()));
    // What it says of them all the same is skipped.
    let kinds = [Kind::ClassPut(Box::new(class(1))), Kind::RunPut(run())];
    assert!(!agent.hear(server.change(kinds)).unwrap());
    assert_eq!(known(&agent), (Vec::new(), Vec::new()));
    // And known again where one says so.
    let mut agent = Agent::on(agent.base);
    agent
        .hear(welcome_with(api::FullReason::Unspecified, &["runs"]))
        .unwrap();
    let kinds = [Kind::ClassPut(Box::new(class(1))), Kind::RunPut(run())];
    server.revision += 1;
    let told = delta(kinds, Some(point(&server, &[class(1)], &[run()])));
    assert!(!agent.hear(told).unwrap());
    let names = agent.base.get();
    assert!(names.classes.contains_key(&ClassName::new("researcher").unwrap()));
}
