//! Runs that are launched while the server is away, by leases of the node.

use serde_json::Value;
use tonic::Code;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::sealed::until_sealed;
use vouchsafe_tests::wait::until;

use crate::life::{USR1, is, said, signal, staying};
use crate::stage::Stage;

/// A class of which each node holds so many leases; they are there, and sealed with their SVIDs.
async fn leased(count: usize) -> Stage {
    let offline = |spec: &mut String| *spec = format!("offline_runs = {count}\noffline_for = \"1h\"\n{spec}");
    let stage = Stage::with(offline).await.unwrap();
    has_leases(&stage, count).await;
    stage
}

async fn has_leases(stage: &Stage, count: usize) {
    let held = until("the node has its leases", async || {
        let leases = leases(stage).await;
        (leases.len() == count).then_some(leases)
    });
    let held = held.await.unwrap();
    until_sealed(&stage.at, "what a launch takes", |sealed| {
        let has = |lease: &String| {
            let runs = sealed.runs.keys().any(|run| run.to_string() == *lease);
            runs && sealed.run_svids.iter().any(|(run, _)| run.as_str() == lease)
        };
        held.iter().all(has)
    })
    .await
    .unwrap();
}

/// The leases that the server knows of.
async fn leases(stage: &Stage) -> Vec<String> {
    let listed = stage
        .at
        .json(&["run", "list", "--state", "leased"])
        .await
        .unwrap();
    let ids = listed.as_array().unwrap().iter();
    ids.map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

async fn server_goes(stage: &mut Stage) {
    stage.at.server.take().unwrap().kill().await.unwrap();
}

#[tokio::test]
async fn what_has_a_lease_is_launched_and_has_its_identity_also_after_a_restart_of_the_agent() {
    require!(Need::Root);
    let mut stage = leased(2).await;
    let held = leases(&stage).await;
    server_goes(&mut stage).await;
    let first = staying(&stage).await;
    let (second, told) = stage.told(&["jwt", "reports"]).await.unwrap();
    assert!(held.contains(&first.admitted.run_id) && held.contains(&second.admitted.run_id));
    // Tokens nobody signs.
    assert!(told[0].1.as_str().unwrap().contains("unreachable"), "{told:?}");
    let refused = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("no launch lease"), "{refused:?}");

    stage.at.agent.take().unwrap().kill().await.unwrap();
    stage.at.start_agent(&[]).await.unwrap();
    signal(&stage, &first, USR1).await;
    said(&stage, &first, 2).await;
    let refused = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert!(refused.message().contains("no launch lease"), "{refused:?}");

    stage.at.start_server().await.unwrap();
    let shown = is(&stage, &first, "running").await;
    assert_eq!(
        (&shown["task"], &shown["launcher"]),
        (&"task-1".into(), &"uid:0".into())
    );
    assert_eq!(is(&stage, &second, "ended").await["end"], "exited with 0");
    // It is as any other now, and there are leases again.
    has_leases(&stage, 2).await;
    let fresh = leases(&stage).await;
    assert!(held.iter().all(|old| !fresh.contains(old)), "{held:?} {fresh:?}");
    signal(&stage, &first, USR1).await;
    said(&stage, &first, 3).await;
    signal(&stage, &first, 15).await;
    assert_eq!(is(&stage, &first, "ended").await["end"], "ended by signal 15");
}

#[tokio::test]
async fn an_agent_that_starts_without_its_server_launches_by_what_was_sealed() {
    require!(Need::Root);
    let mut stage = leased(1).await;
    stage.at.agent.take().unwrap().kill().await.unwrap();
    server_goes(&mut stage).await;
    stage.at.start_agent(&[]).await.unwrap();
    let run = staying(&stage).await;
    stage.at.start_server().await.unwrap();
    is(&stage, &run, "running").await;
    signal(&stage, &run, 15).await;
    is(&stage, &run, "ended").await;
}

#[tokio::test]
async fn a_run_that_the_class_would_not_have_let_be_is_killed_when_the_server_hears_of_it() {
    require!(Need::Root);
    let mut stage = leased(1).await;
    server_goes(&mut stage).await;
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["stay"])
    };
    let run = stage.launch(request).await.unwrap();
    said(&stage, &run, 1).await;
    // The operator is quicker than the agent.
    let agent = nix::unistd::Pid::from_raw(stage.at.agent.as_ref().unwrap().pid().unwrap());
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGSTOP).unwrap();
    stage.at.start_server().await.unwrap();
    let disable = ["class", "update", "researcher", "--disabled", "true"];
    stage.at.json(&disable).await.unwrap();
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT).unwrap();
    let shown: Value = is(&stage, &run, "ended").await;
    let end = shown["end"].as_str().unwrap();
    assert!(end == "never started" || end.contains("its class"), "{end}");
    until("its process is gone", async || {
        (!std::path::Path::new(&format!("/proc/{}", run.started.pid)).exists()).then_some(())
    })
    .await
    .unwrap();
}
