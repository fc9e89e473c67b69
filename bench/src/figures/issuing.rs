//! Figure 1: X.509-SVIDs over mTLS gRPC in batches, every CSR another one and every CSR verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;
use vouchsafe_identity::KeyAlgorithm;
use vouchsafe_identity::key::LocalKey;
use vouchsafe_identity::x509::csr;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{BatchNewX509svidRequest, NewX509svidParams};

use super::float;
use crate::bare_issuer::BareIssuer;
use crate::plan::Plan;
use crate::raw::{Raw, cores};
use crate::report::{Limit, Report, Times};
use crate::{entries, fleet, rig, usage};

const FIGURE: u8 = 1;
/// As in the measurement of SPIRE.
const CONNECTIONS: usize = 8;
const CSRS_A_REQUEST: usize = 50;

/// What a connection works off: requests that were made before the load begins.
type Requests = Arc<(Arc<Vec<BatchNewX509svidRequest>>, AtomicUsize)>;

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment = rig::server().await?;
    let admin = rig::admin(&deployment).await?;
    let members = fleet::join(&deployment, &admin, CONNECTIONS).await?;
    let ids = entries::fill(&admin, 0, plan.few(), fleet::ALIAS).await?;
    let (count, ids) = (plan.pick(4_000, 80), Arc::new(ids));
    let made = tokio::task::spawn_blocking(move || requests(count, &ids)).await??;
    let made = Arc::new(made);
    let requests: Requests = Arc::new((Arc::clone(&made), AtomicUsize::new(0)));
    let channels = members
        .iter()
        .map(fleet::Member::channel)
        .collect::<anyhow::Result<Vec<_>>>()?;
    // The first request of each connection brings the handshake with it.
    work(&channels, &requests, CONNECTIONS, Duration::MAX).await?;
    let before = Raw::measure(plan).await?;
    let pid = rig::server_pid(&deployment)?;
    let (spent, begun) = (usage::processor(pid)?, Instant::now());
    let times = work(&channels, &requests, usize::MAX, plan.load()).await?;
    let took = begun.elapsed();
    let spent = usage::processor(pid)? - spent;
    let after = Raw::measure(plan).await?;
    let raw = before.mean(after);
    let issued = float(times.count() * CSRS_A_REQUEST);
    let each_us = spent.as_secs_f64() * 1e6 / issued;
    let rate = issued / took.as_secs_f64();
    report.told(
        FIGURE,
        "raw CSR verify + sign, before the load",
        before.issue_us(),
        "µs CPU",
    );
    report.told(
        FIGURE,
        "raw CSR verify + sign, after the load",
        after.issue_us(),
        "µs CPU",
    );
    report.told(FIGURE, "X.509-SVID issued, server's CPU", each_us, "µs CPU");
    report.held(
        FIGURE,
        "X.509-SVID: CPU ÷ raw verify + sign",
        Limit::AtMost(1.25),
        each_us / raw.issue_us(),
        "×",
    );
    report.told(FIGURE, "X.509-SVIDs, 8 connections × 50 CSRs", rate, "a second");
    report.held(
        FIGURE,
        format!("X.509-SVIDs: share of the limit of {} cores", cores()),
        Limit::AtLeast(75.0),
        100.0 * rate / raw.issues_a_second(),
        "%",
    );
    report.told(FIGURE, "request of 50 CSRs, p50", times.percentile_ms(50), "ms");

    floor(plan, report, made, (each_us, raw)).await
}

/// The same load on a server that does nothing but the raw cryptography.
async fn floor(
    plan: &Plan,
    report: &mut Report,
    made: Arc<Vec<BatchNewX509svidRequest>>,
    (each_us, raw): (f64, Raw),
) -> anyhow::Result<()> {
    let bare = BareIssuer::start().await?;
    let channels = bare.channels(CONNECTIONS)?;
    let requests: Requests = Arc::new((made, AtomicUsize::new(0)));
    work(&channels, &requests, CONNECTIONS, Duration::MAX).await?;
    let spent = usage::processor(bare.pid()?)?;
    let times = work(&channels, &requests, usize::MAX, plan.load()).await?;
    let spent = usage::processor(bare.pid()?)? - spent;
    let floor_us = spent.as_secs_f64() * 1e6 / float(times.count() * CSRS_A_REQUEST);
    report.told(
        FIGURE,
        "bare mTLS server that only verifies and signs: CPU ÷ raw",
        floor_us / raw.issue_us(),
        "×",
    );
    report.told(
        FIGURE,
        "X.509-SVID: server's CPU ÷ that of the bare one",
        each_us / floor_us,
        "×",
    );
    Ok(())
}

/// Sends requests that were not sent yet over all connections, at most `most` of them and for at most `limit`.
async fn work(
    channels: &[Channel],
    requests: &Requests,
    most: usize,
    limit: Duration,
) -> anyhow::Result<Times> {
    let begun = Instant::now();
    let until = requests.1.load(Ordering::Relaxed).saturating_add(most);
    let mut tasks = JoinSet::new();
    for channel in channels {
        let (mut client, requests) = (SvidClient::new(channel.clone()), Arc::clone(requests));
        tasks.spawn(async move {
            let mut times = Vec::new();
            while begun.elapsed() < limit {
                let at = requests.1.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.0.get(at).filter(|_| at < until) else {
                    break;
                };
                let asked = Instant::now();
                let answer = client.batch_new_x509svid(request.clone()).await?.into_inner();
                times.push(asked.elapsed());
                let issued = answer.results.iter().filter(|result| result.svid.is_some());
                ensure!(issued.count() == CSRS_A_REQUEST, "a CSR was refused");
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        times.extend(ended??);
    }
    // What the last ones took and did not send.
    requests.1.fetch_min(until, Ordering::Relaxed);
    Ok(times.into())
}

/// Requests in which no CSR comes twice, made on all cores.
fn requests(count: usize, ids: &[String]) -> anyhow::Result<Vec<BatchNewX509svidRequest>> {
    let one = |place: usize| -> anyhow::Result<NewX509svidParams> {
        let key = LocalKey::generate("load", KeyAlgorithm::EcP256)?;
        Ok(NewX509svidParams {
            entry_id: ids.get(place % ids.len()).context("no entry")?.clone(),
            csr: csr::create(&key, None, &[])?,
        })
    };
    let part = |from: usize| -> anyhow::Result<Vec<BatchNewX509svidRequest>> {
        let mine = (from..count).step_by(cores());
        mine.map(|request| {
            let params = (0..CSRS_A_REQUEST).map(|n| one(request * CSRS_A_REQUEST + n));
            Ok(BatchNewX509svidRequest {
                params: params.collect::<anyhow::Result<_>>()?,
            })
        })
        .collect()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores()).map(|from| scope.spawn(move || part(from))).collect();
        let mut all = Vec::with_capacity(count);
        for thread in threads {
            all.extend(thread.join().ok().context("a thread panicked")??);
        }
        Ok(all)
    })
}
