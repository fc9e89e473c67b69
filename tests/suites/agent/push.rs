//! Changes arrive by push, from the real server's binary at the real agent's: the agent asks by itself but once an hour,
//! so what comes earlier was told.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::Instant;
use tonic::{Code, Streaming};
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::vouchsafe::agent::v1::{HealthRequest, HealthResponse, SyncMode};
use vouchsafe_proto::workload::{JwtsvidRequest, X509svidRequest, X509svidResponse};
use vouchsafe_tests::daemons::{Daemon, Deployment, own_uid};
use vouchsafe_tests::node::{channel, paths};
use vouchsafe_tests::wait::{DEADLINE, until};
use vouchsafe_tests::workload;

/// Only push can be quicker.
const SELDOM: &str = "sync_interval = \"1h\"\nhold_unmatched = \"2m\"\n";
/// Much longer than a change takes, on a machine that does other things too, and much shorter than the agent's interval.
const SOON: Duration = Duration::from_secs(20);

async fn health(at: &Deployment) -> Option<HealthResponse> {
    let mut client = AgentAdminClient::new(channel(&at.agent_socket()).await.ok()?);
    Some(client.health(HealthRequest {}).await.ok()?.into_inner())
}

async fn pushed(at: &Deployment) -> anyhow::Result<HealthResponse> {
    until("the agent follows by push", async || {
        health(at)
            .await
            .filter(|health| health.sync_mode() == SyncMode::Push && health.sync_revision > 0)
    })
    .await
    .with_context(|| at.logs())
}

fn agent_log(at: &Deployment) -> String {
    at.agent.as_ref().map(Daemon::log).unwrap_or_default()
}

async fn create(at: &Deployment, path: &str) -> anyhow::Result<String> {
    let id = format!("spiffe://example.org{path}");
    let created = at.entry(&id, &[&own_uid()], &[]).await?;
    let id = created.get("id").or_else(|| created.get(0)?.get("id"));
    let id = id.or_else(|| created.get("entries")?.get(0)?.get("id"));
    let id = id.and_then(Value::as_str);
    Ok(id
        .with_context(|| format!("an entry has an id: {created}"))?
        .to_owned())
}

async fn delete(at: &Deployment, id: &str) -> anyhow::Result<()> {
    at.json(&["entry", "delete", "--entry-id", id]).await.map(drop)
}

/// The next message of a stream, which must have these identities and come soon after `since`.
async fn next(
    at: &Deployment,
    stream: &mut Streaming<X509svidResponse>,
    expected: &[&str],
    since: Instant,
) -> anyhow::Result<()> {
    let message = workload::next(stream).await.with_context(|| at.logs())?;
    // Entries of the same second come in the order of their ids.
    let mut paths = paths(&message);
    paths.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    ensure!(paths == expected, "{paths:?}");
    ensure!(since.elapsed() < SOON, "{:?}: {}", since.elapsed(), at.logs());
    Ok(())
}

async fn ends(at: &Deployment, stream: &mut Streaming<X509svidResponse>) -> anyhow::Result<()> {
    let end = workload::next(stream).await.err().context("the stream ends")?;
    ensure!(end.code() == Code::PermissionDenied, "{end}: {}", at.logs());
    ensure!(end.message().contains("no identity issued"), "{end}");
    Ok(())
}

#[tokio::test]
async fn an_entry_reaches_held_calls_and_open_streams_at_once_and_its_end_withdraws_it() -> anyhow::Result<()>
{
    let at = Deployment::configured("", SELDOM).await?;
    pushed(&at).await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let mut other = api.clone();
    let held = async {
        let stream = api.fetch_x509svid(X509svidRequest {}).await?;
        Ok::<_, tonic::Status>(stream.into_inner())
    };
    let token = async {
        let request = JwtsvidRequest {
            audience: vec!["a".to_owned()],
            spiffe_id: String::new(),
        };
        let answer = tokio::time::timeout(DEADLINE, other.fetch_jwtsvid(request)).await?;
        Ok::<_, anyhow::Error>(answer?.into_inner().svids.len())
    };
    let creating = async {
        until("both calls are held", async || {
            (health(&at).await?.held_calls == 2).then_some(())
        })
        .await?;
        let first = create(&at, "/first").await?;
        Ok::<_, anyhow::Error>((first, Instant::now()))
    };
    let (stream, tokens, created) = tokio::join!(held, token, creating);
    let (mut stream, (first, since)) = (stream?, created?);
    ensure!(tokens? == 1);
    next(&at, &mut stream, &["/first"], since).await?;

    let second = create(&at, "/second").await?;
    next(&at, &mut stream, &["/first", "/second"], Instant::now()).await?;
    delete(&at, &first).await?;
    next(&at, &mut stream, &["/second"], Instant::now()).await?;
    delete(&at, &second).await?;
    let since = Instant::now();
    ends(&at, &mut stream).await?;
    ensure!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let shown = at.vouchsafe(&["health", "agent"]).await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(shown.contains("follows by: push (revision "), "{shown}");
    Ok(())
}

/// Working directories are looked at only where an entry asks for them: those who were measured before are measured again.
#[tokio::test]
async fn an_entry_that_asks_for_more_than_callers_were_measured_for_reaches_them_too() -> anyhow::Result<()> {
    let at = Deployment::configured("", SELDOM).await?;
    pushed(&at).await?;
    create(&at, "/plain").await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let mut other = api.clone();
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    next(&at, &mut stream, &["/plain"], Instant::now()).await?;
    let own = std::env::current_dir()?;
    let own = format!("process:cwd:{}", own.display());
    let asking = async |path: &str, cwd: &str| {
        let id = format!("spiffe://example.org{path}");
        at.entry(&id, &[&own_uid(), cwd], &[]).await
    };
    asking("/elsewhere", "process:cwd:/nonexistent").await?;
    asking("/here", &own).await?;
    next(&at, &mut stream, &["/plain", "/here"], Instant::now()).await?;
    let request = JwtsvidRequest {
        audience: vec!["a".to_owned()],
        spiffe_id: "spiffe://example.org/here".to_owned(),
    };
    let answer = tokio::time::timeout(DEADLINE, other.fetch_jwtsvid(request)).await?;
    ensure!(answer?.into_inner().svids.len() == 1);
    Ok(())
}

#[tokio::test]
async fn a_held_call_is_measured_for_what_the_entry_asks_that_comes_meanwhile() -> anyhow::Result<()> {
    let at = Deployment::configured("", SELDOM).await?;
    pushed(&at).await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let request = JwtsvidRequest {
        audience: vec!["a".to_owned()],
        spiffe_id: String::new(),
    };
    let held = async {
        let answer = tokio::time::timeout(DEADLINE, api.fetch_jwtsvid(request)).await?;
        Ok::<_, anyhow::Error>(answer?.into_inner().svids.len())
    };
    let creating = async {
        until("the call is held", async || {
            (health(&at).await?.held_calls == 1).then_some(())
        })
        .await?;
        let own = format!("process:cwd:{}", std::env::current_dir()?.display());
        at.entry("spiffe://example.org/here", &[&own_uid(), &own], &[])
            .await
    };
    let (tokens, created) = tokio::join!(held, creating);
    created?;
    ensure!(tokens? == 1);
    Ok(())
}

#[tokio::test]
async fn after_a_restart_of_the_server_or_the_agent_changes_are_followed_on() -> anyhow::Result<()> {
    let mut at = Deployment::configured("", SELDOM).await?;
    create(&at, "/before").await?;
    let before = pushed(&at).await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    next(&at, &mut stream, &["/before"], Instant::now()).await?;

    at.server.as_mut().context("a server")?.kill().await?;
    at.start_server().await?;
    let missed = create(&at, "/missed").await?;
    next(&at, &mut stream, &["/before", "/missed"], Instant::now()).await?;
    let after = pushed(&at).await?;
    ensure!(after.sync_revision > before.sync_revision);
    let log = agent_log(&at);
    let opened = log
        .lines()
        .filter(|line| line.contains("following the server's changes"));
    let opened: Vec<&str> = opened.collect();
    let whole = opened.iter().filter(|line| line.contains("reason"));
    ensure!(
        whole.count() == 1 && opened.len() > 1,
        "resumed, not begun anew: {opened:?}"
    );

    at.agent.as_mut().context("an agent")?.kill().await?;
    delete(&at, &missed).await?;
    at.start_agent(&[]).await?;
    pushed(&at).await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    next(&at, &mut stream, &["/before"], Instant::now()).await?;
    create(&at, "/after").await?;
    next(&at, &mut stream, &["/before", "/after"], Instant::now()).await
}

#[tokio::test]
async fn renewals_of_the_agents_own_svid_lose_no_change() -> anyhow::Result<()> {
    let at = Deployment::configured("agent_ttl = \"6s\"\n", SELDOM).await?;
    let mut ids = vec!["/e0".to_owned()];
    create(&at, "/e0").await?;
    let mut api = workload::connect(&at.workload_socket()).await?;
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    next(&at, &mut stream, &["/e0"], Instant::now()).await?;
    for round in 1..=3 {
        until("one more renewal", async || {
            let renewed = agent_log(&at)
                .matches("the SVID of this agent was renewed")
                .count();
            (renewed >= round).then_some(())
        })
        .await
        .with_context(|| at.logs())?;
        ids.push(format!("/e{round}"));
        create(&at, &format!("/e{round}")).await?;
        let expected: Vec<&str> = ids.iter().map(String::as_str).collect();
        next(&at, &mut stream, &expected, Instant::now()).await?;
    }
    let log = agent_log(&at);
    let whole = log
        .lines()
        .filter(|line| line.contains("following the server's changes"));
    ensure!(whole.filter(|line| line.contains("reason")).count() == 1, "{log}");
    ensure!(!log.contains("entries could not be fetched"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_banned_agent_hears_of_it_at_once_and_ends() -> anyhow::Result<()> {
    let mut at = Deployment::configured("", SELDOM).await?;
    let id = pushed(&at).await?.spiffe_id;
    at.json(&["agent", "ban", "--spiffe-id", &id]).await?;
    let since = Instant::now();
    let agent = at.agent.as_mut().context("an agent")?;
    agent.ends_with(77, "an operator banned this agent").await?;
    ensure!(since.elapsed() < SOON, "{:?}", since.elapsed());
    Ok(())
}
