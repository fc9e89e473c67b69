//! Figure 7: memory of both daemons, empty and full, and how long a full server takes to start.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::float;
use crate::daemons::Deployment;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report};
use crate::{entries, fleet, rig, usage};

const FIGURE: u8 = 7;
const MIB: f64 = 1024.0 * 1024.0;
/// How long a daemon is left alone before its memory is read.
const CALM: Duration = Duration::from_secs(1);
/// How long the agent may take to have all its SVIDs.
const PATIENCE: Duration = Duration::from_secs(120);
/// SPIRE's server (reference measurement): 88 MB and 2 KB for each entry.
const SPIRE_BASE_MIB: f64 = 88e6 / MIB;
const SPIRE_ENTRY_MIB: f64 = 2e3 / MIB;

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    server(plan, report).await?;
    agent(plan, report).await
}

async fn server(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let slowness = Raw::measure(plan).await?.slowness();
    let mut deployment = rig::server().await?;
    sleep(CALM).await;
    let base = usage::resident_bytes(rig::server_pid(&deployment)?)?;
    report.held(FIGURE, "server, empty", Limit::AtMost(20.0), base / MIB, "MiB");
    let count = plan.many();
    let admin = rig::admin(&deployment).await?;
    entries::fill(&admin, 0, count, fleet::ALIAS).await?;
    let full = usage::resident_bytes(rig::server_pid(&deployment)?)?;
    let spire = SPIRE_BASE_MIB + SPIRE_ENTRY_MIB * float(count);
    let what = format!("server, after {count} entries were created (SPIRE's as limit)");
    report.held(FIGURE, what, Limit::AtMost(spire), full / MIB, "MiB");
    report.told(
        FIGURE,
        "server, for each entry created",
        (full - base) / float(count) / 1024.0,
        "KiB",
    );
    if let Some(server) = &mut deployment.server {
        server.terminate().await?;
    }
    let begun = Instant::now();
    deployment.start_server().await?;
    let started = begun.elapsed().as_secs_f64();
    let what = format!("server with {count} entries starts, until healthy");
    report.held(FIGURE, what, Limit::AtMost(slowness), started, "s");
    sleep(CALM).await;
    let again = usage::resident_bytes(rig::server_pid(&deployment)?)?;
    let what = format!("server, started with {count} entries (SPIRE's as limit)");
    report.held(FIGURE, what, Limit::AtMost(spire), again / MIB, "MiB");
    report.told(
        FIGURE,
        "server, for each entry there",
        (again - base) / float(count) / 1024.0,
        "KiB",
    );
    Ok(())
}

async fn agent(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let count = plan.pick(10_000, 100);
    let config = format!("{}[cache]\nx509_svids = {count}\n", rig::AGENT_LIMITS);
    let deployment = Deployment::configured(rig::SERVER_LIMITS, &config).await?;
    let admin = rig::admin(&deployment).await?;
    sleep(CALM).await;
    let pid = rig::agent_pid(&deployment)?;
    let base = usage::resident_bytes(pid)?;
    report.held(FIGURE, "agent, empty", Limit::AtMost(20.0), base / MIB, "MiB");
    entries::fill(&admin, 0, count, fleet::ALIAS).await?;
    let begun = Instant::now();
    let all = async {
        loop {
            let cached = rig::agent_health(&deployment).await?.cached_svids;
            if usize::try_from(cached).is_ok_and(|cached| cached >= count) {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, all).await??;
    report.told(
        FIGURE,
        format!("agent has {count} SVIDs after"),
        begun.elapsed().as_secs_f64(),
        "s",
    );
    sleep(CALM).await;
    let each = (usage::resident_bytes(pid)? - base) / float(count) / 1024.0;
    report.held(
        FIGURE,
        format!("agent, for each of {count} SVIDs"),
        Limit::AtMost(4.0),
        each,
        "KiB",
    );
    Ok(())
}
