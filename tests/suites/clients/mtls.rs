//! Two workloads speak mTLS with the SVIDs that the agent gave them: Python with `spiffe-tls` and Go with
//! go-spiffe, each way round. A peer with another SPIFFE ID is refused by whoever looks.

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::process::Command;
use vouchsafe_tests::clients::{Client, go, one_shot, python, script};
use vouchsafe_tests::daemons::{Deployment, own_uid};
use vouchsafe_tests::dependencies;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use crate::{member, served, with};

const PYTHON: &str = "spiffe://example.org/python";
const GO: &str = "spiffe://example.org/go";

/// A deployment whose entries tell the two programs apart: the one by its executable, the other by its script.
async fn deployed() -> anyhow::Result<Deployment> {
    let deployment = Deployment::start().await?;
    let executable = format!("unix:path:{}", dependencies().join("go/peer").display());
    deployment.entry(GO, &[&own_uid(), &executable], &[]).await?;
    for name in ["mtls", "fetch_x509"] {
        let script = format!("process:script:{}", script(name).display());
        deployment.entry(PYTHON, &[&own_uid(), &script], &[]).await?;
    }
    for (command, id) in [(go as fn(&str) -> Command, GO), (python, PYTHON)] {
        let verb = if id == GO { "x509" } else { "fetch_x509" };
        let line = served(&deployment, || command(verb)).await?;
        ensure!(member(&line, "/svids/0/spiffe_id")? == id, "{line}");
    }
    Ok(deployment)
}

/// A listener that takes `peer` alone, and its address.
async fn listening(
    deployment: &Deployment,
    command: Command,
    peer: &str,
) -> anyhow::Result<(Client, String)> {
    let mut listener = Client::start(with(command, &[peer]), &deployment.workload_socket())?;
    let line = listener.expect("listening").await?;
    let address = member(&line, "/address")?
        .as_str()
        .context("an address is text")?
        .to_owned();
    Ok((listener, address))
}

fn python_listen() -> Command {
    with(python("mtls"), &["listen"])
}

fn python_dial(address: &str, peer: &str) -> Command {
    with(python("mtls"), &["dial", address, peer, "hello"])
}

fn go_dial(address: &str, peer: &str) -> Command {
    with(go("dial"), &[address, peer, "hello"])
}

/// Both sides see each other's SPIFFE ID, and the line gets through.
fn met(accepted: &Value, dialler: &str, reply: &Value, listener: &str) -> anyhow::Result<()> {
    ensure!(
        member(accepted, "/peer")? == dialler && member(accepted, "/line")? == "hello",
        "{accepted}"
    );
    ensure!(
        member(reply, "/peer")? == listener && member(reply, "/line")? == "hello",
        "{reply}"
    );
    Ok(())
}

async fn python_listens_go_dials() -> anyhow::Result<()> {
    let deployment = deployed().await?;
    let (mut listener, address) = listening(&deployment, python_listen(), GO).await?;
    let (reply, status) = one_shot(go_dial(&address, PYTHON), &deployment.workload_socket()).await?;
    ensure!(status.success(), "{reply}");
    met(&listener.expect("accepted").await?, GO, &reply, PYTHON)
}

async fn go_listens_python_dials() -> anyhow::Result<()> {
    let deployment = deployed().await?;
    let (mut listener, address) = listening(&deployment, go("listen"), PYTHON).await?;
    let (reply, status) = one_shot(python_dial(&address, GO), &deployment.workload_socket()).await?;
    ensure!(status.success(), "{reply}");
    met(&listener.expect("accepted").await?, PYTHON, &reply, GO)
}

/// The listener wants somebody else than who dials.
async fn wrong_dialler() -> anyhow::Result<()> {
    let deployment = deployed().await?;
    let other = "spiffe://example.org/somebody-else";
    let (mut listener, address) = listening(&deployment, python_listen(), other).await?;
    let (line, status) = one_shot(go_dial(&address, PYTHON), &deployment.workload_socket()).await?;
    ensure!(!status.success(), "the dialler was taken: {line}");
    listener.expect("refused").await?;
    let (mut listener, address) = listening(&deployment, go("listen"), other).await?;
    let (line, status) = one_shot(python_dial(&address, GO), &deployment.workload_socket()).await?;
    ensure!(!status.success(), "the dialler was taken: {line}");
    listener.expect("refused").await?;
    Ok(())
}

/// The dialler wants somebody else than who listens.
async fn wrong_listener() -> anyhow::Result<()> {
    let deployment = deployed().await?;
    let other = "spiffe://example.org/somebody-else";
    let (mut listener, address) = listening(&deployment, python_listen(), GO).await?;
    let (line, status) = one_shot(go_dial(&address, other), &deployment.workload_socket()).await?;
    ensure!(!status.success(), "the listener was taken: {line}");
    listener.expect("refused").await?;
    let (mut listener, address) = listening(&deployment, go("listen"), PYTHON).await?;
    let (line, status) = one_shot(python_dial(&address, other), &deployment.workload_socket()).await?;
    ensure!(!status.success(), "the listener was taken: {line}");
    listener.expect("refused").await?;
    Ok(())
}

#[tokio::test]
async fn a_dialler_with_another_id_is_refused() {
    require!(Need::Python, Need::Go);
    wrong_dialler().await.unwrap();
}

#[tokio::test]
async fn a_listener_with_another_id_is_refused() {
    require!(Need::Python, Need::Go);
    wrong_listener().await.unwrap();
}

#[tokio::test]
async fn go_reaches_python() {
    require!(Need::Python, Need::Go);
    python_listens_go_dials().await.unwrap();
}

#[tokio::test]
async fn python_reaches_go() {
    require!(Need::Python, Need::Go);
    go_listens_python_dials().await.unwrap();
}
