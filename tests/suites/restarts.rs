//! Both daemons killed with SIGKILL, alone and together, while they work: what was acknowledged is there
//! again, and nobody needs a new token.

#[path = "restarts/pages.rs"]
mod pages;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use vouchsafe_tests::daemons::{Deployment, NODE, binary, own_uid};
use vouchsafe_tests::wait::until;

const WORKLOAD: &str = "spiffe://example.org/agent/phoenix";

fn strings(list: &Value, field: &str) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| Some(item.get(field)?.as_str()?.to_owned()))
        .collect()
}

async fn served(at: &Deployment) -> anyhow::Result<Value> {
    let svids = until("the workload has its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    });
    let svids = svids.await.with_context(|| at.logs())?;
    ensure!(
        strings(&svids, "spiffe_id") == BTreeSet::from([WORKLOAD.to_owned()]),
        "{svids}"
    );
    Ok(svids)
}

async fn kill_server(at: &mut Deployment) -> anyhow::Result<()> {
    at.server.take().context("no server runs")?.kill().await
}

async fn kill_agent(at: &mut Deployment) -> anyhow::Result<()> {
    at.agent.take().context("no agent runs")?.kill().await
}

/// Creates entries one after the other until the server is gone; gives the ids of those it acknowledged.
async fn create_until_it_dies(socket: PathBuf, round: usize) -> anyhow::Result<BTreeSet<String>> {
    let mut acknowledged = BTreeSet::new();
    for n in 0.. {
        let mut create = Command::new(binary("vouchsafe")?);
        create
            .arg("--server-socket")
            .arg(&socket)
            .args(["--output", "json", "entry", "create"]);
        create.args([
            "--parent-id",
            NODE,
            "--spiffe-id",
            &format!("spiffe://example.org/load/{round}/{n}"),
        ]);
        create
            .args(["--selector", "unix:uid:4294967"])
            .stdin(Stdio::null());
        let output = create.output().await?;
        if !output.status.success() {
            break;
        }
        let made: Value = serde_json::from_slice(&output.stdout)?;
        acknowledged.extend(
            made.get("entries")
                .map(|entries| strings(entries, "id"))
                .unwrap_or_default(),
        );
    }
    Ok(acknowledged)
}

#[tokio::test]
async fn a_killed_agent_comes_back_without_a_token() -> anyhow::Result<()> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    served(&at).await?;
    let before = at.json(&["agent", "list"]).await?;
    for _ in 0..3 {
        kill_agent(&mut at).await?;
        at.start_agent(&[]).await?;
        served(&at).await?;
    }
    let after = at.json(&["agent", "list"]).await?;
    ensure!(
        strings(&after, "spiffe_id") == strings(&before, "spiffe_id"),
        "{before} {after}"
    );
    Ok(())
}

#[tokio::test]
async fn a_killed_server_has_every_entry_that_it_acknowledged() -> anyhow::Result<()> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    served(&at).await?;
    let bundle = at.vouchsafe(&["bundle", "show"]).await?.stdout;
    let mut acknowledged = BTreeSet::new();
    for round in 0..5 {
        let load = create_until_it_dies(at.server_socket(), round);
        let kill = async {
            let enough = format!("spiffe://example.org/load/{round}/{}", 3 + 2 * round);
            until("some entries are made", async || {
                let shown = at.json(&["entry", "show", "--spiffe-id", &enough]).await.ok()?;
                (!shown.as_array()?.is_empty()).then_some(())
            })
            .await?;
            kill_server(&mut at).await
        };
        let (made, killed) = tokio::join!(load, kill);
        killed?;
        acknowledged.extend(made?);
        at.start_server().await?;
        let shown = at.json(&["entry", "show"]).await?;
        let there = strings(&shown, "id");
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        ensure!(
            lost.is_empty(),
            "acknowledged and lost in round {round}: {lost:?}"
        );
        let count = at.json(&["entry", "count"]).await?;
        ensure!(
            count.get("count") == Some(&Value::from(there.len())),
            "index and listing differ: {count}"
        );
    }
    ensure!(
        at.vouchsafe(&["bundle", "show"]).await?.stdout == bundle,
        "the authorities are the same"
    );
    served(&at).await?;
    let records = String::from_utf8(at.vouchsafe(&["audit", "tail"]).await?.stdout)?;
    for (n, line) in records.lines().enumerate() {
        let record: Value = serde_json::from_str(line)?;
        ensure!(
            record.get("seq") == Some(&Value::from(n + 1)),
            "a gap in the audit log at {}: {line}",
            n + 1
        );
    }
    Ok(())
}

#[tokio::test]
async fn both_killed_come_back_and_no_serial_is_issued_twice() -> anyhow::Result<()> {
    // Nothing is sealed, so that each start has a new SVID issued.
    let nothing_kept = "sync_interval = \"1s\"\nseal_key = \"none\"\n";
    let mut at = Deployment::configured("", nothing_kept).await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let mut serials = strings(&served(&at).await?, "serial_number");
    for round in 1..=3 {
        kill_server(&mut at).await?;
        kill_agent(&mut at).await?;
        at.start_server().await?;
        at.start_agent(&[]).await?;
        serials.extend(strings(&served(&at).await?, "serial_number"));
        ensure!(
            serials.len() == round + 1,
            "a serial number came twice: {serials:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_whose_server_is_away_goes_on_and_recovers() -> anyhow::Result<()> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    served(&at).await?;
    kill_server(&mut at).await?;
    served(&at).await?;
    at.start_server().await?;
    let other = "spiffe://example.org/agent/later";
    at.entry(other, &[&own_uid()], &[]).await?;
    until("the agent hears of a new entry again", async || {
        let svids = at.json(&["svid", "x509"]).await.ok()?;
        strings(&svids, "spiffe_id").contains(other).then_some(())
    })
    .await
    .with_context(|| at.logs())
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() -> anyhow::Result<()> {
    let at = Deployment::server_alone("").await?;
    let config = std::fs::read_to_string(at.path("server.toml"))?;
    let other = config.replace("server.sock", "other.sock");
    let (head, tail) = other.split_once("listen = ").context("listen")?;
    let rest = tail.split_once('\n').map(|(_, rest)| rest).unwrap_or_default();
    let file = at.path("second.toml");
    std::fs::write(&file, format!("{head}listen = \"127.0.0.1:0\"\n{rest}"))?;
    let mut second = Command::new(binary("vouchsafe-server")?);
    let output = second
        .arg("run")
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && said.contains("held by another process"),
        "{said}"
    );
    Ok(())
}
