//! Launch leases over the API: who gets them, what they hold for, and what becomes of a run that was launched by one.

use time::OffsetDateTime;
use tonic::Code;
use vouchsafe_identity::ClassName;
use vouchsafe_identity::jwt::{LaunchLease, verify_lease};
use vouchsafe_proto::vouchsafe::run::v1 as run;
use vouchsafe_proto::vouchsafe::run::v1::end_run_request::Outcome;

use crate::audit::until;
use crate::classes::{classes, create, spec};
use crate::follow::agent::Follows;
use crate::runs::{admission, again_at, by, ended, get, jwt, runs, upkeep_ends, x509};
use crate::support::*;

const HOUR: i64 = 3600;

fn offline(runs: u32) -> run::ClassSpec {
    run::ClassSpec {
        offline_runs: runs,
        max_ttl_seconds: 5000,
        ..spec()
    }
}

fn lease() -> run::LeaseRunsRequest {
    run::LeaseRunsRequest {
        class: "researcher".to_owned(),
        class_version: 1,
    }
}

fn time(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// The leases that the server knows.
async fn leased(server: &TestServer) -> Vec<run::Run> {
    let asked = run::ListRunsRequest {
        states: vec![run::RunState::Leased.into()],
        ..run::ListRunsRequest::default()
    };
    runs(server)
        .await
        .list_runs(asked)
        .await
        .unwrap()
        .into_inner()
        .runs
}

/// That a lease was launched by, ten seconds after the start.
fn launched(run_id: &str, admission: run::AdmitRunRequest) -> run::StartRunRequest {
    run::StartRunRequest {
        run_id: run_id.to_owned(),
        pid: 77,
        leased: Some(run::LeasedStart {
            admission: Some(admission),
            started_at: START + 10,
        }),
    }
}

#[tokio::test]
async fn leases_are_given_as_runs_are_admitted_and_no_more_than_there_are_places() {
    let server = server().await;
    let mut class = offline(3);
    class.max_runs = 4;
    class.nodes = Vec::new();
    class.any_node = true;
    create(&server, class).await;
    let (one, other) = (server.agent().await, server.agent().await);
    let (mut one, mut other) = (admission(&server, &one).await, admission(&server, &other).await);
    let unknown = run::LeaseRunsRequest {
        class: "coder".to_owned(),
        ..lease()
    };
    refused(one.lease_runs(unknown).await, Code::PermissionDenied, "not known");
    let old = run::LeaseRunsRequest {
        class_version: 2,
        ..lease()
    };
    refused(
        one.lease_runs(old).await,
        Code::FailedPrecondition,
        "measure anew",
    );
    let given = one.lease_runs(lease()).await.unwrap().into_inner();
    assert_eq!((given.held, given.expires_at), (3, START + HOUR));
    // One place is left, for the other node and for runs that are admitted.
    assert_eq!(other.lease_runs(lease()).await.unwrap().into_inner().held, 1);
    refused(
        one.admit_run(by(1000)).await,
        Code::ResourceExhausted,
        "4 live runs",
    );
    // To ask again renews them.
    server.clock.jump(time::Duration::seconds(600));
    let renewed = one.lease_runs(lease()).await.unwrap().into_inner();
    assert_eq!((renewed.held, renewed.expires_at), (3, START + 600 + HOUR));
    assert_eq!(leased(&server).await.len(), 4);
}

#[tokio::test]
async fn a_class_without_leases_gives_none_and_takes_back_what_it_gave() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    create(&server, spec()).await;
    let agent = server.agent().await;
    let mut client = admission(&server, &agent).await;
    let given = client.lease_runs(lease()).await.unwrap().into_inner();
    assert_eq!((given.held, given.expires_at), (0, 0));
    let update = |spec| run::UpdateClassRequest {
        name: "researcher".to_owned(),
        version: 0,
        spec: Some(spec),
    };
    let mut operator = classes(&server).await;
    operator.update_class(update(offline(2))).await.unwrap();
    let second = run::LeaseRunsRequest {
        class_version: 2,
        ..lease()
    };
    client.lease_runs(second).await.unwrap();
    let held = leased(&server).await;
    assert_eq!(held.len(), 2);
    // A class that has changed is another one than the node would launch.
    operator.update_class(update(offline(1))).await.unwrap();
    drop((client, operator));
    let server = again_at(server, 60).await;
    let mut client = admission(&server, &agent).await;
    let mut classes = classes(&server).await;
    for lease in &held {
        let end = upkeep_ends(&server, &lease.run_id).await;
        assert!(matches!(end.reason, Some(run::run_end::Reason::NeverStarted(_))));
    }
    let third = run::LeaseRunsRequest {
        class_version: 3,
        ..lease()
    };
    assert_eq!(client.lease_runs(third).await.unwrap().into_inner().held, 1);
    let out_of_range = update(offline(101));
    refused(
        classes.update_class(out_of_range).await,
        Code::InvalidArgument,
        "offline_runs",
    );
    let brief = run::ClassSpec {
        offline_for_seconds: 59,
        ..offline(1)
    };
    refused(
        classes.update_class(update(brief)).await,
        Code::InvalidArgument,
        "offline_for_seconds",
    );
    let none = run::ClassSpec {
        offline_for_seconds: 60,
        ..offline(0)
    };
    refused(
        classes.update_class(update(none)).await,
        Code::InvalidArgument,
        "offline_runs",
    );
}

#[tokio::test]
async fn a_lease_is_signed_for_one_node_and_ends_unused() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    create(&server, offline(1)).await;
    let agent = server.agent().await;
    let mut client = admission(&server, &agent).await;
    client.lease_runs(lease()).await.unwrap();
    let row = leased(&server).await.remove(0);
    assert_eq!((row.launcher.as_str(), row.task.as_str()), ("", ""));
    let mut stream = Follows::open_for_runs(&server, &agent).await;
    stream.until(|held| held.runs.contains_key(&row.run_id)).await;
    let told = &stream.held.runs[&row.run_id];
    assert_eq!(told.expires_at, START + HOUR);
    let said = verify_lease(&told.lease, &server.bundle().await, server.clock.now());
    let said = said.unwrap();
    assert_eq!(
        said,
        LaunchLease {
            run: row.spiffe_id.parse().unwrap(),
            node: agent.id(),
            class: ClassName::new("researcher").unwrap(),
            class_version: 1,
            issued_at: time(START),
            expires_at: time(START + HOUR),
        }
    );
    // Its X.509-SVID is had beforehand; of a token nobody knows yet what it should say.
    let svid = x509(&mut client, &row.run_id, 0).await.unwrap();
    assert!(svid.expires_at <= START + HOUR);
    refused(
        jwt(&mut client, &row.run_id, &["a"]).await,
        Code::Unavailable,
        "leased",
    );
    // A restarted agent does not name it, and it is no less leased.
    client
        .report_runs(run::ReportRunsRequest::default())
        .await
        .unwrap();
    assert_eq!(get(&server, &row.run_id).await.state(), run::RunState::Leased);
    drop((client, stream));
    let server = again_at(server, HOUR).await;
    let end = upkeep_ends(&server, &row.run_id).await;
    assert!(matches!(end.reason, Some(run::run_end::Reason::NeverStarted(_))));
}

#[tokio::test]
async fn what_the_class_would_not_have_admitted_is_killed_when_it_is_heard_of() {
    let server = server().await;
    create(&server, offline(2)).await;
    let (own, other) = (server.agent().await, server.agent().await);
    let (mut own, mut other) = (admission(&server, &own).await, admission(&server, &other).await);
    own.lease_runs(lease()).await.unwrap();
    let held = leased(&server).await;
    let (first, second) = (&held[0].run_id, &held[1].run_id);
    server.clock.jump(time::Duration::seconds(60));
    refused(
        other.start_run(launched(first, by(1000))).await,
        Code::NotFound,
        "not found",
    );
    let unsaid = run::StartRunRequest {
        leased: None,
        ..launched(first, by(1000))
    };
    refused(
        own.start_run(unsaid).await,
        Code::FailedPrecondition,
        "who launched",
    );
    refused(
        own.start_run(launched(first, by(1001))).await,
        Code::PermissionDenied,
        "may not launch",
    );
    let row = get(&server, first).await;
    let reason = row.end.unwrap().reason;
    let killed =
        matches!(&reason, Some(run::run_end::Reason::Killed(killed)) if killed.by.contains("may not launch"));
    assert!(killed, "{reason:?}");
    let (code, _) = x509(&mut own, first, 0).await.unwrap_err();
    assert_eq!(code, Code::FailedPrecondition);
    // What was admitted in the ordinary way is no lease.
    let admitted = own.admit_run(by(1000)).await.unwrap().into_inner().run_id;
    refused(
        own.start_run(launched(&admitted, by(1000))).await,
        Code::FailedPrecondition,
        "not leased",
    );
    own.start_run(launched(second, by(1000))).await.unwrap();
}

#[tokio::test]
async fn a_run_that_was_launched_by_a_lease_is_as_one_that_was_admitted() {
    let server = server().await;
    create(&server, offline(1)).await;
    let mut client = admission(&server, &server.agent().await).await;
    client.lease_runs(lease()).await.unwrap();
    let run_id = leased(&server).await.remove(0).run_id;
    server.clock.jump(time::Duration::seconds(1800));
    for _ in 0..2 {
        let told = client.start_run(launched(&run_id, by(1000))).await.unwrap();
        assert_eq!(told.into_inner().expires_at, START + 10 + 5000);
    }
    let row = get(&server, &run_id).await;
    assert_eq!(row.state(), run::RunState::Running);
    assert_eq!((row.started_at, row.pid, row.uid), (START + 10, 77, 1000));
    assert_eq!((row.launcher.as_str(), row.task.as_str()), ("uid:1000", "JIRA-1"));
    jwt(&mut client, &run_id, &["a"]).await.unwrap();
    // Its place is taken until it ends, and another lease is given.
    assert_eq!(client.lease_runs(lease()).await.unwrap().into_inner().held, 1);
    assert_ne!(leased(&server).await[0].run_id, run_id);
    client.end_run(ended(&run_id, Outcome::Exited(0))).await.unwrap();
    let records = until(&server, |record| record.draft.action == "run.end").await;
    for action in ["run.lease", "run.start_by_lease"] {
        assert!(
            records.iter().any(|record| record.draft.action == action),
            "{action}"
        );
    }
}
