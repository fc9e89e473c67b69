//! What an agent that was killed does with runs that it cannot account for, and with the uids of those that live.

use std::fs;

use tonic::Code;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::life::{alive, gone, is, said, signal, staying};
use crate::stage::Stage;

#[tokio::test]
async fn a_run_of_which_the_agent_has_no_record_is_ended() {
    require!(Need::Root);
    let mut stage = Stage::start().await.unwrap();
    let (run, damaged, other) = (
        staying(&stage).await,
        staying(&stage).await,
        staying(&stage).await,
    );
    stage.at.agent.take().unwrap().kill().await.unwrap();
    let record = |id: &str| stage.at.path(&format!("agent/runs/records/{id}.json"));
    fs::remove_file(record(&run.admitted.run_id)).unwrap();
    fs::write(record(&damaged.admitted.run_id), "{").unwrap();
    for pid in [run.started.pid, damaged.started.pid] {
        assert!(alive(pid));
    }
    stage.at.start_agent(&[]).await.unwrap();
    for ended in [&run, &damaged] {
        gone(ended.started.pid).await;
        assert_eq!(
            is(&stage, ended, "ended").await["end"],
            "its agent no longer had it"
        );
    }
    signal(&stage, &other, 10).await;
    said(&stage, &other, 2).await;
}

#[tokio::test]
async fn the_uid_of_a_run_that_lives_is_given_to_no_other_after_a_restart() {
    require!(Need::Root);
    let one = |spec: &mut String| *spec = spec.replace("last_uid = 61163", "last_uid = 61100");
    let mut stage = Stage::with(one).await.unwrap();
    let run = staying(&stage).await;
    stage.at.agent.take().unwrap().kill().await.unwrap();
    stage.at.start_agent(&[]).await.unwrap();
    let refused = stage.launch(stage.request(&["exit", "0"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    signal(&stage, &run, 10).await;
    said(&stage, &run, 2).await;
}
