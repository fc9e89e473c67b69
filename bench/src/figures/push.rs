//! Figure 4: how long a change takes from the operator's request to the workload, with few entries and with many.
//! The agent never asks by itself within the run (`sync_interval` is an hour): what arrives was pushed.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::daemons::Deployment;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report, Times};
use crate::wait::{DEADLINE, until};
use crate::{entries, fleet, rig, workload};

const FIGURE: u8 = 4;
const AGENT: &str = "sync_interval = \"1h\"\nhold_unmatched = \"30s\"\n";

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment =
        Deployment::configured(rig::SERVER_LIMITS, &format!("{AGENT}{}", rig::AGENT_LIMITS)).await?;
    let admin = rig::admin(&deployment).await?;
    let socket = deployment.workload_socket();
    let slowness = Raw::measure(plan).await?.slowness();
    let mut there = 0;
    for (count, limit_ms) in [(plan.few(), 100.0), (plan.many(), 250.0)] {
        entries::fill(&admin, there, count, fleet::ALIAS).await?;
        there = count;
        settled(&deployment, count).await?;
        let rounds = Rounds::run(plan.pick(100, 5), &admin, &socket).await?;
        let mut tell = |what: &str, times: Vec<Duration>| {
            let times = Times::from(times);
            let what = format!("{what}, {count} entries");
            report.told(FIGURE, format!("{what}, p50"), times.percentile_ms(50), "ms");
            let limit = Limit::AtMost(limit_ms * slowness);
            report.held(
                FIGURE,
                format!("{what}, p99"),
                limit,
                times.percentile_ms(99),
                "ms",
            );
        };
        tell("created → SVID at a held call", rounds.held);
        tell("created → SVID at an open stream", rounds.second);
        tell("deleted → taken from an open stream", rounds.taken);
        tell("deleted → stream withdrawn", rounds.withdrawn);
    }
    Ok(())
}

/// Waits until the agent knows of all entries.
async fn settled(deployment: &Deployment, entries: usize) -> anyhow::Result<()> {
    until("the agent has heard of all entries", async || {
        let known = rig::agent_health(deployment).await.ok()?.entries;
        usize::try_from(known)
            .is_ok_and(|known| known >= entries)
            .then_some(())
    })
    .await
}

/// How long each change took to arrive.
#[derive(Debug, Default)]
struct Rounds {
    held: Vec<Duration>,
    second: Vec<Duration>,
    taken: Vec<Duration>,
    withdrawn: Vec<Duration>,
}

impl Rounds {
    /// A call that matches nothing is held; it gets a first SVID, a second one, loses the second, loses all.
    async fn run(count: usize, admin: &Channel, socket: &Path) -> anyhow::Result<Self> {
        let selectors = workload::own_selectors()?;
        let mut rounds = Self::default();
        for round in 0..count {
            let entry = |kind: &str| entries::entry(&format!("/{kind}/{round}"), fleet::ALIAS, &selectors);
            let mut stream = Box::pin(workload::stream(socket));
            // The call is on its way and held when it has not ended after a moment.
            let moment = timeout(Duration::from_millis(10), &mut stream).await;
            let (asked, first, mut stream) = match moment {
                Err(_held) => {
                    let asked = Instant::now();
                    let first = entries::create(admin, vec![entry("first")]).await?;
                    (asked, first, stream.await?)
                }
                Ok(opened) => {
                    let opened = opened?;
                    let asked = Instant::now();
                    (asked, entries::create(admin, vec![entry("first")]).await?, opened)
                }
            };
            ensure!(
                workload::message(&mut stream).await?.svids.len() == 1,
                "one SVID was to come"
            );
            rounds.held.push(asked.elapsed());

            let asked = Instant::now();
            let second = entries::create(admin, vec![entry("second")]).await?;
            ensure!(
                workload::message(&mut stream).await?.svids.len() == 2,
                "two SVIDs were to come"
            );
            rounds.second.push(asked.elapsed());

            let asked = Instant::now();
            delete(admin, &second).await?;
            ensure!(
                workload::message(&mut stream).await?.svids.len() == 1,
                "one SVID was to stay"
            );
            rounds.taken.push(asked.elapsed());

            let asked = Instant::now();
            delete(admin, &first).await?;
            match timeout(DEADLINE, stream.message()).await? {
                Err(status) if status.code() == Code::PermissionDenied => {}
                other => anyhow::bail!("the stream was to be withdrawn: {other:?}"),
            }
            rounds.withdrawn.push(asked.elapsed());
        }
        Ok(rounds)
    }
}

async fn delete(admin: &Channel, ids: &[String]) -> anyhow::Result<()> {
    for id in ids {
        entries::delete(admin, id).await?;
    }
    Ok(())
}
