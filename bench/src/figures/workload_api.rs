//! Figure 3: the Workload API, attestation of the caller included, beside a bare server that answers the same bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::process::Child;
use tonic::Streaming;
use vouchsafe_proto::workload::X509svidResponse;

use super::float;
use crate::bare::Kind;
use crate::daemons::Deployment;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report};
use crate::wait::until;
use crate::workload::{self, Ask, Load};
use crate::{bare, entries, fleet, rig, usage};

const FIGURE: u8 = 3;
const CALLERS: usize = 4;
/// Turns of each server: both meet the same moods of the machine.
const TURNS: u32 = 6;
/// Of what the bare server that attests reaches, in percent.
const LEAST_SHARE: f64 = 60.0;

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
    let (bare, bare_socket) = bare::start(Kind::Plain, folder.path(), &answer, &token).await?;
    let (floor, floor_socket) = bare::start(Kind::Attesting, folder.path(), &answer, &token).await?;
    let target = |socket: &Path, pid| Target {
        socket: socket.to_owned(),
        pid,
    };
    let targets = Targets {
        agent: target(&socket, rig::agent_pid(&deployment)?),
        floor: target(&floor_socket, pid(&floor)?),
        bare: target(&bare_socket, pid(&bare)?),
    };

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
    compare(plan, report, what, Ask::X509, &targets).await?;
    let what = "FetchJWTSVID, cached, 4 callers";
    compare(plan, report, what, Ask::Jwt, &targets).await?;

    let open = plan.pick(1_000, 50);
    let _held = (
        hold(&socket, open).await?,
        hold(&floor_socket, open).await?,
        hold(&bare_socket, open).await?,
    );
    let what = format!("FetchX509SVID, 4 callers, {open} open streams");
    compare(plan, report, &what, Ask::X509, &targets).await?;
    let what = format!("FetchJWTSVID, 4 callers, {open} open streams");
    compare(plan, report, &what, Ask::Jwt, &targets).await
}

/// A server under load.
struct Target {
    socket: PathBuf,
    pid: i32,
}

/// The servers that are compared.
struct Targets {
    agent: Target,
    /// Does what cannot be left out, and nothing else.
    floor: Target,
    /// Answers whoever calls.
    bare: Target,
}

fn pid(server: &Child) -> anyhow::Result<i32> {
    Ok(server.id().context("a bare server is down")?.try_into()?)
}

/// What one server did in all its turns, and what it and its callers spent on that.
#[derive(Default)]
struct Turns {
    load: Load,
    server: Duration,
    callers: Duration,
}

impl Turns {
    async fn add(&mut self, target: &Target, ask: Ask, turn: Duration) -> anyhow::Result<()> {
        let own = i32::try_from(std::process::id())?;
        let (server, callers) = (usage::processor(target.pid)?, usage::processor(own)?);
        self.load
            .add(workload::load(&target.socket, ask, CALLERS, turn).await?);
        self.server += usage::processor(target.pid)? - server;
        self.callers += usage::processor(own)? - callers;
        Ok(())
    }

    /// Microseconds of a processor for each call.
    fn each_us(&self, spent: Duration) -> f64 {
        spent.as_secs_f64() * 1e6 / float(self.load.times.len())
    }

    fn tell(&self, report: &mut Report, what: &str) {
        report.told(FIGURE, what, self.load.rate(), "a second");
        let server = self.each_us(self.server);
        report.told(FIGURE, format!("{what}: its CPU a call"), server, "µs CPU");
        let callers = self.each_us(self.callers);
        report.told(
            FIGURE,
            format!("{what}: its callers' CPU a call"),
            callers,
            "µs CPU",
        );
    }
}

/// All servers by turns under the same load.
async fn compare(
    plan: &Plan,
    report: &mut Report,
    what: &str,
    ask: Ask,
    targets: &Targets,
) -> anyhow::Result<()> {
    let turn: Duration = plan.load() / TURNS;
    let (mut ours, mut floor, mut bare) = (Turns::default(), Turns::default(), Turns::default());
    for _ in 0..TURNS {
        ours.add(&targets.agent, ask, turn).await?;
        floor.add(&targets.floor, ask, turn).await?;
        bare.add(&targets.bare, ask, turn).await?;
    }
    bare.tell(report, &format!("{what}: bare server"));
    floor.tell(report, &format!("{what}: bare server that attests"));
    ours.tell(report, &format!("{what}: agent"));
    let times = ours.load.times();
    for percent in [50, 99] {
        let what = format!("{what}: agent, p{percent}");
        report.told(FIGURE, what, times.percentile_ms(percent), "ms");
    }
    let share = |of: &Turns| 100.0 * ours.load.rate() / of.load.rate();
    report.told(FIGURE, format!("{what}: agent ÷ bare"), share(&bare), "%");
    report.held(
        FIGURE,
        format!("{what}: agent ÷ bare that attests"),
        Limit::AtLeast(LEAST_SHARE),
        share(&floor),
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
