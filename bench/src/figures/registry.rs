//! Figure 6: durable writes: entries one at a time, by 64 writers and in batches, with few entries there and with many;
//! and nodes that join.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::float;
use crate::daemons::Deployment;
use crate::fleet::{self, Home};
use crate::plan::Plan;
use crate::report::{Limit, Report, Times};
use crate::{entries, rig, usage};

const FIGURE: u8 = 6;
const WRITERS: usize = 64;
const JOINING: usize = 16;
/// Entries by which the run goes on towards a million, and how long it does so at most.
const MILLION: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(240);
const MIB: f64 = 1024.0 * 1024.0;

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment = rig::server().await?;
    let admin = rig::admin(&deployment).await?;
    let pid = rig::server_pid(&deployment)?;
    let syncs = syncs_a_second(&deployment.path("syncs"), plan).await?;
    report.told(
        FIGURE,
        "writes of 1 KiB with fdatasync, one writer",
        syncs,
        "a second",
    );
    let next = Arc::new(AtomicUsize::new(0));
    let mut rates = Vec::new();
    for count in [plan.few(), plan.many()] {
        fill(&admin, &next, count).await?;
        let single = create(&admin, &next, 1, 1, plan.load() / 2).await?;
        let (spent, from) = (usage::processor(pid)?, next.load(Ordering::Relaxed));
        let batch = create(&admin, &next, 1, entries::BATCH, plan.load() / 2).await?;
        let spent = usage::processor(pid)?.saturating_sub(spent);
        let each = spent.as_secs_f64() * 1e6 / float(next.load(Ordering::Relaxed) - from);
        let what = format!("entries created, {count} there");
        report.told(FIGURE, format!("{what}, one at a time"), single.0, "a second");
        report.told(
            FIGURE,
            format!("{what}, one at a time, p99"),
            single.1.percentile_ms(99),
            "ms",
        );
        report.told(FIGURE, format!("{what}, batches of 500"), batch.0, "a second");
        let cost = format!("{what}, batches of 500: server's CPU for each");
        report.told(FIGURE, cost, each, "µs");
        rates.push((single.0, batch.0));
    }
    if let [few, many] = rates.as_slice() {
        let what = "entry creation, few there ÷ many there";
        report.held(
            FIGURE,
            format!("{what}, one at a time"),
            Limit::AtMost(2.0),
            few.0 / many.0,
            "×",
        );
        report.held(
            FIGURE,
            format!("{what}, batches of 500"),
            Limit::AtMost(2.0),
            few.1 / many.1,
            "×",
        );
    }
    let many = create(&admin, &next, WRITERS, 1, plan.load() / 2).await?;
    report.told(
        FIGURE,
        "acknowledged durable writes, 64 writers",
        many.0,
        "a second",
    );
    let (rate, times) = attest(&deployment, &admin, plan.pick(2_000, 50)).await?;
    report.told(FIGURE, "nodes attested, token and attestation", rate, "a second");
    report.told(FIGURE, "node attested, p50", times.percentile_ms(50), "ms");
    match plan.quick {
        true => Ok(()),
        false => towards_a_million(&deployment, &admin, &next, report).await,
    }
}

/// Brings the number of entries to `count`.
async fn fill(admin: &Channel, next: &AtomicUsize, count: usize) -> anyhow::Result<()> {
    let there = next.fetch_max(count, Ordering::Relaxed);
    if there < count {
        entries::fill(admin, there, count, fleet::ALIAS).await?;
    }
    Ok(())
}

/// Entries a second that so many writers create in requests of `size`, and how long a request took.
async fn create(
    admin: &Channel,
    next: &Arc<AtomicUsize>,
    writers: usize,
    size: usize,
    limit: Duration,
) -> anyhow::Result<(f64, Times)> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        let (admin, next) = (admin.clone(), Arc::clone(next));
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < limit {
                let from = next.fetch_add(size, Ordering::Relaxed);
                let asked = Instant::now();
                entries::fill(&admin, from, from + size, fleet::ALIAS).await?;
                times.push(asked.elapsed());
            }
            Ok(times)
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let ended: anyhow::Result<Vec<Duration>> = ended?;
        times.extend(ended?);
    }
    let rate = float(times.len() * size) / begun.elapsed().as_secs_f64();
    Ok((rate, times.into()))
}

/// Nodes a second that join, and how long one took, its token included.
async fn attest(deployment: &Deployment, admin: &Channel, count: usize) -> anyhow::Result<(f64, Times)> {
    let home = Home::of(deployment).await?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..JOINING {
        let (home, admin) = (home.clone(), admin.clone());
        tasks.spawn(async move {
            let mut times = Vec::new();
            for _ in 0..count.div_ceil(JOINING) {
                let asked = Instant::now();
                home.join(Home::token(&admin).await?).await?;
                times.push(asked.elapsed());
            }
            Ok(times)
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let ended: anyhow::Result<Vec<Duration>> = ended?;
        times.extend(ended?);
    }
    Ok((float(times.len()) / begun.elapsed().as_secs_f64(), times.into()))
}

/// What the embedded store does on the way to a million entries; it ends where patience does.
async fn towards_a_million(
    deployment: &Deployment,
    admin: &Channel,
    next: &AtomicUsize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut last_rate = 0.0;
    let mut there = next.load(Ordering::Relaxed);
    while there < MILLION && begun.elapsed() < PATIENCE {
        let (from, asked) = (there, Instant::now());
        there = (from + 20 * entries::BATCH).min(MILLION);
        entries::fill(admin, from, there, fleet::ALIAS).await?;
        last_rate = float(there - from) / asked.elapsed().as_secs_f64();
    }
    next.store(there, Ordering::Relaxed);
    report.told(
        FIGURE,
        "towards a million: entries reached",
        float(there),
        "entries",
    );
    report.told(
        FIGURE,
        "towards a million: created at the end, batches of 500",
        last_rate,
        "a second",
    );
    let pid = rig::server_pid(deployment)?;
    report.told(
        FIGURE,
        "towards a million: server's memory",
        usage::resident_bytes(pid)? / MIB,
        "MiB",
    );
    Ok(())
}

/// How often a second the disk takes a write of 1 KiB for good: the limit for one writer.
async fn syncs_a_second(path: &Path, plan: &Plan) -> anyhow::Result<f64> {
    let (path, turn) = (path.to_owned(), plan.load() / 6);
    let measured = tokio::task::spawn_blocking(move || {
        let file = File::create(&path)?;
        file.write_all_at(&[0; 1 << 20], 0)?;
        file.sync_all()?;
        let begun = Instant::now();
        let mut written = 0_u32;
        while begun.elapsed() < turn {
            file.write_all_at(&[7; 1024], u64::from(written % 1024) * 1024)?;
            file.sync_data()?;
            written += 1;
        }
        std::io::Result::Ok(f64::from(written) / begun.elapsed().as_secs_f64())
    });
    Ok(measured.await??)
}
