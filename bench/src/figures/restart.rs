//! Figure 8: an agent comes up from its sealed state while its server is away: from the start of the process to the
//! first SVID that a workload has in hand.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::time::{Instant, sleep, timeout};

use crate::daemons::Deployment;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report, Times};
use crate::wait::{DEADLINE, until};
use crate::{entries, fleet, rig, workload};

const FIGURE: u8 = 8;
/// How soon a caller tries again while nobody listens yet.
const AGAIN: Duration = Duration::from_millis(1);

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for count in [1, plan.few()] {
        let slowness = Raw::measure(plan).await?.slowness();
        let times = Times::from(rounds(plan.pick(20, 3), count).await?);
        let what = format!("agent with {count} sealed SVIDs, server away: start → first SVID");
        report.told(FIGURE, format!("{what}, p50"), times.percentile_ms(50), "ms");
        let limit = Limit::AtMost(100.0 * slowness);
        report.held(
            FIGURE,
            format!("{what}, longest"),
            limit,
            times.longest_ms(),
            "ms",
        );
    }
    Ok(())
}

/// Seals so many SVIDs, one of them for this process; then kills the agent and starts it again and again.
async fn rounds(rounds: usize, count: usize) -> anyhow::Result<Vec<Duration>> {
    let mut deployment = Deployment::configured(rig::SERVER_LIMITS, rig::AGENT_LIMITS).await?;
    let admin = rig::admin(&deployment).await?;
    // First, so that it is among those that the agent keeps where there are more than it has places for.
    let own = entries::entry("/agent/own", fleet::ALIAS, &workload::own_selectors()?);
    entries::create(&admin, vec![own]).await?;
    entries::fill(&admin, 0, count.saturating_sub(1), fleet::ALIAS).await?;
    until("the agent holds all SVIDs", async || {
        let cached = rig::agent_health(&deployment).await.ok()?.cached_svids;
        usize::try_from(cached)
            .is_ok_and(|cached| cached >= count)
            .then_some(())
    })
    .await?;
    timeout(DEADLINE, first(&deployment.workload_socket())).await?;
    // Told to stop, an agent seals all that it holds.
    let agent = deployment.agent.as_mut().context("no agent runs")?;
    agent.terminate().await?;
    deployment
        .server
        .as_mut()
        .context("no server runs")?
        .kill()
        .await?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        deployment.launch_agent(&[])?;
        timeout(DEADLINE, first(&deployment.workload_socket()))
            .await
            .with_context(|| deployment.logs())?;
        times.push(begun.elapsed());
        deployment.agent.as_mut().context("no agent runs")?.kill().await?;
    }
    Ok(times)
}

async fn first(socket: &Path) {
    while workload::x509(socket).await.is_err() {
        sleep(AGAIN).await;
    }
}
