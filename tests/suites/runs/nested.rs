//! A run that launches another, and what of it may not.

use std::process::Output;

use tokio::process::Command;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::stage::{Stage, measured};

/// `vouchsafe run` of a class with these arguments after its script.
async fn run(stage: &Stage, class: &str, command: &[&str]) -> Output {
    let mut vouchsafe = Command::new(binary("vouchsafe").unwrap());
    vouchsafe.arg("--launch-socket").arg(stage.at.path("launch.sock"));
    vouchsafe
        .args(["run", "--class", class, "--task", "t", "--"])
        .args(command);
    vouchsafe.kill_on_drop(true).output().await.unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const SHELL: &str = "spiffe://example.org/agent/shell";

#[tokio::test]
async fn a_runs_main_process_may_launch_another_and_what_it_starts_may_not() {
    require!(Need::Root);
    let stage = Stage::start().await.unwrap();
    let vouchsafe = binary("vouchsafe").unwrap();
    let planner = |launchers: &str| {
        Ok::<_, anyhow::Error>(format!(
            "any_node = true\nlaunchers = [\"{launchers}\"]\nuser = {{ first_uid = 61200, last_uid = 61209 }}\n\
             \n[program]\nexecutable = {}\nextra_args = true\n",
            measured(&vouchsafe)?
        ))
    };
    let spec = planner("uid:0").unwrap();
    let id = "spiffe://example.org/agent/planner";
    stage.class("planner", id, &spec).await.unwrap();
    let worker = stage
        .spec()
        .unwrap()
        .replace("uid:0", &format!("{id}/run/**\", \"{SHELL}/run/**"))
        .replace("last_uid = 61163", "last_uid = 61110");
    let worker_id = "spiffe://example.org/agent/worker";
    stage.class("worker", worker_id, &worker).await.unwrap();
    let (python, script) = (interpreter(), stage.script.clone());
    let (python, script) = (python.to_str().unwrap(), script.to_str().unwrap());
    let vouchsafe = vouchsafe.to_str().unwrap();
    // The operator's shell may not: only runs of the planner's class may.
    let refused = run(&stage, "worker", &[python, script, "ask", "main"]).await;
    assert_eq!(refused.status.code(), Some(77), "{refused:?}");
    let launch = [
        vouchsafe, "run", "--class", "worker", "--task", "t", "--", python, script, "ask", "main",
    ];
    let output = run(&stage, "planner", &launch).await;
    assert!(output.status.success(), "{output:?}");
    assert!(said(&output).contains(&format!("{worker_id}/run/")), "{output:?}");
    let text = said(&output);
    let (_, worker_run) = text.split_once("worker/run/").unwrap();
    let shown = stage
        .at
        .json(&["run", "show", worker_run.get(..26).unwrap()])
        .await
        .unwrap();
    let parent = shown["parent_run"].as_str().unwrap();
    assert_eq!(
        shown["launcher"],
        format!("{id}/run/{parent}"),
        "who launched whom is known"
    );
    // The same from within a run by what its main process started: also where that has the run's id, which may launch.
    let story = stage.spec().unwrap();
    let story = story.replace("inherit = \"none\"", "inherit = \"children\"");
    stage.class("shell", SHELL, &story).await.unwrap();
    let child = [
        python, script, "launch", vouchsafe, "run", "--class", "worker", "--", python, script, "ask", "main",
    ];
    let output = run(&stage, "shell", &child).await;
    let text = format!("{}{}", said(&output), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("only the main process may launch"), "{text}");
    assert!(!text.contains("worker/run/"), "{text}");
}
