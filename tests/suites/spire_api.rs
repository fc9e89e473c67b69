//! SPIRE's published API module (Go), against our server's admin socket: what SPIRE's CLI and controllers use.

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use vouchsafe_tests::clients::{Client, go_server_api};
use vouchsafe_tests::daemons::{Deployment, NODE};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

/// Runs one verb: its lines until it ends, and whether it succeeded.
async fn call(deployment: &Deployment, arguments: &[&str]) -> anyhow::Result<(Vec<Value>, bool)> {
    let mut command: Command = go_server_api(&deployment.server_socket());
    command.args(arguments);
    let mut client = Client::spawn(command)?;
    let lines = client.rest().await?;
    Ok((lines, client.finish().await?.success()))
}

/// As [`call`], for a verb that must succeed with one line.
async fn one(deployment: &Deployment, arguments: &[&str]) -> anyhow::Result<Value> {
    let (lines, good) = call(deployment, arguments).await?;
    ensure!(good && lines.len() == 1, "{arguments:?}: {lines:?}");
    lines.into_iter().next().context("one line")
}

fn text<'a>(line: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    line.get(name)
        .and_then(Value::as_str)
        .with_context(|| format!("no `{name}` in {line}"))
}

fn code(lines: &[Value]) -> Option<&str> {
    lines.last()?.get("code")?.as_str()
}

async fn entries() -> anyhow::Result<()> {
    let deployment = Deployment::server_alone("").await?;
    for name in ["a", "b", "c"] {
        let id = format!("spiffe://example.org/{name}");
        let entry = one(
            &deployment,
            &["create-entry", NODE, &id, "unix:uid:1000", "unix:gid:1000"],
        )
        .await?;
        ensure!(
            text(&entry, "spiffe_id")? == id && text(&entry, "parent_id")? == NODE,
            "{entry}"
        );
    }
    let again = [
        "create-entry",
        NODE,
        "spiffe://example.org/a",
        "unix:uid:1000",
        "unix:gid:1000",
    ];
    let (lines, good) = call(&deployment, &again).await?;
    ensure!(!good && code(&lines) == Some("ALREADY_EXISTS"), "{lines:?}");
    let (lines, good) = call(&deployment, &["list-entries", "2"]).await?;
    let done = lines.last().context("a last line")?;
    ensure!(
        good && done.get("entries") == Some(&3.into()) && done.get("pages") == Some(&2.into()),
        "{lines:?}"
    );
    let id = text(lines.first().context("a first line")?, "id")?;
    one(&deployment, &["delete-entry", id]).await?;
    let (lines, good) = call(&deployment, &["delete-entry", id]).await?;
    ensure!(!good && code(&lines) == Some("NOT_FOUND"), "{lines:?}");
    let count = one(&deployment, &["count-entries"]).await?;
    ensure!(count.get("entries") == Some(&2.into()), "{count}");
    Ok(())
}

async fn refusals() -> anyhow::Result<()> {
    let deployment = Deployment::server_alone("").await?;
    for bad in [
        ["create-entry", NODE, "spiffe://elsewhere.org/a", "unix:uid:1"],
        ["create-entry", NODE, "spiffe://example.org/a/../b", "unix:uid:1"],
        ["create-entry", NODE, "spiffe://example.org/a", "unix:"],
    ] {
        let (lines, good) = call(&deployment, &bad).await?;
        ensure!(
            !good && code(&lines) == Some("INVALID_ARGUMENT"),
            "{bad:?}: {lines:?}"
        );
    }
    Ok(())
}

async fn tokens_agents_bundle_and_jwt() -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    let token = one(
        &deployment,
        &["create-join-token", "spiffe://example.org/another"],
    )
    .await?;
    ensure!(!text(&token, "value")?.is_empty(), "{token}");
    let (agents, good) = call(&deployment, &["list-agents"]).await?;
    ensure!(good && agents.len() == 2, "{agents:?}");
    let agent = agents.first().context("an agent")?;
    ensure!(text(agent, "attestation_type")? == "join_token", "{agent}");
    ensure!(
        text(agent, "spiffe_id")?.starts_with("spiffe://example.org/spire/agent/join_token/"),
        "{agent}"
    );
    let bundle = one(&deployment, &["bundle"]).await?;
    let count = |name: &str| bundle.get(name).and_then(Value::as_u64);
    ensure!(text(&bundle, "trust_domain")? == "example.org", "{bundle}");
    ensure!(
        count("x509_authorities") >= Some(1) && count("jwt_authorities") >= Some(1),
        "{bundle}"
    );
    let jwt = one(
        &deployment,
        &["mint-jwt", "spiffe://example.org/service", "ledger"],
    )
    .await?;
    ensure!(text(&jwt, "token")?.split('.').count() == 3, "{jwt}");
    Ok(())
}

async fn authorities() -> anyhow::Result<()> {
    let deployment = Deployment::server_alone("").await?;
    let active = one(&deployment, &["authority-state"]).await?;
    ensure!(text(&active, "state")? == "active", "{active}");
    let old = text(&active, "id")?;
    for (step, id, refusal) in [
        ("activate", "", "INVALID_ARGUMENT"),
        ("taint", old, "INVALID_ARGUMENT"),
        ("revoke", old, "INVALID_ARGUMENT"),
        ("taint", "00", "INVALID_ARGUMENT"),
        ("taint-upstream", "00", "FAILED_PRECONDITION"),
    ] {
        let (lines, good) = call(&deployment, &["authority", step, id]).await?;
        ensure!(!good && code(&lines) == Some(refusal), "{step} {id}: {lines:?}");
    }
    let prepared = one(&deployment, &["authority", "prepare"]).await?;
    let new = text(&prepared, "id")?;
    one(&deployment, &["authority", "activate", new]).await?;
    let (states, _) = call(&deployment, &["authority-state"]).await?;
    let [active, retired] = states.as_slice() else {
        anyhow::bail!("{states:?}");
    };
    ensure!(
        text(active, "id")? == new && text(retired, "id")? == old,
        "{states:?}"
    );
    ensure!(text(retired, "state")? == "old", "{states:?}");
    one(&deployment, &["authority", "taint", old]).await?;
    let bundle = one(&deployment, &["bundle"]).await?;
    ensure!(bundle.get("tainted") == Some(&1.into()), "{bundle}");
    one(&deployment, &["authority", "revoke", old]).await?;
    let bundle = one(&deployment, &["bundle"]).await?;
    ensure!(bundle.get("x509_authorities") == Some(&1.into()), "{bundle}");
    Ok(())
}

#[tokio::test]
async fn authorities_are_prepared_activated_tainted_and_revoked() {
    require!(Need::Go);
    authorities().await.unwrap();
}

#[tokio::test]
async fn entries_are_created_listed_by_page_and_deleted() {
    require!(Need::Go);
    entries().await.unwrap();
}

#[tokio::test]
async fn bad_entries_are_refused_with_their_code() {
    require!(Need::Go);
    refusals().await.unwrap();
}

#[tokio::test]
async fn join_tokens_agents_bundle_and_jwt_are_as_spire_has_them() {
    require!(Need::Go);
    tokens_agents_bundle_and_jwt().await.unwrap();
}
