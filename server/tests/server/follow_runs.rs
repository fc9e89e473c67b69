//! Classes, runs and revocations by push, over real streams: which agents hear of them, and when.

use vouchsafe_identity::jwt::verify_svid as verify_token;
use vouchsafe_identity::x509::svid::parse_leaf;
use vouchsafe_proto::spire::api::server::entry::v1::BatchDeleteEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::vouchsafe::run::v1 as run;
use vouchsafe_proto::vouchsafe::run::v1::end_run_request::Outcome;

use crate::classes::{classes, create, spec};
use crate::follow::agent::{Follows, hello};
use crate::runs::{admission, admit, ended, jwt, runs, x509};
use crate::support::*;

fn on(nodes: &[String]) -> run::ClassSpec {
    run::ClassSpec {
        any_node: false,
        nodes: nodes.to_vec(),
        ..spec()
    }
}

async fn update(server: &TestServer, spec: run::ClassSpec) -> run::Class {
    let asked = run::UpdateClassRequest {
        name: "researcher".to_owned(),
        version: 0,
        spec: Some(spec),
    };
    let updated = classes(server).await.update_class(asked).await;
    updated.unwrap().into_inner()
}

async fn delete(server: &TestServer) {
    let asked = run::DeleteClassRequest {
        name: "researcher".to_owned(),
        force: true,
    };
    classes(server).await.delete_class(asked).await.unwrap();
}

async fn kill(server: &TestServer, run_id: &str) {
    let run_id = run_id.to_owned();
    let asked = run::KillRunRequest { run_id };
    runs(server).await.kill_run(asked).await.unwrap();
}

#[tokio::test]
async fn an_agent_hears_nothing_of_other_nodes_classes_and_runs() {
    let server = server().await;
    let (ours, theirs) = (server.agent().await, server.agent().await);
    create(&server, on(&[ours.id().to_string()])).await;
    let mut there = Follows::open_for_runs(&server, &theirs).await;
    let mut here = Follows::open_for_runs(&server, &ours).await;
    assert!(there.held.classes.is_empty());
    assert!(here.held.classes.contains_key("researcher"));
    let mut client = admission(&server, &ours).await;
    let admitted = admit(&mut client).await;
    here.until(|held| held.runs.contains_key(&admitted.run_id)).await;
    let told = here.held.runs[&admitted.run_id].clone();
    assert_eq!(
        (told.spiffe_id, told.class, told.class_version, told.expires_at),
        (
            admitted.spiffe_id,
            "researcher".to_owned(),
            1,
            admitted.expires_at
        )
    );
    update(
        &server,
        run::ClassSpec {
            max_runs: 2,
            ..on(&[ours.id().to_string()])
        },
    )
    .await;
    here.until(|held| held.classes["researcher"].version == 2).await;
    assert_eq!(here.held.classes["researcher"].live_runs, 0);
    client
        .end_run(ended(&admitted.run_id, Outcome::Exited(4)))
        .await
        .unwrap();
    here.until(|held| held.runs.is_empty()).await;
    assert_eq!(here.held.ended[&admitted.run_id], "exited(4)");
    // That its SVIDs are revoked is for everybody.
    there.until(|held| !held.revoked.is_empty()).await;
    there.assert_quiet().await;
    assert_eq!((there.changes, there.held.ended.len()), (1, 0));
}

#[tokio::test]
async fn an_agent_that_does_not_name_the_feature_is_told_none_of_it() {
    let server = server().await;
    let agent = server.agent().await;
    create(&server, spec()).await;
    let mut stream = Follows::begin(&server, &agent, hello(None)).await;
    assert!(stream.welcome().await.features.is_empty());
    stream.until(|held| held.point.is_some()).await;
    let mut client = admission(&server, &agent).await;
    let admitted = admit(&mut client).await;
    kill(&server, &admitted.run_id).await;
    update(
        &server,
        run::ClassSpec {
            disabled: true,
            ..spec()
        },
    )
    .await;
    stream.assert_quiet().await;
    // Its digest counts none of it, here and after a cut.
    let held = stream.held.clone();
    drop(stream);
    let mut stream = Follows::resume(&server, &agent, held).await;
    stream.welcome().await;
    stream.step().await.unwrap();
    assert_eq!((stream.changes, stream.pages), (0, 0));
    // The same agent, updated: it is told what it lacks, and no more.
    let held = stream.held.clone();
    let mut stream = Follows::resume_for_runs(&server, &agent, held).await;
    stream.welcome().await;
    stream.until(|held| held.classes.contains_key("researcher")).await;
    assert!(stream.held.revoked.contains_key(&admitted.run_id));
    assert_eq!((stream.changes, stream.pages), (2, 0));
}

#[tokio::test]
async fn a_class_that_is_moved_disabled_or_deleted_is_heard_of_at_once() {
    let server = server().await;
    let (first, second) = (server.agent().await, server.agent().await);
    create(&server, on(&[first.id().to_string()])).await;
    let mut here = Follows::open_for_runs(&server, &first).await;
    let mut there = Follows::open_for_runs(&server, &second).await;
    update(&server, on(&[second.id().to_string()])).await;
    here.until(|held| held.classes.is_empty()).await;
    there.until(|held| held.classes.contains_key("researcher")).await;
    update(
        &server,
        run::ClassSpec {
            disabled: true,
            ..spec()
        },
    )
    .await;
    let disabled = |class: &run::Class| class.spec.as_ref().unwrap().disabled;
    here.until(|held| held.classes.values().any(disabled)).await;
    there.until(|held| held.classes.values().any(disabled)).await;
    delete(&server).await;
    here.until(|held| held.classes.is_empty()).await;
    there.until(|held| held.classes.is_empty()).await;
}

#[tokio::test]
async fn an_alias_brings_a_class_and_takes_it_away() {
    let server = server().await;
    let agent = server.agent().await;
    create(&server, on(&[id("/node/gpu").to_string()])).await;
    let mut stream = Follows::open_for_runs(&server, &agent).await;
    assert!(stream.held.classes.is_empty());
    // As with a join token that names an alias.
    let mut alias = entry(&agent.id(), "/node/gpu", 1);
    alias.selectors = vec![selector("spiffe_id", agent.id().as_str())];
    let alias = server.entry(alias).await;
    stream.until(|held| held.classes.contains_key("researcher")).await;
    let mut client = EntryClient::new(server.local().await);
    let ids = vec![alias.id];
    client
        .batch_delete_entry(BatchDeleteEntryRequest { ids })
        .await
        .unwrap();
    stream
        .until(|held| held.classes.is_empty() && held.entries.is_empty())
        .await;
}

#[tokio::test]
async fn a_kill_is_heard_on_the_open_stream_with_who_it_was() {
    let server = server().await;
    let agent = server.agent().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &agent).await;
    let mut stream = Follows::open_for_runs(&server, &agent).await;
    let (one, two) = (admit(&mut client).await.run_id, admit(&mut client).await.run_id);
    stream.until(|held| held.runs.len() == 2).await;
    kill(&server, &one).await;
    stream.until(|held| held.ended.contains_key(&one)).await;
    assert!(stream.held.ended[&one].starts_with("killed by uid "));
    delete(&server).await;
    stream
        .until(|held| held.ended.contains_key(&two) && held.classes.is_empty())
        .await;
}

#[tokio::test]
async fn the_svids_of_an_ended_run_are_revoked_for_all_agents_until_they_would_have_ended() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    let (first, second) = (server.agent().await, server.agent().await);
    let short = run::ClassSpec {
        x509_svid_ttl_seconds: 600,
        ..spec()
    };
    create(&server, short).await;
    let mut client = admission(&server, &first).await;
    let mut there = Follows::open_for_runs(&server, &second).await;
    let run = admit(&mut client).await;
    let svid = x509(&mut client, &run.run_id, 0).await.unwrap();
    let serial = parse_leaf(svid.chain.first().unwrap()).unwrap().serial;
    let token = jwt(&mut client, &run.run_id, &["a"]).await.unwrap().token;
    let bundle = server.bundle().await;
    let verified = verify_token(&token, "a", |_| Some(&bundle), server.clock.now()).unwrap();
    let jti = verified.claims["jti"].as_str().unwrap().to_owned();
    there.assert_quiet().await;
    assert!(there.held.revoked.is_empty(), "it lives");
    kill(&server, &run.run_id).await;
    there.until(|held| held.revoked.contains_key(&run.run_id)).await;
    let revoked = there.held.revoked[&run.run_id].clone();
    assert_eq!(revoked.spiffe_id, run.spiffe_id);
    assert_eq!((revoked.x509_serials, revoked.jwt_ids), (vec![serial], vec![jti]));
    assert!(revoked.revoked_at <= revoked.until && revoked.until <= run.expires_at);
    assert!(svid.expires_at <= revoked.until);
    // Whoever comes later hears of it too, after a restart of the server as before.
    drop((there, client));
    let server = server_on_disk(server.stop().await).await;
    let there = Follows::open_for_runs(&server, &second).await;
    assert!(there.held.revoked.contains_key(&run.run_id));
    // And nobody once all of its SVIDs have ended by themselves: those who hold it hear that it is over.
    let held = there.held.clone();
    drop(there);
    let server = server_on_disk_at(server.stop().await, revoked.until).await;
    let mut there = Follows::resume_for_runs(&server, &second, held).await;
    there.welcome().await;
    there.until(|held| held.revoked.is_empty()).await;
    assert_eq!(there.pages, 0);
}

#[tokio::test]
async fn after_a_cut_and_a_restart_an_agent_hears_what_it_missed() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    let agent = server.agent().await;
    create(&server, spec()).await;
    let mut client = admission(&server, &agent).await;
    let (one, two) = (admit(&mut client).await.run_id, admit(&mut client).await.run_id);
    let mut stream = Follows::open_for_runs(&server, &agent).await;
    stream.until(|held| held.runs.len() == 2).await;
    let held = stream.held.clone();
    drop(stream);
    client.end_run(ended(&one, Outcome::Signalled(9))).await.unwrap();
    let three = admit(&mut client).await.run_id;
    update(
        &server,
        run::ClassSpec {
            max_runs: 5,
            ..spec()
        },
    )
    .await;
    let as_it_is = |stream: &Follows| {
        assert_eq!(stream.pages, 0, "the whole set was not needed");
        assert_eq!(stream.held.ended[&one], "signalled(9)");
        assert_eq!(stream.held.classes["researcher"].version, 2);
        let mut runs: Vec<_> = stream.held.runs.keys().collect();
        runs.sort();
        assert_eq!(runs, [&two, &three]);
    };
    let mut stream = Follows::resume_for_runs(&server, &agent, held.clone()).await;
    stream.welcome().await;
    stream.step().await.unwrap();
    as_it_is(&stream);
    drop((stream, client));
    let server = server_on_disk(server.stop().await).await;
    let mut stream = Follows::resume_for_runs(&server, &agent, held).await;
    stream.welcome().await;
    stream.step().await.unwrap();
    as_it_is(&stream);
    // With its set right it is told nothing.
    let held = stream.held.clone();
    let mut stream = Follows::resume_for_runs(&server, &agent, held).await;
    stream.welcome().await;
    stream.step().await.unwrap();
    assert_eq!((stream.changes, stream.pages), (0, 0));
}
