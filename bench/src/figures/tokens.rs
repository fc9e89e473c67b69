//! Figure 2: JWT-SVIDs over mTLS gRPC, one a call.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::svid::v1::NewJwtsvidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;

use super::float;
use crate::bare_issuer::BareIssuer;
use crate::plan::Plan;
use crate::raw::Raw;
use crate::report::{Limit, Report, Times};
use crate::{entries, fleet, rig, usage};

const FIGURE: u8 = 2;
/// Connections, and calls at a time on each: one, as SPIRE was measured; more, as agents with many workloads call; and
/// one on each of many, as many agents with few.
const LOADS: [(usize, usize); 4] = [(8, 1), (8, 8), (8, 32), (64, 1)];
const MOST_CONNECTIONS: usize = 64;

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment = rig::server().await?;
    let admin = rig::admin(&deployment).await?;
    let members = fleet::join(&deployment, &admin, MOST_CONNECTIONS).await?;
    let ids: Arc<[String]> = entries::fill(&admin, 0, plan.few(), fleet::ALIAS).await?.into();
    let channels = members
        .iter()
        .map(fleet::Member::channel)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let pid = rig::server_pid(&deployment)?;
    let first = plan.pick(Duration::from_millis(500), Duration::from_millis(50));
    work(&channels, &ids, 1, first).await?;
    let bare = BareIssuer::start().await?;
    let bare_channels = bare.channels(MOST_CONNECTIONS)?;
    work(&bare_channels, &ids, 1, first).await?;
    for (connections, at_once) in LOADS {
        let channels = channels.get(..connections).context("too few connections")?;
        let before = Raw::measure(plan).await?;
        let (spent, begun) = (usage::processor(pid)?, Instant::now());
        let times = work(channels, &ids, at_once, plan.load()).await?;
        let rate = float(times.count()) / begun.elapsed().as_secs_f64();
        let each_us = (usage::processor(pid)? - spent).as_secs_f64() * 1e6 / float(times.count());
        let after = Raw::measure(plan).await?;
        let what = format!("{connections} connections × {at_once}");
        let raw = before.mean(after).es256.processor_us;
        report.told(
            FIGURE,
            format!("raw ES256, before ({what})"),
            before.es256.processor_us,
            "µs CPU",
        );
        report.told(
            FIGURE,
            format!("raw ES256, after ({what})"),
            after.es256.processor_us,
            "µs CPU",
        );
        report.told(
            FIGURE,
            format!("JWT-SVID issued, server's CPU ({what})"),
            each_us,
            "µs CPU",
        );
        report.held(
            FIGURE,
            format!("JWT-SVID: CPU ÷ raw ES256 ({what})"),
            Limit::AtMost(3.0),
            each_us / raw,
            "×",
        );
        report.told(FIGURE, format!("JWT-SVIDs ({what})"), rate, "a second");
        let bare_channels = bare_channels.get(..connections).context("too few connections")?;
        let bare = (bare.pid()?, bare_channels);
        floor(plan, report, bare, (&ids, at_once), (each_us, raw)).await?;
        report.told(
            FIGURE,
            format!("JWT-SVID, p50 ({what})"),
            times.percentile_ms(50),
            "ms",
        );
        report.told(
            FIGURE,
            format!("JWT-SVID, p99 ({what})"),
            times.percentile_ms(99),
            "ms",
        );
    }
    Ok(())
}

/// The same load on a server that does nothing but sign.
async fn floor(
    plan: &Plan,
    report: &mut Report,
    (pid, channels): (i32, &[Channel]),
    (ids, at_once): (&Arc<[String]>, usize),
    (each_us, raw): (f64, f64),
) -> anyhow::Result<()> {
    let (spent, begun) = (usage::processor(pid)?, Instant::now());
    let answered = work(channels, ids, at_once, plan.load()).await?;
    let rate = float(answered.count()) / begun.elapsed().as_secs_f64();
    let floor_us = (usage::processor(pid)? - spent).as_secs_f64() * 1e6 / float(answered.count());
    let what = format!("{} connections × {at_once}", channels.len());
    let bare = "bare mTLS server that only signs";
    report.told(
        FIGURE,
        format!("{bare}: CPU ÷ raw ES256 ({what})"),
        floor_us / raw,
        "×",
    );
    report.told(FIGURE, format!("{bare} ({what})"), rate, "a second");
    report.told(
        FIGURE,
        format!("JWT-SVID: server's CPU ÷ that of the bare one ({what})"),
        each_us / floor_us,
        "×",
    );
    Ok(())
}

async fn work(
    channels: &[Channel],
    ids: &Arc<[String]>,
    at_once: usize,
    limit: Duration,
) -> anyhow::Result<Times> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..channels.len() * at_once {
        let channel = channels.get(caller % channels.len()).context("no connection")?;
        let mut client = SvidClient::new(channel.clone());
        let ids: Arc<[String]> = Arc::clone(ids);
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < limit {
                let mine = ids.get((caller + times.len()) % ids.len());
                let request = NewJwtsvidRequest {
                    entry_id: mine.context("no entry")?.clone(),
                    audience: vec!["bench".to_owned()],
                };
                let asked = Instant::now();
                let answer = client.new_jwtsvid(request).await?.into_inner();
                times.push(asked.elapsed());
                ensure!(answer.svid.is_some(), "an answer without an SVID");
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        times.extend(ended??);
    }
    Ok(times.into())
}
