//! Runs over the API: who is admitted, what a run gets while it lives, and that it gets nothing after.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use prost::Message;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_identity::x509::svid::parse_leaf;
use vouchsafe_identity::x509::{csr, verify_svid};
use vouchsafe_identity::{LocalKey, RunIdentity, SpiffeId, jwt};
use vouchsafe_proto::spire::api::server::agent::v1::DeleteAgentRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::vouchsafe::run::v1 as run;
use vouchsafe_proto::vouchsafe::run::v1::admission_client::AdmissionClient;
use vouchsafe_proto::vouchsafe::run::v1::admission_refused::Reason;
use vouchsafe_proto::vouchsafe::run::v1::end_run_request::Outcome;
use vouchsafe_proto::vouchsafe::run::v1::runs_client::RunsClient;

use crate::classes::{CLASS, classes, create, creation, spec};
use crate::support::*;

type Agent = AdmissionClient<Channel>;

pub(crate) async fn admission(server: &TestServer, agent: &Identity) -> Agent {
    AdmissionClient::new(server.tls(Some(agent)).await)
}

pub(crate) async fn runs(server: &TestServer) -> RunsClient<Channel> {
    RunsClient::new(server.local().await)
}

pub(crate) fn by(uid: u32) -> run::AdmitRunRequest {
    run::AdmitRunRequest {
        class: "researcher".to_owned(),
        class_version: 1,
        launcher: Some(run::Launcher {
            uid,
            gids: vec![uid],
            ..run::Launcher::default()
        }),
        task: "JIRA-1".to_owned(),
        uid,
        ..run::AdmitRunRequest::default()
    }
}

pub(crate) async fn admit(agent: &mut Agent) -> run::AdmitRunResponse {
    agent.admit_run(by(1000)).await.unwrap().into_inner()
}

/// Why the server refused, by the details that agents act on.
fn why(outcome: Result<tonic::Response<run::AdmitRunResponse>, Status>) -> (Reason, String) {
    #[derive(Clone, PartialEq, prost::Message)]
    struct RpcStatus {
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    let status = outcome.unwrap_err();
    let details = RpcStatus::decode(status.details()).unwrap().details;
    let any = details
        .first()
        .unwrap_or_else(|| panic!("{status:?} has no details"));
    assert_eq!(
        any.type_url,
        "type.googleapis.com/vouchsafe.run.v1.AdmissionRefused"
    );
    let refused = run::AdmissionRefused::decode(any.value.as_slice()).unwrap();
    assert_eq!(refused.detail, status.message());
    (refused.reason(), refused.detail)
}

fn request_for(key: &Arc<LocalKey>) -> Vec<u8> {
    csr::create(
        key.as_ref(),
        Some(&id("/admin")),
        &["evil.example.org".to_owned()],
    )
    .unwrap()
}

pub(crate) async fn x509(
    agent: &mut Agent,
    run_id: &str,
    child: u32,
) -> Result<run::RunX509svid, (Code, String)> {
    let item = run::new_run_x509svi_ds_request::Item {
        run_id: run_id.to_owned(),
        csr: request_for(&key()),
        child,
    };
    let asked = run::NewRunX509sviDsRequest { items: vec![item] };
    let mut results = agent
        .new_run_x509svi_ds(asked)
        .await
        .unwrap()
        .into_inner()
        .results;
    let result = results.pop().unwrap();
    result.svid.ok_or((result.code.into(), result.message))
}

pub(crate) async fn jwt(
    agent: &mut Agent,
    run_id: &str,
    audience: &[&str],
) -> Result<run::NewRunJwtsvidResponse, Status> {
    let asked = run::NewRunJwtsvidRequest {
        run_id: run_id.to_owned(),
        audience: audience.iter().map(ToString::to_string).collect(),
        child: 0,
    };
    Ok(agent.new_run_jwtsvid(asked).await?.into_inner())
}

pub(crate) fn ended(run_id: &str, outcome: Outcome) -> run::EndRunRequest {
    run::EndRunRequest {
        run_id: run_id.to_owned(),
        outcome: Some(outcome),
    }
}

pub(crate) async fn get(server: &TestServer, run_id: &str) -> run::Run {
    let run_id = run_id.to_owned();
    let asked = run::GetRunRequest { run_id };
    runs(server).await.get_run(asked).await.unwrap().into_inner()
}

/// Waits until upkeep has ended a run.
pub(crate) async fn upkeep_ends(server: &TestServer, run_id: &str) -> run::RunEnd {
    for _ in 0..1000 {
        if let Some(end) = get(server, run_id).await.end {
            return end;
        }
        tokio::task::yield_now().await;
    }
    panic!("run {run_id} still lives");
}

#[tokio::test]
async fn an_agent_reaches_only_the_runs_of_its_own_node() {
    let server = server().await;
    create(&server, spec()).await;
    let (own, other) = (server.agent().await, server.agent().await);
    let (mut own, mut other) = (admission(&server, &own).await, admission(&server, &other).await);
    let run_id = admit(&mut own).await.run_id;

    let (code, text) = x509(&mut other, &run_id, 0).await.unwrap_err();
    assert_eq!(code, Code::NotFound, "{text}");
    refused(
        jwt(&mut other, &run_id, &["a"]).await,
        Code::NotFound,
        "not admitted for this node",
    );
    let start = run::StartRunRequest {
        run_id: run_id.clone(),
        pid: 7,
        leased: None,
    };
    refused(other.start_run(start).await, Code::NotFound, "not found");
    refused(
        other.end_run(ended(&run_id, Outcome::Exited(0))).await,
        Code::NotFound,
        "not found",
    );
    // What an agent does not have, it can neither end by leaving it out.
    let named = vec![run_id.clone()];
    let told = other
        .report_runs(run::ReportRunsRequest {
            partial: false,
            run_ids: named.clone(),
        })
        .await;
    assert_eq!(told.unwrap().into_inner().ended, named);
    other
        .report_runs(run::ReportRunsRequest::default())
        .await
        .unwrap();
    // Once it has ended, the other learns nothing more than before.
    own.end_run(ended(&run_id, Outcome::Exited(0))).await.unwrap();
    assert_eq!(x509(&mut other, &run_id, 0).await.unwrap_err(), (code, text));
    assert!(
        x509(&mut own, &run_id, 0)
            .await
            .unwrap_err()
            .1
            .contains("exited(0)")
    );
}

#[tokio::test]
async fn only_who_the_class_names_may_launch() {
    let server = server().await;
    let agent = server.agent().await;
    let served = id("/orchestrator");
    server.entry(entry(&agent.id(), served.path(), 1)).await;
    server.entry(entry(&id("/elsewhere"), "/team/other", 1)).await;
    server.entry(entry(&agent.id(), "/team/own", 1)).await;
    let mut rules = spec();
    let by_id = [served.to_string(), format!("{}/**", id("/team"))];
    rules.launchers = ["uid:1000", "gid:200", "user:alice"].map(str::to_owned).to_vec();
    rules.launchers.extend(by_id);
    create(&server, rules).await;
    let mut client = admission(&server, &agent).await;
    let asking = |uid, gids: &[u32], user: &str, path: &str| {
        let mut asked = by(uid);
        asked.launcher = Some(run::Launcher {
            uid,
            gids: gids.to_vec(),
            user: user.to_owned(),
            spiffe_id: match path {
                "" => String::new(),
                path => id(path).to_string(),
            },
        });
        asked
    };
    for (uid, gids, user, path) in [
        (1001, &[][..], "", ""),
        (1001, &[1000], "bob", ""),
        // An id that another node's entry gives, or none, is not believed.
        (1001, &[], "", "/team/other"),
        (1001, &[], "", "/team/none"),
        (1000, &[], "", "/team/other"),
        // `/**` is what is below.
        (1001, &[], "", "/team"),
    ] {
        let (reason, text) = why(client.admit_run(asking(uid, gids, user, path)).await);
        assert_eq!(reason, Reason::LauncherNotAllowed, "{uid} {user} {path}: {text}");
    }
    for (uid, gids, user, path) in [
        (1000, &[][..], "", ""),
        (1001, &[5, 200], "", ""),
        (1001, &[], "alice", ""),
        (1001, &[], "", "/orchestrator"),
        (1001, &[], "", "/team/own"),
    ] {
        let admitted = client.admit_run(asking(uid, gids, user, path)).await;
        assert!(admitted.is_ok(), "{uid} {user} {path}: {admitted:?}");
    }
    let none = run::AdmitRunRequest {
        launcher: None,
        ..by(1000)
    };
    refused(
        client.admit_run(none).await,
        Code::InvalidArgument,
        "`launcher` is missing",
    );
}

#[tokio::test]
async fn a_run_launches_by_its_own_id_alone() {
    let server = server().await;
    let (agent, other) = (server.agent().await, server.agent().await);
    create(&server, spec()).await;
    let mut only_runs = spec();
    only_runs.launchers = vec![format!("{}/run/**", id(CLASS))];
    let made = creation("coder", "/agent/coder", only_runs);
    classes(&server).await.create_class(made).await.unwrap();
    let mut client = admission(&server, &agent).await;
    let parent = admit(&mut client).await;
    let child_of = |class: &str, parent_run_id: &str| run::AdmitRunRequest {
        class: class.to_owned(),
        parent_run_id: parent_run_id.to_owned(),
        ..by(1000)
    };
    // The user that may launch a researcher may not do so from within a run.
    let (reason, text) = why(client.admit_run(child_of("researcher", &parent.run_id)).await);
    assert_eq!(reason, Reason::LauncherNotAllowed);
    assert!(text.contains(&parent.spiffe_id), "{text}");
    let mut elsewhere = admission(&server, &other).await;
    let theirs = admit(&mut elsewhere).await.run_id;
    for unknown in ["01K9Z3V7Q8R4S5T6V7W8X9YZAB", &theirs] {
        let (reason, _) = why(client.admit_run(child_of("coder", unknown)).await);
        assert_eq!(reason, Reason::Parent);
    }
    let admitted = client
        .admit_run(child_of("coder", &parent.run_id))
        .await
        .unwrap()
        .into_inner();
    let child = get(&server, &admitted.run_id).await;
    assert_eq!(
        (child.launcher, child.parent_run_id),
        (parent.spiffe_id, parent.run_id.clone())
    );
    // An ended one launches nothing.
    client
        .end_run(ended(&parent.run_id, Outcome::Signalled(9)))
        .await
        .unwrap();
    let (reason, _) = why(client.admit_run(child_of("coder", &parent.run_id)).await);
    assert_eq!(reason, Reason::Parent);
}

#[tokio::test]
async fn class_node_version_user_and_isolation_are_held() {
    let server = server().await;
    let token = server.token_with(600, Some(&id("/node/by-token"))).await;
    let by_token = attest(server.tls(None).await, &token).await.unwrap();
    let (agent, other) = (server.agent().await, server.agent().await);
    let mut alias = entry(&id("/spire/server"), "/node/by-entry", 1);
    alias.selectors = vec![selector("spiffe_id", other.id().as_str())];
    server.entry(alias).await;
    let mut narrow = spec();
    narrow.any_node = false;
    narrow.nodes = vec![agent.id().to_string(), id("/node/by-token").to_string()];
    narrow.user = Some(run::RunUser {
        user: Some(run::run_user::User::Pool(run::run_user::Pool {
            first_uid: 70_000,
            last_uid: 70_009,
        })),
    });
    create(&server, narrow).await;
    let fitting = || run::AdmitRunRequest {
        uid: 70_001,
        ..by(1000)
    };
    let mut client = admission(&server, &agent).await;
    for (reason, asked) in [
        (
            Reason::UnknownClass,
            run::AdmitRunRequest {
                class: "nobody".to_owned(),
                ..fitting()
            },
        ),
        (
            Reason::ClassChanged,
            run::AdmitRunRequest {
                class_version: 2,
                ..fitting()
            },
        ),
        (Reason::User, by(1000)),
        (
            Reason::User,
            run::AdmitRunRequest {
                uid: 70_010,
                ..fitting()
            },
        ),
        (
            Reason::Isolation,
            run::AdmitRunRequest {
                isolation: run::Isolation::None.into(),
                ..fitting()
            },
        ),
    ] {
        assert_eq!(why(client.admit_run(asked.clone()).await).0, reason, "{asked:?}");
    }
    let (reason, _) = why(admission(&server, &other).await.admit_run(fitting()).await);
    assert_eq!(reason, Reason::NodeNotAllowed);
    client.admit_run(fitting()).await.unwrap();
    admission(&server, &by_token)
        .await
        .admit_run(fitting())
        .await
        .unwrap();

    let mut disabled = spec();
    disabled.disabled = true;
    let update = run::UpdateClassRequest {
        name: "researcher".to_owned(),
        version: 1,
        spec: Some(disabled),
    };
    classes(&server).await.update_class(update).await.unwrap();
    assert_eq!(why(client.admit_run(by(1000)).await).0, Reason::ClassDisabled);
}

#[tokio::test]
async fn tasks_labels_and_ids_are_checked() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    for (text, asked) in [
        (
            "is not a task",
            run::AdmitRunRequest {
                task: "a b".to_owned(),
                ..by(1000)
            },
        ),
        (
            "17 labels are more than the limit of 16",
            run::AdmitRunRequest {
                labels: (0..17)
                    .map(|n| (format!("k{n}"), String::new()))
                    .collect::<BTreeMap<_, _>>(),
                ..by(1000)
            },
        ),
        (
            "is not a run's id",
            run::AdmitRunRequest {
                parent_run_id: "x".to_owned(),
                ..by(1000)
            },
        ),
        (
            "is not a SHA-256",
            run::AdmitRunRequest {
                measured_sha256: "x".to_owned(),
                ..by(1000)
            },
        ),
    ] {
        refused(client.admit_run(asked).await, Code::InvalidArgument, text);
    }
}

/// The user of a run that runs as its launcher is the launcher's.
#[tokio::test]
async fn a_launcher_starts_nothing_as_somebody_else() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    let as_root = run::AdmitRunRequest { uid: 0, ..by(1000) };
    assert_eq!(why(client.admit_run(as_root).await).0, Reason::User);
}

#[tokio::test]
async fn never_more_runs_live_than_the_class_allows_however_many_ask_at_once() {
    let server = server().await;
    let mut narrow = spec();
    narrow.max_runs = 4;
    create(&server, narrow).await;
    let mut asking = tokio::task::JoinSet::new();
    for agent in [server.agent().await, server.agent().await] {
        for _ in 0..10 {
            let mut client = admission(&server, &agent).await;
            asking.spawn(async move { client.admit_run(by(1000)).await });
        }
    }
    let outcomes = asking.join_all().await;
    let (good, bad): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(good.len(), 4);
    for refused in bad {
        let (reason, text) = why(refused);
        assert_eq!(reason, Reason::MaxRuns, "{text}");
        assert!(text.contains("has 4 live runs"), "{text}");
    }
    let ids: HashSet<String> = good
        .into_iter()
        .map(|run| run.unwrap().into_inner().run_id)
        .collect();
    assert_eq!(ids.len(), 4);
    // The end of one makes room for one, and its id is not used again.
    let first = ids.iter().next().unwrap();
    let kill = run::KillRunRequest {
        run_id: first.clone(),
    };
    runs(&server).await.kill_run(kill).await.unwrap();
    let mut client = admission(&server, &server.agent().await).await;
    assert!(!ids.contains(&admit(&mut client).await.run_id));
    assert_eq!(why(client.admit_run(by(1000)).await).0, Reason::MaxRuns);
}

#[tokio::test]
async fn a_run_gets_its_own_id_until_it_ends_and_nothing_after() {
    let server = server().await;
    let mut short = spec();
    short.max_ttl_seconds = 900;
    short.x509_svid_ttl_seconds = 600;
    create(&server, short).await;
    let agent = server.agent().await;
    let mut client = admission(&server, &agent).await;
    let admitted = admit(&mut client).await;
    assert_eq!(
        admitted.spiffe_id,
        format!("{}/run/{}", id(CLASS), admitted.run_id)
    );
    assert_eq!(admitted.class.unwrap().live_runs, 1);
    let svid = x509(&mut client, &admitted.run_id, 0).await.unwrap();
    let leaf = parse_leaf(&svid.chain[0]).unwrap();
    assert_eq!(leaf.spiffe_id.to_string(), admitted.spiffe_id);
    assert!(RunIdentity::parse(&leaf.spiffe_id).is_some());
    verify_svid(&svid.chain, &server.bundle().await, server.clock.now()).unwrap();
    assert_eq!(svid.expires_at, START + 600);
    // Near its end its SVIDs end with it.
    server.clock.jump(time::Duration::seconds(800));
    let mut client = admission(&server, &renew(server.tls(Some(&agent)).await).await.unwrap()).await;
    let start = run::StartRunRequest {
        run_id: admitted.run_id.clone(),
        pid: 4711,
        leased: None,
    };
    // A run that was not started in time is over; this one is asked for again below.
    let _either = client.start_run(start).await;
    let late = admit(&mut client).await;
    let start = run::StartRunRequest {
        run_id: late.run_id.clone(),
        pid: 4712,
        leased: None,
    };
    client.start_run(start.clone()).await.unwrap();
    client.start_run(start.clone()).await.unwrap();
    assert_eq!(
        x509(&mut client, &late.run_id, 0).await.unwrap().expires_at,
        START + 1400
    );
    server.clock.jump(time::Duration::seconds(850));
    assert_eq!(
        x509(&mut client, &late.run_id, 0).await.unwrap().expires_at,
        START + 1700
    );
    let token = jwt(&mut client, &late.run_id, &["a"]).await.unwrap();
    assert_eq!(token.expires_at, START + 1700);
    server.clock.jump(time::Duration::seconds(50));
    let (code, text) = x509(&mut client, &late.run_id, 0).await.unwrap_err();
    assert_eq!(code, Code::FailedPrecondition, "{text}");
    refused(
        jwt(&mut client, &late.run_id, &["a"]).await,
        Code::FailedPrecondition,
        "has ended",
    );
}

#[tokio::test]
async fn a_run_that_was_ended_or_killed_gets_nothing_and_stays_as_it_ended() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    let (first, second) = (admit(&mut client).await.run_id, admit(&mut client).await.run_id);
    x509(&mut client, &first, 0).await.unwrap();
    jwt(&mut client, &first, &["a"]).await.unwrap();
    assert_eq!(get(&server, &first).await.svids_issued, 2);
    client.end_run(ended(&first, Outcome::Exited(3))).await.unwrap();
    let kill = |run_id: &str| run::KillRunRequest {
        run_id: run_id.to_owned(),
    };
    let killed = runs(&server)
        .await
        .kill_run(kill(&second))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(killed.state(), run::RunState::Ended);
    for (run_id, how) in [(&first, "exited(3)"), (&second, "killed by uid ")] {
        let (code, text) = x509(&mut client, run_id, 0).await.unwrap_err();
        assert_eq!(code, Code::FailedPrecondition);
        assert!(text.contains(how), "{text}");
        refused(
            jwt(&mut client, run_id, &["a"]).await,
            Code::FailedPrecondition,
            how,
        );
        let run_id = run_id.clone();
        let start = run::StartRunRequest {
            run_id,
            pid: 1,
            leased: None,
        };
        let started = client.start_run(start).await;
        refused(started, Code::FailedPrecondition, how);
    }
    // The end that came first counts.
    runs(&server).await.kill_run(kill(&first)).await.unwrap();
    client.end_run(ended(&second, Outcome::Exited(0))).await.unwrap();
    let first = get(&server, &first).await;
    assert_eq!(first.svids_issued, 2);
    let end = first.end.unwrap();
    assert_eq!(end.reason, Some(run::run_end::Reason::Exited(3)));
    // X.509-SVIDs live for an hour.
    assert!(end.svids_end_at >= START + 3600 && end.svids_end_at <= first.expires_at);
    let unknown = kill("01K9Z3V7Q8R4S5T6V7W8X9YZAB");
    refused(
        runs(&server).await.kill_run(unknown).await,
        Code::NotFound,
        "not found",
    );
    refused(
        runs(&server).await.kill_run(kill("x")).await,
        Code::InvalidArgument,
        "is not a run's id",
    );
}

#[tokio::test]
async fn tokens_say_run_class_and_task_to_listed_audiences_only_and_carry_one_id() {
    let server = server().await;
    let mut speaking = spec();
    speaking.claims_audiences = vec!["tools".to_owned(), "both".to_owned()];
    speaking.class_sub_audiences = vec!["database".to_owned(), "both".to_owned()];
    create(&server, speaking).await;
    let mut client = admission(&server, &server.agent().await).await;
    let admitted = admit(&mut client).await;
    let (run_id, own, class) = (admitted.run_id, admitted.spiffe_id, id(CLASS).to_string());
    for mixed in [["tools", "other"], ["database", "other"], ["database", "tools"]] {
        refused(
            jwt(&mut client, &run_id, &mixed).await,
            Code::InvalidArgument,
            "ask for a token each",
        );
    }
    refused(
        jwt(&mut client, &run_id, &[]).await,
        Code::InvalidArgument,
        "at least one audience",
    );
    let bundle = server.bundle().await;
    for (audience, subject, said) in [
        ("other", &own, [None, None, None]),
        ("tools", &own, [Some(&*own), Some(&*class), Some("JIRA-1")]),
        ("database", &class, [Some(&*own), None, None]),
        ("both", &class, [Some(&*own), Some(&*class), Some("JIRA-1")]),
    ] {
        let issued = jwt(&mut client, &run_id, &[audience]).await.unwrap();
        assert_eq!(issued.spiffe_id, *subject, "{audience}");
        let verified = jwt::verify_svid(&issued.token, audience, |_| Some(&bundle), server.clock.now());
        let verified = verified.unwrap();
        assert_eq!(verified.spiffe_id.to_string(), *subject);
        let claims = &verified.claims;
        let found = ["run", "class", "task"].map(|name| claims.get(name).and_then(|claim| claim.as_str()));
        assert_eq!(found, said, "{audience}");
        assert!(claims.get("jti").is_some());
    }
}

#[tokio::test]
async fn children_have_ids_of_their_own_only_where_the_class_says_so() {
    let server = server().await;
    create(&server, spec()).await;
    let mut derived = spec();
    derived.inherit = run::Inherit::Derived.into();
    let made = creation("coder", "/agent/coder", derived);
    classes(&server).await.create_class(made).await.unwrap();
    let mut client = admission(&server, &server.agent().await).await;
    let plain = admit(&mut client).await;
    let (code, text) = x509(&mut client, &plain.run_id, 1).await.unwrap_err();
    assert_eq!(code, Code::PermissionDenied, "{text}");
    let asked = run::AdmitRunRequest {
        class: "coder".to_owned(),
        ..by(1000)
    };
    let coder = client.admit_run(asked).await.unwrap().into_inner();
    let child = x509(&mut client, &coder.run_id, 7).await.unwrap();
    assert_eq!(child.spiffe_id, format!("{}/child/7", coder.spiffe_id));
    let id = RunIdentity::parse(&SpiffeId::new(&child.spiffe_id).unwrap()).unwrap();
    assert_eq!(id.child.map(u32::from), Some(7));
    let max = RunIdentity::MAX_CHILDREN;
    assert!(x509(&mut client, &coder.run_id, max).await.is_ok());
    let (code, text) = x509(&mut client, &coder.run_id, max + 1).await.unwrap_err();
    assert_eq!(code, Code::InvalidArgument, "{text}");
}

#[tokio::test]
async fn a_report_ends_what_the_agent_no_longer_has_and_names_what_does_not_live() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    let mut other = admission(&server, &server.agent().await).await;
    let theirs = admit(&mut other).await.run_id;
    let (kept, lost, over) = (
        admit(&mut client).await.run_id,
        admit(&mut client).await.run_id,
        admit(&mut client).await.run_id,
    );
    client.end_run(ended(&over, Outcome::Exited(0))).await.unwrap();
    // Some are not all.
    let some = run::ReportRunsRequest {
        run_ids: vec![over.clone()],
        partial: true,
    };
    let told = client.report_runs(some).await.unwrap().into_inner();
    assert_eq!(told.ended, std::slice::from_ref(&over));
    for lives in [&kept, &lost] {
        assert_eq!(get(&server, lives).await.state(), run::RunState::Admitted);
    }
    let named = run::ReportRunsRequest {
        run_ids: vec![kept.clone(), over.clone()],
        partial: false,
    };
    let told = client.report_runs(named).await.unwrap().into_inner();
    assert_eq!(told.ended, std::slice::from_ref(&over));
    let end = get(&server, &lost).await.end.unwrap();
    assert_eq!(
        end.reason,
        Some(run::run_end::Reason::Lost(run::run_end::Lost {}))
    );
    for lives in [&kept, &theirs] {
        assert_eq!(get(&server, lives).await.state(), run::RunState::Admitted);
    }
    let many = run::ReportRunsRequest {
        run_ids: vec![kept; 10_001],
        partial: true,
    };
    refused(
        client.report_runs(many).await,
        Code::InvalidArgument,
        "limit of 10000",
    );
}

#[tokio::test]
async fn a_class_with_live_runs_goes_only_by_force_which_kills_them() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    let run_id = admit(&mut client).await.run_id;
    let mut operator = classes(&server).await;
    let delete = |force| run::DeleteClassRequest {
        name: "researcher".to_owned(),
        force,
    };
    refused(
        operator.delete_class(delete(false)).await,
        Code::FailedPrecondition,
        "1 runs",
    );
    x509(&mut client, &run_id, 0).await.unwrap();
    let deleted = operator.delete_class(delete(true)).await.unwrap().into_inner();
    assert_eq!(deleted.killed, 1);
    assert!(
        x509(&mut client, &run_id, 0)
            .await
            .unwrap_err()
            .1
            .contains("killed by ")
    );
    assert_eq!(why(client.admit_run(by(1000)).await).0, Reason::UnknownClass);
    refused(
        operator.delete_class(delete(true)).await,
        Code::NotFound,
        "not found",
    );
}

#[tokio::test]
async fn an_update_does_not_touch_runs_that_live() {
    let server = server().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &server.agent().await).await;
    let before = admit(&mut client).await;
    let mut changed = spec();
    changed.x509_svid_ttl_seconds = 60;
    changed.inherit = run::Inherit::Derived.into();
    let update = run::UpdateClassRequest {
        name: "researcher".to_owned(),
        version: 1,
        spec: Some(changed),
    };
    classes(&server).await.update_class(update).await.unwrap();
    let old = x509(&mut client, &before.run_id, 0).await.unwrap();
    assert_eq!(old.expires_at, START + 3600);
    assert!(x509(&mut client, &before.run_id, 1).await.is_err());
    assert_eq!(why(client.admit_run(by(1000)).await).0, Reason::ClassChanged);
    let asked = run::AdmitRunRequest {
        class_version: 2,
        ..by(1000)
    };
    let after = client.admit_run(asked).await.unwrap().into_inner();
    assert_eq!(
        x509(&mut client, &after.run_id, 0).await.unwrap().expires_at,
        START + 60
    );
}

/// The same server, so many seconds after the test began.
pub(crate) async fn again_at(server: TestServer, seconds: i64) -> TestServer {
    server_on_disk_at(server.stop().await, START + seconds).await
}

#[tokio::test]
async fn upkeep_ends_what_is_over_and_forgets_it_in_time() {
    use run::run_end::{Expired, Lost, NeverStarted, Reason as End};
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    let mut short = spec();
    short.max_ttl_seconds = 900;
    create(&server, short).await;
    let (agent, gone) = (server.agent().await, server.agent().await);
    let mut client = admission(&server, &agent).await;
    let (idle, started) = (admit(&mut client).await.run_id, admit(&mut client).await.run_id);
    let start = run::StartRunRequest {
        run_id: started.clone(),
        pid: 1,
        leased: None,
    };
    client.start_run(start).await.unwrap();
    let orphan = admit(&mut admission(&server, &gone).await).await.run_id;
    let delete = DeleteAgentRequest {
        id: Some(message(&gone.id())),
    };
    AgentClient::new(server.local().await)
        .delete_agent(delete)
        .await
        .unwrap();
    drop(client);
    let server = again_at(server, 120).await;
    assert_eq!(
        upkeep_ends(&server, &orphan).await.reason,
        Some(End::Lost(Lost {}))
    );
    assert_eq!(get(&server, &idle).await.state(), run::RunState::Admitted);
    let server = again_at(server, 300).await;
    assert_eq!(
        upkeep_ends(&server, &idle).await.reason,
        Some(End::NeverStarted(NeverStarted {}))
    );
    assert_eq!(get(&server, &started).await.state(), run::RunState::Running);
    let server = again_at(server, 900).await;
    assert_eq!(
        upkeep_ends(&server, &started).await.reason,
        Some(End::Expired(Expired {}))
    );
    // Seven days after they ended, the first two are forgotten, and the third is not.
    let server = again_at(server, 7 * 24 * 3600 + 300).await;
    let mut operator = runs(&server).await;
    for run_id in [idle, orphan] {
        let asked = run::GetRunRequest { run_id };
        let mut tries = 0;
        while operator.get_run(asked.clone()).await.is_ok() {
            tries += 1;
            assert!(tries < 1000, "{asked:?} is still known");
            tokio::task::yield_now().await;
        }
        refused(operator.get_run(asked).await, Code::NotFound, "not found");
    }
    assert_eq!(get(&server, &started).await.state(), run::RunState::Ended);
}

/// The ids of all pages of a list.
async fn list(server: &TestServer, asked: &run::ListRunsRequest) -> HashSet<String> {
    let (mut found, mut page_token) = (HashSet::new(), String::new());
    loop {
        let asked = run::ListRunsRequest {
            page_size: 1,
            page_token,
            ..asked.clone()
        };
        let page = runs(server).await.list_runs(asked).await.unwrap().into_inner();
        found.extend(page.runs.into_iter().map(|run| run.run_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn runs_are_listed_by_what_is_asked_for() {
    let server = server().await;
    create(&server, spec()).await;
    let (agent, other) = (server.agent().await, server.agent().await);
    let mut client = admission(&server, &agent).await;
    let mut elsewhere = admission(&server, &other).await;
    let first = admit(&mut client).await.run_id;
    let labelled = run::AdmitRunRequest {
        task: "JIRA-2".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        ..by(1000)
    };
    let second = client.admit_run(labelled).await.unwrap().into_inner().run_id;
    let third = admit(&mut elsewhere).await.run_id;
    client.end_run(ended(&first, Outcome::Exited(0))).await.unwrap();
    let live = vec![run::RunState::Admitted.into(), run::RunState::Running.into()];
    let set = |ids: &[&String]| ids.iter().map(ToString::to_string).collect::<HashSet<_>>();
    for (expected, asked) in [
        (set(&[&first, &second, &third]), run::ListRunsRequest::default()),
        (
            set(&[&second, &third]),
            run::ListRunsRequest {
                states: live,
                ..Default::default()
            },
        ),
        (
            set(&[&first]),
            run::ListRunsRequest {
                states: vec![run::RunState::Ended.into()],
                ..Default::default()
            },
        ),
        (
            set(&[&third]),
            run::ListRunsRequest {
                node: other.id().to_string(),
                ..Default::default()
            },
        ),
        (
            set(&[&second]),
            run::ListRunsRequest {
                task: "JIRA-2".to_owned(),
                ..Default::default()
            },
        ),
        (
            set(&[]),
            run::ListRunsRequest {
                class: "other".to_owned(),
                ..Default::default()
            },
        ),
    ] {
        assert_eq!(list(&server, &asked).await, expected, "{asked:?}");
    }
    let run = get(&server, &second).await;
    assert_eq!(run.labels["team"], "blue");
    let bad = run::ListRunsRequest {
        page_token: "x".to_owned(),
        ..Default::default()
    };
    refused(
        runs(&server).await.list_runs(bad).await,
        Code::InvalidArgument,
        "malformed page token",
    );
}

#[tokio::test]
async fn classes_and_runs_live_on_when_the_server_starts_again() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    create(&server, spec()).await;
    let agent = server.agent().await;
    let mut client = admission(&server, &agent).await;
    let (lives, over) = (admit(&mut client).await.run_id, admit(&mut client).await.run_id);
    client.end_run(ended(&over, Outcome::Exited(0))).await.unwrap();
    drop(client);
    let server = server_on_disk(server.stop().await).await;
    let mut client = admission(&server, &agent).await;
    x509(&mut client, &lives, 0).await.unwrap();
    assert!(
        x509(&mut client, &over, 0)
            .await
            .unwrap_err()
            .1
            .contains("exited(0)")
    );
    assert_eq!(admit(&mut client).await.class.unwrap().live_runs, 2);
}
