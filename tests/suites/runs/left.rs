//! What runs leave behind, and uids that are a run's alone; also when the agent was killed meanwhile.

use std::cell::Cell;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tonic::Code;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::life::is;
use crate::stage::{Running, Stage, measured};

/// The pool has one uid alone.
fn one_uid(spec: &mut String) {
    *spec = spec.replace("last_uid = 61163", "last_uid = 61100");
}

/// The processes in the group of a run.
pub(crate) fn members(stage: &Stage, run: &Running) -> Vec<Pid> {
    let record = format!("agent/runs/processes/{}.json", run.admitted.run_id);
    let record: Value = serde_json::from_slice(&fs::read(stage.at.path(&record)).unwrap()).unwrap();
    let group = record["cgroup"][0].as_str().unwrap();
    let pids = fs::read_to_string(format!("{group}/cgroup.procs")).unwrap_or_default();
    let pids = pids.lines().map(|pid| Pid::from_raw(pid.parse().unwrap()));
    pids.collect()
}

/// Has what is left ask until it is refused, for its run has ended. Its first question may come before that end.
async fn refused(stage: &Stage, run: &Running, left: Pid) {
    let reason = format!("run {} has ended", run.admitted.run_id);
    let before = stage.said_so_far(&run.admitted.run_id).await.unwrap();
    let before = before.lines().count();
    let answered = Cell::new(0);
    until("what is left behind is refused", async || {
        let said = stage.said_so_far(&run.admitted.run_id).await.ok()?;
        assert!(
            !said.contains("spiffe://example.org/agent/researcher/run"),
            "{said}"
        );
        if said.lines().skip(before).any(|line| line.contains(&reason)) {
            return Some(());
        }
        // It asks again, once it has an answer.
        let lines = said.lines().count();
        if answered.replace(lines) < lines {
            kill(left, Signal::SIGUSR1).unwrap();
        }
        None
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_a_run_left_behind_is_no_stranger_to_an_agent_that_was_killed() {
    require!(Need::Root);
    let leave = |spec: &mut String| {
        one_uid(spec);
        *spec = spec.replace("inherit =", "on_end = \"leave\"\ninherit =");
    };
    let mut stage = Stage::with(leave).await.unwrap();
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["leave"])
    };
    let run = stage.launch(request).await.unwrap();
    is(&stage, &run, "ended").await;
    let left = members(&stage, &run);
    let [left] = left.as_slice() else {
        panic!("one process is left behind: {left:?}")
    };
    refused(&stage, &run, *left).await;
    // Twice, for what was known to the agent that was killed first must be so to the next but one.
    for _ in 0..2 {
        stage.at.agent.take().unwrap().kill().await.unwrap();
        stage.at.start_agent(&[]).await.unwrap();
        refused(&stage, &run, *left).await;
        let taken = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
        assert_eq!(
            taken.code(),
            Code::ResourceExhausted,
            "its uid is its own: {taken:?}"
        );
    }
    kill(*left, Signal::SIGKILL).unwrap();
    until("the uid is free", async || {
        stage.launch(stage.request(&["exit", "0"])).await.ok()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn the_uid_of_a_run_is_nobody_elses_while_what_it_launched_lives() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let vouchsafe = binary("vouchsafe").unwrap();
    let planner = format!(
        "any_node = true\nlaunchers = [\"uid:0\"]\nuser = {{ first_uid = 61200, last_uid = 61200 }}\n\n[program]\n\
         executable = {}\nextra_args = true\n",
        measured(&vouchsafe).unwrap()
    );
    let id = "spiffe://example.org/agent/planner";
    stage.class("planner", id, &planner).await.unwrap();
    // It has the user of who launches it.
    let mut helper = stage.spec().unwrap().replace("uid:0", &format!("{id}/run/**"));
    let user = helper.find("user = ").unwrap();
    let line = helper.get(user..).unwrap().find('\n').unwrap();
    helper.replace_range(user..=user + line, "");
    stage
        .class("helper", "spiffe://example.org/agent/helper", &helper)
        .await
        .unwrap();
    let (python, script) = (
        interpreter().display().to_string(),
        stage.script.display().to_string(),
    );
    let vouchsafe = vouchsafe.display().to_string();
    let planner = |words: &[&str]| {
        let start = [
            vouchsafe.as_str(),
            "run",
            "--class",
            "helper",
            "--detach",
            "--",
            &python,
            &script,
        ];
        LaunchRequest {
            class: "planner".to_owned(),
            arguments: start
                .iter()
                .chain(words)
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            ..stage.request(&[])
        }
    };
    let mut first = stage.launch(planner(&["stay"])).await.unwrap();
    first.ended().await.unwrap();
    // The server hears a moment later that the planner has ended, and the helper begun.
    let helper = until("the helper alone lives", async || {
        let listed = ["run", "list", "--state", "running"];
        let runs = stage.at.json(&listed).await.ok()?;
        match runs.as_array()?.as_slice() {
            [run] if run["class"] == "helper" => Some(run.clone()),
            _ => None,
        }
    });
    let helper = helper.await.unwrap();
    assert_eq!(helper["uid"], 61200, "{helper}");
    let taken = stage.launch(planner(&["exit", "0"])).await.unwrap_err();
    assert_eq!(taken.code(), Code::ResourceExhausted, "{taken:?}");
    // A class that has that very user gets it no more than the pool does.
    let fixed = stage.spec().unwrap();
    let pool = "user = { first_uid = 61100, last_uid = 61163 }";
    assert!(fixed.contains(pool));
    let fixed = fixed.replace(pool, "user = { uid = 61200, gid = 61200 }");
    stage
        .class("fixed", "spiffe://example.org/agent/fixed", &fixed)
        .await
        .unwrap();
    let other = LaunchRequest {
        class: "fixed".to_owned(),
        ..stage.request(&["exit", "0"])
    };
    let refused = stage.launch(other.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(
        refused
            .message()
            .contains("uid 61200 is at present that of a run"),
        "{refused:?}"
    );
    stage
        .at
        .json(&["run", "kill", helper["run"].as_str().unwrap()])
        .await
        .unwrap();
    until("the uid is free", async || stage.launch(other.clone()).await.ok())
        .await
        .unwrap();
}

#[tokio::test]
async fn who_may_not_launch_learns_nothing_of_files_and_the_server_notes_it() {
    require!(Need::Root);
    let stage = Stage::with(|spec| *spec = spec.replace("uid:0", "uid:61999"))
        .await
        .unwrap();
    let mut request = stage.request(&["exit", "0"]);
    let script = request.arguments.get_mut(1).unwrap();
    *script = b"/nowhere/at/all.py".to_vec();
    let refused = stage.launch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(
        refused.message().contains("may not launch class `researcher`"),
        "{refused:?}"
    );
    until("the server has noted it", async || {
        let records = stage.at.vouchsafe(&["audit", "tail"]).await.ok()?.stdout;
        let records = String::from_utf8(records).ok()?;
        records
            .contains("may not launch class `researcher`")
            .then_some(())
    })
    .await
    .unwrap();
    // Nor is a uid of the pool taken for it, nor a run noted.
    let runs = stage.at.json(&["run", "list"]).await.unwrap();
    assert_eq!(runs, serde_json::json!([]), "{runs}");
    // The rule is not the name of the file.
    let named = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert_eq!(named.message(), refused.message());
}
