//! Figure 9: what it costs to be a run. A program that fetches its X.509-SVID and ends, started plainly and by
//! `vouchsafe run`, by turns: from the start of the first process to the end of the last.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::daemons::{Deployment, NODE, binary};
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report, Times};
use crate::rig;
use crate::wait::DEADLINE;

const FIGURE: u8 = 9;
/// How much longer a run may take than a plain start, in milliseconds.
const MOST_ADDED_MS: f64 = 20.0;
/// Runs that are launched at once.
const AT_ONCE: usize = 8;
/// Uids that nobody has.
const POOL: &str = "{ first_uid = 61800, last_uid = 61899 }";

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let slowness = Raw::measure(plan).await?.slowness();
    let rig = Rig::start().await?;
    let rounds: usize = plan.pick(60, 3);
    let (mut plain, mut runs) = (Vec::new(), Vec::new());
    rig.run().await?;
    for _ in 0..rounds {
        plain.push(rig.plain().await?);
        runs.push(rig.run().await?);
    }
    let (plain, runs) = (Times::from(plain), Times::from(runs));
    let (plain_ms, run_ms) = (plain.percentile_ms(50), runs.percentile_ms(50));
    report.told(FIGURE, "plain start → SVID fetched, p50", plain_ms, "ms");
    report.told(FIGURE, "vouchsafe run → SVID fetched, p50", run_ms, "ms");
    report.told(
        FIGURE,
        "vouchsafe run → SVID fetched, p99",
        runs.percentile_ms(99),
        "ms",
    );
    let limit = Limit::AtMost(MOST_ADDED_MS * slowness);
    report.held(FIGURE, "what a run adds, p50", limit, run_ms - plain_ms, "ms");
    let begun = Instant::now();
    for _ in 0..rounds.div_ceil(AT_ONCE) {
        try_join_all((0..AT_ONCE).map(|_| rig.run())).await?;
    }
    let count = super::float(rounds.div_ceil(AT_ONCE) * AT_ONCE);
    let rate = count / begun.elapsed().as_secs_f64();
    report.told(FIGURE, format!("runs, {AT_ONCE} at once"), rate, "a second");
    Ok(())
}

/// The daemons, with a class of the command line's own program.
struct Rig {
    at: Deployment,
    program: String,
    launch: String,
    workload: String,
}

impl Rig {
    async fn start() -> anyhow::Result<Self> {
        let mut at = Deployment::server_alone(rig::SERVER_LIMITS).await?;
        let (launch, programs) = (at.path("launch.sock"), at.path("programs"));
        let config = format!(
            "{}[launch]\nsocket = {launch:?}\nprograms_dir = {programs:?}\n",
            rig::AGENT_LIMITS
        );
        at.configure_agent(&config);
        at.join().await?;
        let program = binary("vouchsafe")?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&program)?);
        let program = program.display().to_string();
        let class = format!(
            "any_node = true\nlaunchers = [\"uid:0\"]\nmax_runs = 100\nuser = {POOL}\n[program]\n\
             executable = {{ path = {program:?}, sha256 = \"{}\" }}\nextra_args = true\n",
            hex::encode(digest)
        );
        let file = at.path("class.toml");
        std::fs::write(&file, class)?;
        let file = file.display().to_string();
        let id = "spiffe://example.org/agent/bench";
        at.json(&["class", "create", "bench", "--id", id, "--file", &file])
            .await?;
        let plain = "spiffe://example.org/plain";
        let entry = [
            "entry",
            "create",
            "--parent-id",
            NODE,
            "--spiffe-id",
            plain,
            "--selector",
            "unix:uid:0",
        ];
        at.json(&entry).await?;
        let workload = at.workload_socket().display().to_string();
        let launch = launch.display().to_string();
        let rig = Self {
            at,
            program,
            launch,
            workload,
        };
        timeout(DEADLINE, async { while rig.plain().await.is_err() {} })
            .await
            .with_context(|| rig.at.logs())?;
        Ok(rig)
    }

    /// The program, as it is started either way.
    fn fetch(&self) -> [&str; 5] {
        [&self.program, "--workload-socket", &self.workload, "svid", "x509"]
    }

    async fn plain(&self) -> anyhow::Result<Duration> {
        self.time(&self.fetch()).await
    }

    async fn run(&self) -> anyhow::Result<Duration> {
        let run = [
            &self.program,
            "--launch-socket",
            &self.launch,
            "run",
            "--class",
            "bench",
            "--",
        ];
        self.time(&[&run[..], &self.fetch()].concat()).await
    }

    async fn time(&self, command: &[&str]) -> anyhow::Result<Duration> {
        let (program, arguments) = command.split_first().context("no command")?;
        let mut command = Command::new(Path::new(program));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let begun = Instant::now();
        let output = timeout(DEADLINE, command.stderr(Stdio::piped()).output()).await??;
        let took = begun.elapsed();
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }
}
