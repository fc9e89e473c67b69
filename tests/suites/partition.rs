//! Agent and server on two hosts, and the cable loses what is on its way: before the request, after it, before the
//! answer, at each step of joining, renewing and rotating. Nobody is locked out, and nothing is done by hand.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::Instant;
use vouchsafe_tests::daemons::{Deployment, own_uid};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::network::{Lost, Network};
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

const WORKLOAD: &str = "spiffe://example.org/agent/islander";
/// Lives so short that a renewal comes within the time that tests wait, and long enough for a call to time out first.
const SHORT_AGENT: &str = "agent_ttl = \"100s\"\ndefault_x509_svid_ttl = \"1h\"\n";
const SHORT_SVIDS: &str = "agent_ttl = \"1h\"\ndefault_x509_svid_ttl = \"100s\"\n";
/// Shortly before half of such a life, less the tenth by which agents may be early, and the seconds by which it is
/// dated back.
const NEARLY_DUE: Duration = Duration::from_secs(37);
/// Nothing but what is tried goes over the cable then: what is sent while nothing is acknowledged would hold it up.
const QUIET: &str = "sync_interval = \"1h\"\n";
const ALL: [Lost; 3] = [Lost::Requests, Lost::Answers, Lost::Everything];

/// Waits until what was issued at `issued` is about to be replaced.
async fn until_nearly_due(issued: Instant) -> anyhow::Result<()> {
    until("half of the life is over", async || {
        (issued.elapsed() >= NEARLY_DUE).then_some(())
    })
    .await
}

/// How often the audit log of the server has an action.
async fn audited(at: &Deployment, action: &str) -> Option<usize> {
    let output = at.vouchsafe(&["audit", "tail"]).await.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let records = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_it = records.filter(|record| {
        let done = record.get("action").and_then(Value::as_str);
        done.is_some_and(|done| done.ends_with(action))
    });
    Some(of_it.count())
}

async fn until_audited(at: &Deployment, action: &str, times: usize) -> anyhow::Result<()> {
    let what = format!("the server did `{action}` {times} times");
    let seen = until(&what, async || {
        (audited(at, action).await? >= times).then_some(())
    });
    seen.await.with_context(|| at.logs())
}

async fn until_logged(at: &Deployment, text: &str) -> anyhow::Result<()> {
    let what = format!("the agent logs `{text}`");
    let seen = until(&what, async || {
        let agent = at.agent.as_ref()?;
        agent.log().contains(text).then_some(())
    });
    seen.await.with_context(|| at.logs())
}

async fn serial(at: &Deployment) -> anyhow::Result<String> {
    let svids = until("the workload has its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    });
    let svids = svids.await.with_context(|| at.logs())?;
    let first = svids.as_array().and_then(|svids| svids.first());
    let serial = first
        .and_then(|svid| svid.get("serial_number"))
        .and_then(Value::as_str);
    Ok(serial
        .with_context(|| format!("no serial in {svids}"))?
        .to_owned())
}

async fn apart(server_config: &str) -> anyhow::Result<Deployment> {
    Deployment::server_apart(Network::new()?, server_config).await
}

/// The agent meets the server for the first time while `lost` is lost.
async fn joining(lost: Lost) -> anyhow::Result<()> {
    let mut at = apart("").await?;
    at.network()?.lose(lost)?;
    at.begin_join().await?;
    until_logged(&at, "cannot join yet").await?;
    at.network()?.lose(Lost::Nothing)?;
    at.agent_is_healthy().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    serial(&at).await?;
    Ok(())
}

/// The SVID of the agent is due while `lost` is lost.
async fn renewing(lost: Lost) -> anyhow::Result<()> {
    let mut at = apart(SHORT_AGENT).await?;
    at.configure_agent(QUIET);
    at.join().await?;
    until_nearly_due(Instant::now()).await?;
    at.network()?.lose(lost)?;
    if lost == Lost::Answers {
        until_audited(&at, "node.renew", 1).await?;
    }
    until_logged(&at, "could not be renewed").await?;
    at.network()?.lose(Lost::Nothing)?;
    until_logged(&at, "the SVID of this agent was renewed").await?;
    // What it has now is what counts: the server hears it, and it outlives a restart.
    until_audited(&at, "node.promote", 1).await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    at.agent.take().context("the agent runs")?.kill().await?;
    at.start_agent(&[]).await?;
    serial(&at).await?;
    Ok(())
}

/// The agent has its next SVID and cannot show it: neither side may forget the other.
async fn first_use(lost: Lost) -> anyhow::Result<()> {
    let mut at = apart(SHORT_AGENT).await?;
    at.join().await?;
    until_logged(&at, "the SVID of this agent was renewed").await?;
    at.network()?.lose(lost)?;
    at.agent.take().context("the agent runs")?.kill().await?;
    at.launch_agent(&[])?;
    at.network()?.lose(Lost::Nothing)?;
    at.agent_is_healthy().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    serial(&at).await?;
    Ok(())
}

/// The SVID of a workload is due while `lost` is lost.
async fn rotating(lost: Lost) -> anyhow::Result<()> {
    let mut at = apart(SHORT_SVIDS).await?;
    at.configure_agent(QUIET);
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    at.join().await?;
    let before = serial(&at).await?;
    until_nearly_due(Instant::now()).await?;
    let issued = audited(&at, "BatchNewX509SVID").await;
    at.network()?.lose(lost)?;
    if let (Lost::Answers, Some(issued)) = (lost, issued) {
        until_audited(&at, "BatchNewX509SVID", issued + 1).await?;
    }
    ensure!(serial(&at).await? == before, "an SVID came from nowhere");
    at.network()?.lose(Lost::Nothing)?;
    let renewed = until("the workload has its next SVID", async || {
        serial(&at).await.ok().filter(|serial| *serial != before)
    });
    renewed.await.with_context(|| at.logs())?;
    Ok(())
}

/// All three losses at the same time, each between hosts of its own.
async fn each<F: Future<Output = anyhow::Result<()>>>(case: impl Fn(Lost) -> F) {
    let cases = ALL.map(|lost| {
        let case = case(lost);
        async move { case.await.with_context(|| format!("{lost:?} lost")) }
    });
    futures_util::future::try_join_all(cases).await.unwrap();
}

// Each case waits for the better part of two minutes and does little meanwhile, so they wait together.

#[tokio::test]
async fn an_agent_joins_and_renews_whatever_is_lost_at_its_first_try() {
    require!(Need::Networks);
    tokio::join!(each(joining), each(renewing));
}

#[tokio::test]
async fn an_agent_killed_with_its_next_svid_unused_comes_back_and_workloads_keep_theirs() {
    require!(Need::Networks);
    tokio::join!(each(first_use), each(rotating));
}
