//! How a run ends, and what of it is left; and an agent that is killed meanwhile.

use std::path::Path;

use serde_json::Value;
use tonic::Code;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_proto::vouchsafe::launch::v1::{
    Ended, FollowRunRequest, LaunchRequest, SignalRequest, launch_event::Event,
};
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::repository;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::stage::{Running, Stage, event};

/// What the server says of a run.
async fn shown(stage: &Stage, run: &Running) -> Value {
    let id = run.admitted.run_id.as_str();
    stage.at.json(&["run", "show", id]).await.unwrap()
}

/// Waits until the server says that a run is in that state.
pub(crate) async fn is(stage: &Stage, run: &Running, state: &str) -> Value {
    let what = format!("the run is {state}");
    let found = until(&what, async || {
        let shown = shown(stage, run).await;
        (shown["state"] == state).then_some(shown)
    });
    found.await.unwrap()
}

pub(crate) fn alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub(crate) async fn gone(pid: i32) {
    until("the process has gone", async || (!alive(pid)).then_some(()))
        .await
        .unwrap();
}

pub(crate) async fn signal(stage: &Stage, run: &Running, signal: i32) {
    let request = SignalRequest {
        run_id: run.admitted.run_id.clone(),
        signal,
    };
    stage.api().await.unwrap().signal(request).await.unwrap();
}

async fn follow(stage: &Stage, run: &Running) -> Ended {
    let run_id = run.admitted.run_id.clone();
    let mut api = stage.api().await.unwrap();
    let mut events = api
        .follow(FollowRunRequest { run_id })
        .await
        .unwrap()
        .into_inner();
    loop {
        if let Event::Ended(ended) = event(&mut events).await.unwrap() {
            return ended;
        }
    }
}

/// A run that stays, and has its identity; it does not hang on its launcher.
pub(crate) async fn staying(stage: &Stage) -> Running {
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["stay"])
    };
    let run = stage.launch(request).await.unwrap();
    said(stage, &run, 1).await;
    run
}

/// Waits until a run has said so many lines, each of which is its identity.
pub(crate) async fn said(stage: &Stage, run: &Running, lines: usize) {
    let wanted = format!(
        "{{\"who\": \"main\", \"got\": [\"{}\"]}}\n",
        run.admitted.spiffe_id
    );
    until("the run has its identity", async || {
        let output = stage.said_so_far(&run.admitted.run_id).await.ok()?;
        (output == wanted.repeat(lines)).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn how_it_ends_is_told_to_the_launcher_and_to_the_server() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let mut run = stage.launch(stage.request(&["exit", "7"])).await.unwrap();
    assert_eq!(run.ended().await.unwrap().outcome, Some(Outcome::Exited(7)));
    let shown = is(&stage, &run, "ended").await;
    assert_eq!(shown["end"], "exited with 7");
    assert_eq!(shown["task"], "task-1");
    gone(run.started.pid).await;
}

#[tokio::test]
async fn a_run_that_the_operator_kills_ends_and_has_no_identity_any_more() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let run = staying(&stage).await;
    is(&stage, &run, "running").await;
    let id = run.admitted.run_id.as_str();
    stage.at.json(&["run", "kill", id]).await.unwrap();
    let ended = follow(&stage, &run).await;
    assert_eq!(ended.outcome, Some(Outcome::Signalled(9)));
    assert!(
        ended.reason.starts_with("the server ended it: killed by uid 0"),
        "{ended:?}"
    );
    gone(run.started.pid).await;
}

#[tokio::test]
async fn a_run_whose_launcher_goes_away_ends_unless_it_is_detached() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let detached = staying(&stage).await;
    let bound = stage.launch(stage.request(&["stay"])).await.unwrap();
    let (bound_pid, detached_pid) = (bound.started.pid, detached.started.pid);
    said(&stage, &bound, 1).await;
    let Running {
        events,
        admitted,
        started,
    } = bound;
    drop(events);
    gone(bound_pid).await;
    let shown = stage.at.json(&["run", "show", &admitted.run_id]).await.unwrap();
    assert_eq!(started.pid, bound_pid);
    assert_ne!(shown["state"], "admitted");
    signal(&stage, &detached, USR1).await;
    said(&stage, &detached, 2).await;
    assert!(alive(detached_pid));
    signal(&stage, &detached, 15).await;
    assert_eq!(
        follow(&stage, &detached).await.outcome,
        Some(Outcome::Signalled(15))
    );
    let request = SignalRequest {
        run_id: detached.admitted.run_id.clone(),
        signal: 15,
    };
    let refused = stage.api().await.unwrap().signal(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}

/// SIGUSR1, as the API takes it.
pub(crate) const USR1: i32 = 10;

#[tokio::test]
async fn an_agent_that_was_killed_finds_the_run_again_which_keeps_its_identity() {
    require!(Need::Root);
    let mut stage = Stage::start().await.unwrap();
    let run = staying(&stage).await;
    let other = staying(&stage).await;
    stage.at.agent.take().unwrap().kill().await.unwrap();
    assert!(alive(run.started.pid));
    // One ends while nobody looks.
    let pid = nix::unistd::Pid::from_raw(other.started.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    gone(other.started.pid).await;
    stage.at.start_agent(&[]).await.unwrap();
    signal(&stage, &run, USR1).await;
    said(&stage, &run, 2).await;
    assert_eq!(shown(&stage, &run).await["state"], "running");
    let ended = is(&stage, &other, "ended").await;
    assert_eq!(ended["end"], "ended by signal 15");
    // And it takes new ones.
    let (_, told) = stage.told(&["ask", "main"]).await.unwrap();
    assert!(told[0].1.is_array(), "{told:?}");
    signal(&stage, &run, 15).await;
    assert_eq!(follow(&stage, &run).await.outcome, Some(Outcome::Signalled(15)));
}

#[tokio::test]
async fn explain_knows_runs_and_their_children() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["nurse"])
    };
    let run = stage.launch(request).await.unwrap();
    let pid = run.started.pid;
    let child = until("the run has a child", async || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next().map(str::to_owned)
    });
    let child = child.await.unwrap();
    let main = stage.at.json(&["explain", &pid.to_string()]).await.unwrap();
    assert_eq!(
        main["spiffe_ids"],
        serde_json::json!([run.admitted.spiffe_id]),
        "{main}"
    );
    assert_eq!(main["run"]["main"], true, "{main}");
    let child = stage.at.json(&["explain", &child]).await.unwrap();
    assert_eq!(child["run"]["run"], run.admitted.run_id.as_str(), "{child}");
    assert_eq!(child["spiffe_ids"], serde_json::json!([]), "{child}");
    assert!(
        child["reason"].as_str().unwrap().contains("`inherit = \"none\"`"),
        "{child}"
    );
    signal(&stage, &run, 15).await;
    follow(&stage, &run).await;
}

#[tokio::test]
async fn nobody_but_its_launcher_reaches_a_run() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let run = staying(&stage).await;
    let script = stage.at.path("intruder.py");
    std::fs::copy(repository().join("tests/clients/runs/intruder.py"), &script).unwrap();
    let mut intruder = tokio::process::Command::new("setpriv");
    intruder.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    intruder
        .arg(interpreter())
        .arg(&script)
        .arg(stage.at.path("launch.sock"));
    let output = intruder.arg(&run.admitted.run_id).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        "Signal NOT_FOUND\nFollow NOT_FOUND\nReadOutput NOT_FOUND\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(alive(run.started.pid));
}

#[tokio::test]
async fn without_the_server_nothing_is_launched() {
    require!(Need::Root);
    let mut stage = Stage::start().await.unwrap();
    stage.at.server.take().unwrap().kill().await.unwrap();
    let refused = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("the server is away"), "{refused:?}");
}

#[tokio::test]
async fn when_every_uid_of_the_pool_has_a_run_another_is_refused() {
    require!(Need::Root);
    let one = |spec: &mut String| *spec = spec.replace("last_uid = 61163", "last_uid = 61100");
    let stage = Stage::with(one).await.unwrap();
    let first = staying(&stage).await;
    let refused = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("61100 to 61100"), "{refused:?}");
    signal(&stage, &first, 9).await;
    follow(&stage, &first).await;
    until("the uid is free", async || {
        stage.launch(stage.request(&["exit", "0"])).await.ok()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn files_that_were_changed_or_could_be_are_not_run() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    std::fs::write(&stage.script, "print('something else')\n").unwrap();
    let refused = stage.launch(stage.request(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("was expected"), "{refused:?}");
    let runs = stage.at.json(&["run", "list"]).await.unwrap();
    let text = runs.to_string();
    assert!(
        text.contains("never_started") || !text.contains("running"),
        "{text}"
    );
}
