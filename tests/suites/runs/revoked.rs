//! The tokens of a run that has ended: they verify, and nobody who asks an agent believes them.

use tonic::{Code, Status};
use vouchsafe_proto::vouchsafe::launch::v1::{LaunchRequest, SignalRequest};
use vouchsafe_proto::workload::{ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::connect;

use crate::stage::{CLASS, Running, Stage};

const AUDIENCE: &str = "database";

/// A run that stays, with a token that has the class's id as `sub`.
async fn holding(stage: &Stage) -> (Running, String) {
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["hold", AUDIENCE])
    };
    let run = stage.launch(request).await.unwrap();
    let token = until("the run has a token", async || {
        let said = stage.said_so_far(&run.admitted.run_id).await.ok()?;
        let said: serde_json::Value = serde_json::from_str(said.trim()).ok()?;
        Some(said["got"].as_str()?.to_owned())
    });
    let token = token.await.unwrap();
    assert!(token.starts_with("ey"), "{token}");
    (run, token)
}

/// What the agent says of a token, to a workload of this test's own user.
async fn validate(stage: &Stage, token: &str) -> Result<ValidateJwtsvidResponse, Status> {
    let mut api = connect(&stage.at.workload_socket()).await.unwrap();
    let request = ValidateJwtsvidRequest {
        audience: AUDIENCE.to_owned(),
        svid: token.to_owned(),
    };
    Ok(api.validate_jwtsvid(request).await?.into_inner())
}

async fn refused(stage: &Stage, token: &str, run: &Running) {
    let status = validate(stage, token).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let expected = format!("the token is revoked: run {} has ended", run.admitted.run_id);
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn the_tokens_of_a_run_that_has_ended_are_refused_also_by_an_agent_that_did_not_see_it_end() {
    require!(Need::Root);
    let lists = |spec: &mut String| *spec = format!("class_sub_audiences = [\"{AUDIENCE}\"]\n{spec}");
    let mut stage = Stage::with(lists).await.unwrap();
    stage
        .at
        .entry("spiffe://example.org/gateway", &[&own_uid()], &[])
        .await
        .unwrap();
    let ((first, one), (other, two)) = (holding(&stage).await, holding(&stage).await);
    let valid = until("the gateway is served", async || {
        validate(&stage, &one).await.ok()
    });
    assert_eq!(valid.await.unwrap().spiffe_id, CLASS);

    let request = SignalRequest {
        run_id: first.admitted.run_id.clone(),
        signal: 15,
    };
    stage.api().await.unwrap().signal(request).await.unwrap();
    until("the token is refused", async || {
        validate(&stage, &one).await.err()
    })
    .await
    .unwrap();
    refused(&stage, &one, &first).await;
    assert_eq!(validate(&stage, &two).await.unwrap().spiffe_id, CLASS);

    // The operator sees it, and an agent that knows only what the server told it refuses it too.
    let id = first.admitted.run_id.clone();
    let listed = until("the server has heard", async || {
        let listed = stage.at.json(&["run", "revoked"]).await.ok()?;
        let listed = listed.as_array()?.first()?.clone();
        (listed["run_id"] == *id).then_some(listed)
    });
    let listed = listed.await.unwrap();
    assert_eq!(listed["jwt_ids"].as_array().unwrap().len(), 1, "{listed}");
    stage.at.agent.take().unwrap().kill().await.unwrap();
    stage.at.start_agent(&[]).await.unwrap();
    let again = until("the restarted agent has heard", async || {
        validate(&stage, &one).await.err()
    });
    again.await.unwrap();
    refused(&stage, &one, &first).await;
    assert_eq!(validate(&stage, &two).await.unwrap().spiffe_id, CLASS);
    let request = SignalRequest {
        run_id: other.admitted.run_id,
        signal: 9,
    };
    stage.api().await.unwrap().signal(request).await.unwrap();
}
