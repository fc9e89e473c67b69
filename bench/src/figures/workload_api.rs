//! Figure 3: the Workload API, attestation of the caller included, beside a bare server that answers the same bytes.

use std::path::Path;
use std::time::Duration;

use tonic::Streaming;
use vouchsafe_proto::workload::X509svidResponse;

use crate::daemons::Deployment;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report};
use crate::wait::until;
use crate::workload::{self, Ask, Load};
use crate::{bare, entries, fleet, rig};

const FIGURE: u8 = 3;
const CALLERS: usize = 4;
/// Turns of each server: both meet the same moods of the machine.
const TURNS: u32 = 6;

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment = Deployment::configured(rig::SERVER_LIMITS, rig::AGENT_LIMITS).await?;
    let admin = rig::admin(&deployment).await?;
    entries::fill(&admin, 0, plan.few(), fleet::ALIAS).await?;
    let own = entries::entry("/bench", fleet::ALIAS, &workload::own_selectors()?);
    entries::create(&admin, vec![own]).await?;
    let socket = deployment.workload_socket();
    let answer = until("this process gets its SVID", async || {
        workload::x509(&socket).await.ok()
    })
    .await?;
    let token = workload::jwt(&rig::socket(&socket).await?).await?;
    let folder = tempfile::tempdir()?;
    let (_bare, bare_socket) = bare::start(folder.path(), &answer, &token).await?;

    let slowness = Raw::measure(plan).await?.slowness();
    report.told(
        FIGURE,
        "this machine, by its signing (absolute limits grow by it)",
        slowness,
        "×",
    );
    let alone = workload::load(&socket, Ask::X509, 1, plan.load()).await?;
    let times = alone.times();
    let what = "FetchX509SVID, new connection, one caller";
    report.held(
        FIGURE,
        format!("{what}, p50"),
        Limit::AtMost(slowness),
        times.percentile_ms(50),
        "ms",
    );
    report.held(
        FIGURE,
        format!("{what}, p99"),
        Limit::AtMost(3.0 * slowness),
        times.percentile_ms(99),
        "ms",
    );
    let what = "FetchX509SVID, new connections, 4 callers";
    compare(plan, report, what, Ask::X509, [&socket, &bare_socket]).await?;
    let what = "FetchJWTSVID, cached, 4 callers";
    compare(plan, report, what, Ask::Jwt, [&socket, &bare_socket]).await?;

    let open = plan.pick(1_000, 50);
    let _held = (hold(&socket, open).await?, hold(&bare_socket, open).await?);
    let what = format!("FetchX509SVID, 4 callers, {open} open streams");
    compare(plan, report, &what, Ask::X509, [&socket, &bare_socket]).await?;
    let what = format!("FetchJWTSVID, 4 callers, {open} open streams");
    compare(plan, report, &what, Ask::Jwt, [&socket, &bare_socket]).await
}

/// Both servers by turns under the same load.
async fn compare(
    plan: &Plan,
    report: &mut Report,
    what: &str,
    ask: Ask,
    [agent, bare]: [&Path; 2],
) -> anyhow::Result<()> {
    let turn: Duration = plan.load() / TURNS;
    let (mut ours, mut theirs) = (Load::default(), Load::default());
    for _ in 0..TURNS {
        ours.add(workload::load(agent, ask, CALLERS, turn).await?);
        theirs.add(workload::load(bare, ask, CALLERS, turn).await?);
    }
    report.told(FIGURE, format!("{what}: bare server"), theirs.rate(), "a second");
    report.told(FIGURE, format!("{what}: agent"), ours.rate(), "a second");
    report.told(
        FIGURE,
        format!("{what}: agent, p50"),
        ours.times().percentile_ms(50),
        "ms",
    );
    report.told(
        FIGURE,
        format!("{what}: agent, p99"),
        ours.times().percentile_ms(99),
        "ms",
    );
    report.held(
        FIGURE,
        format!("{what}: agent ÷ bare"),
        Limit::AtLeast(40.0),
        100.0 * ours.rate() / theirs.rate(),
        "%",
    );
    Ok(())
}

/// Streams that have had their first message and stay open.
async fn hold(socket: &Path, count: usize) -> anyhow::Result<Vec<Streaming<X509svidResponse>>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = workload::stream(socket).await?;
        workload::message(&mut stream).await?;
        held.push(stream);
    }
    Ok(held)
}
