//! Children with ids of their own, and an agent that is started anew meanwhile.

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::left::members;
use crate::life::{USR1, signal};
use crate::stage::{Running, Stage};

/// Waits until it has been said so often who got what; the last that was said.
async fn heard(stage: &Stage, run: &Running, lines: usize) -> (String, Value) {
    let mut output = String::new();
    let waited = until("the run says what it got", async || {
        output = stage.said_so_far(&run.admitted.run_id).await.ok()?;
        (output.lines().count() >= lines && output.ends_with('\n')).then_some(())
    });
    let waited = waited.await;
    assert!(waited.is_ok(), "{output}");
    let mut last: Value = serde_json::from_str(output.lines().last().unwrap()).unwrap();
    (last["who"].as_str().unwrap().to_owned(), last["got"].take())
}

#[tokio::test]
async fn a_child_keeps_its_id_over_restarts_of_the_agent_and_no_other_process_gets_it() {
    require!(Need::Root);
    let derived = |spec: &mut String| *spec = spec.replace("inherit = \"none\"", "inherit = \"derived\"");
    let mut stage = Stage::with(derived).await.unwrap();
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&["family"])
    };
    let run = stage.launch(request).await.unwrap();
    let child = |who: &str, n| {
        let id = format!("{}/child/{n}", run.admitted.spiffe_id);
        (who.to_owned(), serde_json::json!([id]))
    };
    assert_eq!(heard(&stage, &run, 1).await, child("elder", 1));
    let members = members(&stage, &run);
    let elder = members
        .into_iter()
        .find(|pid| pid.as_raw() != run.started.pid)
        .unwrap();
    let mut lines = 1;
    for younger in 2..=3 {
        stage.at.agent.take().unwrap().kill().await.unwrap();
        stage.at.start_agent(&[]).await.unwrap();
        signal(&stage, &run, USR1).await;
        lines += 1;
        assert_eq!(heard(&stage, &run, lines).await, child("younger", younger));
        kill(elder, Signal::SIGUSR1).unwrap();
        lines += 1;
        assert_eq!(heard(&stage, &run, lines).await, child("elder", 1));
    }
    signal(&stage, &run, Signal::SIGKILL as i32).await;
    until("the child has gone with its run", async || {
        kill(elder, None).is_err().then_some(())
    })
    .await
    .unwrap();
}
