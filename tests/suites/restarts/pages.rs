//! The server killed while the agent gets its whole set, page by page: until the last page the old set is served, then
//! the new one, and never a part of either.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use tonic::{Code, Streaming};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::agent::v1::HealthRequest;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_client::AgentAdminClient;
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_tests::daemons::{Daemon, Deployment, TRUST_DOMAIN};
use vouchsafe_tests::link::{Link, Mode};
use vouchsafe_tests::node::{channel, paths};
use vouchsafe_tests::sealed::until_sealed;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload;

/// Entries of a generation: so many missed changes that the whole set comes, in several pages.
const ENTRIES: usize = 2_000;
/// Every so-manieth of them is this process's.
const MINE_EVERY: usize = 250;
/// Entries in one call.
const BATCH: usize = 250;
/// Only push can be quicker.
const SELDOM: &str = "sync_interval = \"1h\"\n";

fn path(text: &str) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: text.to_owned(),
    }
}

fn id(generation: usize, n: usize) -> String {
    format!("g{generation}-{n:05}")
}

/// A generation's entries, one more in each than in the one before.
fn numbers(generation: usize) -> Vec<usize> {
    (0..ENTRIES + generation).collect()
}

/// What this process is served in a generation.
fn mine(generation: usize) -> BTreeSet<String> {
    let mine = numbers(generation).into_iter().step_by(MINE_EVERY);
    mine.map(|n| format!("/g{generation}/{n}")).collect()
}

/// Deletes the generation before, and creates this one.
async fn create(at: &Deployment, generation: usize) -> anyhow::Result<()> {
    let mut client = EntryClient::new(channel(&at.server_socket()).await?);
    if let Some(before) = generation.checked_sub(1) {
        for some in numbers(before).chunks(BATCH) {
            let ids = some.iter().map(|n| id(before, *n)).collect();
            client.batch_delete_entry(BatchDeleteEntryRequest { ids }).await?;
        }
    }
    for some in numbers(generation).chunks(BATCH) {
        let uid = |n: usize| match n % MINE_EVERY {
            0 => nix::unistd::geteuid().as_raw(),
            _ => u32::MAX - 1,
        };
        let entries = some.iter().map(|n| types::Entry {
            id: id(generation, *n),
            parent_id: Some(path("/node/test")),
            spiffe_id: Some(path(&format!("/g{generation}/{n}"))),
            selectors: vec![types::Selector {
                r#type: "unix".to_owned(),
                value: format!("uid:{}", uid(*n)),
            }],
            // Nothing else is to come over the network: of these the agent has no SVID issued.
            store_svid: n % MINE_EVERY != 0,
            ..types::Entry::default()
        });
        let asked = BatchCreateEntryRequest {
            entries: entries.collect(),
            output_mask: None,
        };
        let made = client.batch_create_entry(asked).await?.into_inner();
        let bad = made
            .results
            .into_iter()
            .filter_map(|result| result.status)
            .find(|status| status.code != 0);
        ensure!(bad.is_none(), "{bad:?}");
    }
    Ok(())
}

/// How many entries the agent knows, its alias left out.
async fn known(at: &Deployment) -> anyhow::Result<usize> {
    let mut client = AgentAdminClient::new(channel(&at.agent_socket()).await?);
    let health = client.health(HealthRequest {}).await?.into_inner();
    Ok(usize::try_from(health.entries)?.saturating_sub(1))
}

fn ids(message: &X509svidResponse) -> BTreeSet<String> {
    paths(message).into_iter().map(str::to_owned).collect()
}

async fn open(at: &Deployment) -> anyhow::Result<Streaming<X509svidResponse>> {
    let mut api = workload::connect(&at.workload_socket()).await?;
    Ok(api.fetch_x509svid(X509svidRequest {}).await?.into_inner())
}

/// What a new connection is served, and what the agent knows, is the whole of this generation.
async fn served(at: &Deployment, generation: usize) -> anyhow::Result<()> {
    let message = workload::next(&mut open(at).await?).await;
    let message = message.with_context(|| at.logs())?;
    ensure!(ids(&message) == mine(generation), "{:?}", ids(&message));
    let known = known(at).await?;
    ensure!(known == numbers(generation).len(), "{known} entries");
    Ok(())
}

/// Waits until an open stream has this generation. Before that come SVIDs of it alone, of those that are there.
async fn becomes(
    at: &Deployment,
    stream: &mut Streaming<X509svidResponse>,
    generation: usize,
) -> anyhow::Result<()> {
    let wanted = mine(generation);
    loop {
        let message = workload::next(stream).await.with_context(|| at.logs())?;
        let ids = ids(&message);
        ensure!(ids.is_subset(&wanted), "{ids:?} on the way to {wanted:?}");
        if ids == wanted {
            return Ok(());
        }
    }
}

/// How often the agent was told that its whole set comes since it has missed too much.
fn resyncs(at: &Deployment) -> usize {
    let log = at.agent.as_ref().map(Daemon::log).unwrap_or_default();
    log.matches("too many changes").count()
}

/// Something new comes on the stream at once.
async fn has_news(stream: &mut Streaming<X509svidResponse>) -> bool {
    tokio::time::timeout(Duration::from_millis(1), stream.message())
        .await
        .is_ok()
}

/// The server is killed when so many `bytes` of a whole set have come through.
async fn killed_at(
    (at, link): (&mut Deployment, &Link),
    generation: usize,
    bytes: u64,
    with_agent: bool,
) -> anyhow::Result<()> {
    let old = generation - 1;
    let mut stream = open(at).await?;
    let first = workload::next(&mut stream).await?;
    ensure!(ids(&first) == mine(old), "{:?}", ids(&first));
    // An agent seals seconds after a change: killed before that, it would rightly serve what came earlier.
    if with_agent {
        until_sealed(at, "the old set", |sealed| {
            let svids = sealed.svids.iter().map(|(_, svid)| svid.spiffe_id.path());
            let svids: BTreeSet<_> = svids.collect();
            mine(old).iter().all(|id| svids.contains(id.as_str()))
        })
        .await
        .with_context(|| at.logs())?;
    }
    let begun = resyncs(at);
    link.set(Mode::Cut);
    create(at, generation).await?;
    link.let_through(bytes);
    link.set(Mode::Open);
    link.used_up().await.with_context(|| at.logs())?;
    until("the agent is told that its whole set comes", async || {
        (resyncs(at) == begun + 1).then_some(())
    })
    .await
    .with_context(|| at.logs())?;
    served(at, old).await?;
    at.server.take().context("a server")?.kill().await?;
    link.hang_up();
    served(at, old).await?;
    if with_agent {
        at.agent.take().context("an agent")?.kill().await?;
        at.launch_agent(&[])?;
        until("the agent serves from its seal", async || {
            let mut stream = open(at).await.ok()?;
            let first = workload::next(&mut stream).await;
            let is_up = !matches!(&first, Err(status) if status.code() == Code::Unavailable);
            is_up.then_some(())
        })
        .await
        .with_context(|| at.logs())?;
        served(at, old).await?;
        stream = open(at).await?;
        workload::next(&mut stream).await?;
    }
    ensure!(
        !has_news(&mut stream).await,
        "something came before the last page"
    );
    link.let_through(u64::MAX);
    at.start_server().await?;
    becomes(at, &mut stream, generation).await?;
    served(at, generation).await
}

#[tokio::test]
async fn a_server_killed_amid_the_pages_of_a_whole_set_leaves_the_old_set_until_the_new_one_is_whole()
-> anyhow::Result<()> {
    let (mut at, link) = Deployment::linked(SELDOM).await?;
    create(&at, 0).await?;
    until("the agent has the first generation", async || {
        served(&at, 0).await.ok()
    })
    .await
    .with_context(|| at.logs())?;

    // Once without a kill, to know how much a whole set is.
    let mut stream = open(&at).await?;
    workload::next(&mut stream).await?;
    link.set(Mode::Cut);
    create(&at, 1).await?;
    let before = link.passed();
    link.set(Mode::Open);
    becomes(&at, &mut stream, 1).await?;
    let whole = link.passed() - before;
    ensure!(resyncs(&at) == 1, "{}", at.logs());

    for (generation, percent, with_agent) in [(2, 15, false), (3, 50, true), (4, 80, false)] {
        let bytes = whole * percent / 100;
        killed_at((&mut at, &link), generation, bytes, with_agent)
            .await
            .with_context(|| format!("at {percent} % of {whole} bytes"))?;
    }
    Ok(())
}
