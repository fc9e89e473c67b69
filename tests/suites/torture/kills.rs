//! SIGKILL at moments that chance chooses: while the server starts, and while it works.

use std::sync::{Arc, PoisonError};

use anyhow::Context;
use tokio::task::JoinSet;
use vouchsafe_tests::daemons::Deployment;
use vouchsafe_tests::disk::Numbers;
use vouchsafe_tests::node::channel;

use crate::ledger::{Event, Ledger, Want};
use crate::load::{Caller, Diary};
use crate::{Task, inspect};

const CALLERS: usize = 4;
/// Most steps of the callers before a kill.
const MOST_STEPS: usize = 400;
/// Short lives, so that authorities turn while the test runs.
pub(crate) const CONFIG: &str =
    "ca_ttl = \"1m\"\ndefault_x509_svid_ttl = \"10s\"\ndefault_jwt_svid_ttl = \"10s\"\n";
/// Every so many lives, the server is killed while it starts.
const STARTS: usize = 5;

/// Starts the callers of one life, kills the server after some of their steps, and waits for them.
pub(crate) async fn live(
    at: &mut Deployment,
    diary: &Arc<Diary>,
    (life, ledger): (usize, &Ledger),
    chance: &mut Numbers,
) -> anyhow::Result<()> {
    let channel = channel(&at.server_socket()).await?;
    let mut callers = JoinSet::new();
    let mut old = ledger.standing("entry");
    for n in 0..CALLERS {
        let numbers = Numbers::new(chance.next());
        let mut caller = Caller::new(
            channel.clone(),
            Arc::clone(diary),
            numbers,
            format!("l{life}-c{n}"),
        );
        let share = old.len() / (CALLERS - n);
        caller.own(old.split_off(old.len() - share));
        callers.spawn(caller.run());
    }
    diary.reached(1 + chance.below(MOST_STEPS)).await;
    for _ in 0..chance.below(2000) {
        tokio::task::yield_now().await;
    }
    at.server.take().context("a server runs")?.kill().await?;
    while let Some(ended) = callers.join_next().await {
        ended?.with_context(|| at.logs())?;
    }
    Ok(())
}

async fn torture(task: &Task) -> anyhow::Result<()> {
    let mut chance = task.numbers();
    let mut ledger = Ledger::default();
    let mut at = Deployment::server_alone(CONFIG).await?;
    let data_dir = at.path("server");
    for life in 0..task.count {
        let told = || task.round(life);
        if life > 0 {
            let found = inspect::server(&data_dir).await.with_context(told)?;
            ledger.settle(&found).with_context(told)?;
            if life.is_multiple_of(STARTS) {
                // Killed on its way up, it has done nothing that anybody was told of.
                at.begin_server()?;
                for _ in 0..chance.below(200_000) {
                    tokio::task::yield_now().await;
                }
                at.server.take().context("a server starts")?.kill().await?;
                let found = inspect::server(&data_dir).await.with_context(told)?;
                ledger.settle(&found).with_context(told)?;
            }
            at.start_server().await.with_context(told)?;
            inspect::shown(channel(&at.server_socket()).await?, &found)
                .await
                .with_context(told)?;
        }
        let (diary, events) = Diary::list();
        live(&mut at, &diary, (life, &ledger), &mut chance)
            .await
            .with_context(told)?;
        for event in events.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            ledger.note(event).with_context(told)?;
        }
    }
    let found = inspect::server(&data_dir).await?;
    ledger.settle(&found).with_context(|| task.round(task.count))?;
    println!(
        "{} kills: {} things acknowledged, {} authorities published, 0 lost",
        task.count,
        ledger.acknowledged(),
        found.keys().filter(|name| name.starts_with("authority/")).count()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_moment_loses_nothing() {
    torture(&Task::kills("the server is killed")).await.unwrap();
}

/// That the check itself would see a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_would_be_seen() {
    let mut at = Deployment::server_alone(CONFIG).await.unwrap();
    let (diary, events) = Diary::list();
    let mut chance = Numbers::new(1);
    let mut ledger = Ledger::default();
    live(&mut at, &diary, (0, &ledger), &mut chance).await.unwrap();
    for event in events.lock().unwrap().drain(..) {
        ledger.note(event).unwrap();
    }
    let found = inspect::server(&at.path("server")).await.unwrap();
    ledger.clone().settle(&found).unwrap();
    let lost = Event::Acknowledged("entry/never-made".to_owned(), Want::Made);
    ledger.note(lost).unwrap();
    let error = ledger.settle(&found).unwrap_err();
    assert!(error.to_string().contains("entry/never-made"), "{error}");
}
