//! The agent's binary and our server's, together: what the agent's own suite plays with a made-up server must hold with
//! the real one.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vouchsafe_proto::vouchsafe::agent::v1::HealthRequest;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_tests::daemons::{Deployment, NODE, own_uid};
use vouchsafe_tests::node::channel;
use vouchsafe_tests::wait::until;

/// More than one page of the synchronisation.
const MANY: u32 = 1203;

async fn known(at: &Deployment) -> Option<u64> {
    let mut client = AgentAdminClient::new(channel(&at.agent_socket()).await.ok()?);
    let health = client.health(HealthRequest {}).await.ok()?.into_inner();
    Some(health.entries)
}

/// The first value of that name, at whatever depth.
fn find<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| fields.values().find_map(|inner| find(inner, name))),
        Value::Array(values) => values.iter().find_map(|inner| find(inner, name)),
        _ => None,
    }
}

#[tokio::test]
async fn more_entries_than_a_page_come_and_go() -> anyhow::Result<()> {
    let at = Deployment::configured("", "sync_interval = \"200ms\"\n").await?;
    let entries: Vec<Value> = (0..MANY)
        .map(|n| {
            json!({ "spiffe_id": format!("spiffe://example.org/many/{n}"), "parent_id": NODE,
                "selectors": [{ "type": "unix", "value": format!("uid:{}", 100_000 + n) }] })
        })
        .collect();
    let file = at.path("entries.json");
    std::fs::write(&file, json!({ "entries": entries }).to_string())?;
    at.json(&["entry", "create", "--data", &file.display().to_string()])
        .await?;
    // The alias of the node is an entry too.
    let others = 1;
    until("the agent knows all entries", async || {
        (known(&at).await? == others + u64::from(MANY)).then_some(())
    })
    .await
    .with_context(|| at.logs())?;
    let listed = at
        .json(&["entry", "show", "--spiffe-id", "spiffe://example.org/many/7"])
        .await?;
    let id = find(&listed, "id")
        .and_then(Value::as_str)
        .context("an entry has an id")?;
    at.json(&["entry", "delete", "--entry-id", id]).await?;
    until("the agent knows that one is gone", async || {
        (known(&at).await? == others + u64::from(MANY) - 1).then_some(())
    })
    .await
    .with_context(|| at.logs())
}

#[tokio::test]
async fn an_agent_renews_again_and_again_and_comes_back_with_its_last_svid() -> anyhow::Result<()> {
    let mut at = Deployment::configured("agent_ttl = \"6s\"\n", "").await?;
    at.entry("spiffe://example.org/me", &[&own_uid()], &[]).await?;
    let renewed = |at: &Deployment| {
        let log = at
            .agent
            .as_ref()
            .map(vouchsafe_tests::daemons::Daemon::log)
            .unwrap_or_default();
        log.matches("the SVID of this agent was renewed").count()
    };
    until("three renewals", async || (renewed(&at) >= 3).then_some(()))
        .await
        .with_context(|| at.logs())?;
    at.agent.as_mut().context("an agent")?.kill().await?;
    at.start_agent(&[]).await.with_context(|| at.logs())?;
    let agents = at.json(&["agent", "count"]).await?;
    ensure!(find(&agents, "count") == Some(&json!(1)), "{agents}");
    Ok(())
}

#[tokio::test]
async fn an_evicted_agent_ends_with_its_exit_code_and_says_what_to_do() -> anyhow::Result<()> {
    let mut at = Deployment::start().await?;
    let agents = at.json(&["agent", "list"]).await?;
    let id = find(&agents, "spiffe_id")
        .and_then(Value::as_str)
        .context("an agent")?;
    at.json(&["agent", "evict", "--spiffe-id", id]).await?;
    let agent = at.agent.as_mut().context("an agent")?;
    agent.ends_with(77, "does not know this agent").await?;
    let log = agent.log();
    ensure!(log.contains("start the agent with a new join token"), "{log}");
    ensure!(!at.path("agent/agent-svid.json").exists());
    at.agent = None;
    at.join().await
}
