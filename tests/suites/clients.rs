//! Clients that we did not write, against the real agent: PyPI's `spiffe` and `spiffe-tls`, go-spiffe,
//! java-spiffe, and the Rust crate `spiffe`. Each is refused without an entry, gets its SVIDs, follows a
//! rotation while it holds a stream, and gets, checks and refuses JWT-SVIDs.

#[path = "clients/mtls.rs"]
mod mtls;
#[path = "clients/rust_crate.rs"]
mod rust_crate;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use vouchsafe_tests::clients::{Client, go, java, one_shot, python};
use vouchsafe_tests::daemons::{Deployment, own_uid};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

const WORKLOAD: &str = "spiffe://example.org/workload";

/// A member of a line, which must be there.
pub(crate) fn member<'a>(line: &'a Value, pointer: &str) -> anyhow::Result<&'a Value> {
    line.pointer(pointer)
        .with_context(|| format!("no `{pointer}` in {line}"))
}

/// Starts the client until the agent serves it: an entry takes a moment to reach the node.
pub(crate) async fn served(deployment: &Deployment, command: impl Fn() -> Command) -> anyhow::Result<Value> {
    let socket = deployment.workload_socket();
    let line = until("the entry reaches the node", async || {
        match one_shot(command(), &socket).await {
            Ok((line, status)) if status.success() => Some(Ok(line)),
            Ok((line, _)) if line.get("code").is_some_and(|code| code == "PERMISSION_DENIED") => None,
            Ok((line, _)) => Some(Err(anyhow::anyhow!("refused with {line}"))),
            Err(error) => Some(Err(error)),
        }
    });
    line.await.with_context(|| deployment.logs())?
}

/// A process that matches no entry gets PermissionDenied, and no SVID.
async fn refused_without_an_entry(command: Command) -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment.entry(WORKLOAD, &["unix:uid:4294967"], &[]).await?;
    let (line, status) = one_shot(command, &deployment.workload_socket()).await?;
    ensure!(!status.success(), "the client was served: {line}");
    ensure!(member(&line, "/code")? == "PERMISSION_DENIED", "{line}");
    Ok(())
}

/// A process that matches gets its SVID, with the bundle of its trust domain.
async fn gets_its_x509_svid(command: impl Fn() -> Command) -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let line = served(&deployment, command).await?;
    ensure!(member(&line, "/svids/0/spiffe_id")? == WORKLOAD, "{line}");
    ensure!(
        member(&line, "/svids")?.as_array().map(Vec::len) == Some(1),
        "{line}"
    );
    ensure!(
        member(&line, "/bundles/example.org")?.as_u64() >= Some(1),
        "{line}"
    );
    Ok(())
}

/// A client that holds its stream gets the next SVID before the last one expires, and the one after it.
async fn follows_rotation(once: impl Fn() -> Command, watch: Command) -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment
        .entry(WORKLOAD, &[&own_uid()], &["--x509-svid-ttl", "6s"])
        .await?;
    served(&deployment, once).await?;
    let mut client = Client::start(watch, &deployment.workload_socket())?;
    let mut last = client.expect("x509").await?;
    for _ in 0..2 {
        let next = client.expect("x509").await.with_context(|| deployment.logs())?;
        let (serial, ends) = ("/svids/0/serial", "/svids/0/not_after");
        ensure!(
            member(&next, serial)? != member(&last, serial)?,
            "the same SVID twice: {next}"
        );
        ensure!(
            member(&next, ends)?.as_i64() > member(&last, ends)?.as_i64(),
            "{last}, then {next}"
        );
        last = next;
    }
    ensure!(client.finish().await?.success(), "{}", client.stderr());
    Ok(())
}

/// The commands that get and check JWT-SVIDs, for an audience and, to check one, a token.
struct JwtVerbs {
    fetch: fn(&str) -> Command,
    /// Checked by the agent.
    validate: fn(&str, &str) -> Command,
    /// Checked by the client itself, with the JWT bundles.
    verify: fn(&str, &str) -> Command,
}

/// A JWT-SVID is for its audience, and both the agent and the client itself refuse it for another.
async fn gets_and_checks_jwt_svids(verbs: JwtVerbs) -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let socket = deployment.workload_socket();
    let line = served(&deployment, || (verbs.fetch)("ledger")).await?;
    ensure!(member(&line, "/spiffe_id")? == WORKLOAD, "{line}");
    ensure!(
        member(&line, "/audience")? == &serde_json::json!(["ledger"]),
        "{line}"
    );
    let token = member(&line, "/token")?.as_str().context("a token is text")?;
    for check in [verbs.validate, verbs.verify] {
        let (good, status) = one_shot(check("ledger", token), &socket).await?;
        ensure!(
            status.success() && member(&good, "/spiffe_id")? == WORKLOAD,
            "{good}"
        );
        let (bad, status) = one_shot(check("bank", token), &socket).await?;
        ensure!(!status.success(), "a token for another audience was taken: {bad}");
        let cut = token.get(..token.len() - 8).context("a token is long")?;
        let (bad, status) = one_shot(check("ledger", cut), &socket).await?;
        ensure!(!status.success(), "a token with a cut signature was taken: {bad}");
    }
    Ok(())
}

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

const PYTHON_JWT: JwtVerbs = JwtVerbs {
    fetch: |audience| with(python("fetch_jwt"), &["fetch", audience]),
    validate: |audience, token| with(python("fetch_jwt"), &["validate", audience, token]),
    verify: |audience, token| with(python("fetch_jwt"), &["verify", audience, token]),
};

const GO_JWT: JwtVerbs = JwtVerbs {
    fetch: |audience| with(go("jwt"), &[audience]),
    validate: |audience, token| with(go("validate-jwt"), &[audience, token]),
    verify: |audience, token| with(go("verify-jwt"), &[audience, token]),
};

const JAVA_JWT: JwtVerbs = JwtVerbs {
    fetch: |audience| with(java("jwt"), &[audience]),
    validate: |audience, token| with(java("validate-jwt"), &[audience, token]),
    verify: |audience, token| with(java("verify-jwt"), &[audience, token]),
};

#[tokio::test]
async fn python_is_refused_without_an_entry() {
    require!(Need::Python);
    refused_without_an_entry(python("fetch_x509")).await.unwrap();
}

#[tokio::test]
async fn python_gets_its_x509_svid() {
    require!(Need::Python);
    gets_its_x509_svid(|| python("fetch_x509")).await.unwrap();
}

#[tokio::test]
async fn python_follows_rotation() {
    require!(Need::Python);
    follows_rotation(|| python("fetch_x509"), python("watch_x509"))
        .await
        .unwrap();
}

#[tokio::test]
async fn python_gets_and_checks_jwt_svids() {
    require!(Need::Python);
    gets_and_checks_jwt_svids(PYTHON_JWT).await.unwrap();
}

#[tokio::test]
async fn go_is_refused_without_an_entry() {
    require!(Need::Go);
    refused_without_an_entry(go("x509")).await.unwrap();
}

#[tokio::test]
async fn go_gets_its_x509_svid() {
    require!(Need::Go);
    gets_its_x509_svid(|| go("x509")).await.unwrap();
}

#[tokio::test]
async fn go_follows_rotation() {
    require!(Need::Go);
    follows_rotation(|| go("x509"), go("watch-x509")).await.unwrap();
}

#[tokio::test]
async fn go_gets_and_checks_jwt_svids() {
    require!(Need::Go);
    gets_and_checks_jwt_svids(GO_JWT).await.unwrap();
}

#[tokio::test]
async fn java_is_refused_without_an_entry() {
    require!(Need::Java);
    refused_without_an_entry(java("x509")).await.unwrap();
}

#[tokio::test]
async fn java_gets_its_x509_svid() {
    require!(Need::Java);
    gets_its_x509_svid(|| java("x509")).await.unwrap();
}

#[tokio::test]
async fn java_gets_its_x509_svid_from_a_source() {
    require!(Need::Java);
    gets_its_x509_svid(|| java("source")).await.unwrap();
}

#[tokio::test]
async fn java_follows_rotation() {
    require!(Need::Java);
    follows_rotation(|| java("x509"), java("watch-x509"))
        .await
        .unwrap();
}

#[tokio::test]
async fn java_gets_and_checks_jwt_svids() {
    require!(Need::Java);
    gets_and_checks_jwt_svids(JAVA_JWT).await.unwrap();
}
