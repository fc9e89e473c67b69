//! What a ban does to the workloads of the banned node: the real server's binary at the real agent's, with streams open.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, ensure};
use tonic::{Code, Streaming};
use vouchsafe_proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, X509BundlesRequest, X509BundlesResponse,
    X509svidRequest, X509svidResponse,
};
use vouchsafe_tests::daemons::{Deployment, own_uid};
use vouchsafe_tests::link::{Link, Mode};
use vouchsafe_tests::node::paths;
use vouchsafe_tests::sealed::until_sealed;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{self, WorkloadApi};

/// Only push can be quicker.
const SELDOM: &str = "sync_interval = \"1h\"\n";

/// What a workload holds open.
struct Streams {
    api: WorkloadApi,
    svids: Streaming<X509svidResponse>,
    x509: Streaming<X509BundlesResponse>,
    jwt: Streaming<JwtBundlesResponse>,
}

impl Streams {
    async fn open(at: &Deployment) -> anyhow::Result<Self> {
        let mut api = workload::connect(&at.workload_socket()).await?;
        let mut svids = api.fetch_x509svid(X509svidRequest {}).await?.into_inner();
        let mut x509 = api.fetch_x509_bundles(X509BundlesRequest {}).await?.into_inner();
        let mut jwt = api.fetch_jwt_bundles(JwtBundlesRequest {}).await?.into_inner();
        let first = workload::next(&mut svids).await.with_context(|| at.logs())?;
        ensure!(paths(&first) == ["/worker"], "{:?}", paths(&first));
        workload::next(&mut x509).await?;
        workload::next(&mut jwt).await?;
        token(&mut api).await?;
        Ok(Self {
            api,
            svids,
            x509,
            jwt,
        })
    }

    /// Each ends by itself, and says so, while its agent does; nothing is to be had after that, over the old connection
    /// or a new one.
    async fn end(mut self, at: &Deployment) -> anyhow::Result<()> {
        let ends = [
            workload::next(&mut self.svids).await.err(),
            workload::next(&mut self.x509).await.err(),
            workload::next(&mut self.jwt).await.err(),
        ];
        for end in ends {
            let end = end.with_context(|| format!("a stream goes on: {}", at.logs()))?;
            ensure!(end.code() == Code::Unavailable, "{end}");
            ensure!(end.message().contains("the agent is stopping"), "{end}");
        }
        ensure!(token(&mut self.api).await.is_err(), "a token after the ban");
        Ok(())
    }
}

async fn token(api: &mut WorkloadApi) -> anyhow::Result<()> {
    let request = JwtsvidRequest {
        audience: vec!["a".to_owned()],
        spiffe_id: String::new(),
    };
    let answer = api.fetch_jwtsvid(request).await?.into_inner();
    ensure!(answer.svids.len() == 1);
    Ok(())
}

/// A server and an agent with a network between, one workload, and the agent's id.
async fn node() -> anyhow::Result<(Deployment, Link, String)> {
    let (at, link) = Deployment::linked(SELDOM).await?;
    at.entry("spiffe://example.org/worker", &[&own_uid()], &[])
        .await?;
    until("the workload has its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await
    .with_context(|| at.logs())?;
    let agents = at.json(&["agent", "list"]).await?;
    let id = agents
        .get(0)
        .and_then(|agent| agent.get("spiffe_id")?.as_str())
        .with_context(|| format!("no agent in {agents}"))?
        .to_owned();
    Ok((at, link, id))
}

/// The agent ends with the exit code that says so, and has kept nothing to come back with.
async fn is_gone(at: &mut Deployment) -> anyhow::Result<()> {
    let agent = at.agent.as_mut().context("an agent")?;
    agent.ends_with(77, "an operator banned this agent").await?;
    ensure!(workload::connect(&at.workload_socket()).await.is_err());
    at.launch_agent(&[])?;
    let agent = at.agent.as_mut().context("an agent")?;
    agent.ends_with(78, "nothing to join with").await?;
    // What comes later is to be told from this.
    std::fs::remove_file(at.path("agent.log"))?;
    Ok(())
}

/// Copies a folder of files and folders, with their modes, while somebody works in it: what is gone by then has got its
/// own name, under which it was copied or is not needed.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let (from, to) = (item.path(), to.join(item.file_name()));
        match item.file_type()?.is_dir() {
            true => copy(&from, &to)?,
            false => match std::fs::copy(&from, &to) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                copied => drop(copied?),
            },
        }
    }
    Ok(())
}

#[tokio::test]
async fn open_streams_of_a_banned_agent_end_and_its_svid_is_of_no_use_to_a_copy_of_it() -> anyhow::Result<()>
{
    let (mut at, _link, id) = node().await?;
    let streams = Streams::open(&at).await?;
    until_sealed(&at, "the SVID", |sealed| !sealed.svids.is_empty()).await?;
    // What somebody with the node's disk has.
    let (folder, kept) = (at.path("agent"), at.path("kept"));
    copy(&folder, &kept)?;
    at.json(&["agent", "ban", "--spiffe-id", &id]).await?;
    streams.end(&at).await?;
    is_gone(&mut at).await?;

    std::fs::remove_dir_all(&folder)?;
    std::fs::rename(&kept, &folder)?;
    at.launch_agent(&[])?;
    is_gone(&mut at).await?;
    let agents = at.json(&["agent", "show", "--spiffe-id", &id]).await?;
    ensure!(agents.to_string().contains("\"banned\":true"), "{agents}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_is_banned_while_it_is_cut_off_serves_until_it_hears_of_it() -> anyhow::Result<()> {
    let (mut at, link, id) = node().await?;
    let mut streams = Streams::open(&at).await?;
    link.set(Mode::Cut);
    at.json(&["agent", "ban", "--spiffe-id", &id]).await?;
    // Nobody can tell it, and what it serves is valid.
    token(&mut streams.api).await?;
    Streams::open(&at).await?;
    link.set(Mode::Open);
    streams.end(&at).await?;
    is_gone(&mut at).await
}
