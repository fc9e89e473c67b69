//! Figure 5: a fleet of agents that follow one server, each on an mTLS connection and a gRPC stream of its own, all
//! from this one process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use vouchsafe_agent::random::Backoff;
use vouchsafe_agent::upstream::UpstreamError;
use vouchsafe_proto::spire::api::types::Entry;
use vouchsafe_proto::vouchsafe::sync::v1::sync_client::SyncClient;
use vouchsafe_proto::vouchsafe::sync::v1::{
    FollowRequest, Hello, ResumePoint, change, follow_request, follow_response,
};
use vouchsafe_runtime::Clock;

use super::float;
use crate::daemons::Deployment;
use crate::fleet::{self, Home, Member};
use crate::plan::Plan;
use crate::report::{Limit, Report, Times};
use crate::wait::DEADLINE;
use crate::{entries, rig, usage};

const FIGURE: u8 = 5;
/// Agents that join at a time.
const JOINING: usize = 16;
/// Changes a second that concern one agent each.
const CHANGES_A_SECOND: u32 = 100;
/// First and longest wait before an agent that was turned away comes again, where the server does not say.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const MIB: f64 = 1024.0 * 1024.0;

/// What a follower tells.
#[derive(Debug)]
enum Heard {
    /// It is in step: it has a resume point on a new stream.
    InStep(Instant),
    /// An entry of this path came.
    Put(String, Instant),
    /// It was turned away, or lost its stream.
    Away,
}

type Heards = mpsc::UnboundedReceiver<Heard>;

/// One simulated agent.
#[derive(Debug, Clone)]
struct Follower {
    member: Member,
    resume: Arc<Mutex<Option<ResumePoint>>>,
}

pub(super) async fn measure(plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let deployment = rig::server().await?;
    let admin = rig::admin(&deployment).await?;
    let pid = rig::server_pid(&deployment)?;
    let count = plan.pick(5_000, 50);
    let followers = join(&deployment, &admin, count).await?;
    entries::fill(&admin, 0, plan.few(), "/node/other").await?;

    let before = usage::resident_bytes(pid)?;
    let (fleet, mut heard) = start(&followers);
    in_step(&mut heard, count).await?;
    let rest = plan.pick(Duration::from_secs(10), Duration::from_secs(1));
    let (used, ()) = spent(pid, sleep(rest)).await?;
    let each = (usage::resident_bytes(pid)? - before) / float(count);
    report.told(
        FIGURE,
        format!("server's memory for each of {count} agents"),
        each / 1024.0,
        "KiB",
    );
    report.told(
        FIGURE,
        format!("CPU of one core at rest, {count} agents"),
        used,
        "%",
    );

    let changes = plan.pick(1_000, 50);
    let (used, sent) = spent(pid, changes_of_one(&admin, &followers, changes)).await?;
    let times = arrivals(&mut heard, &sent?).await?;
    let limit = Limit::AtMost(50.0);
    report.held(
        FIGURE,
        "CPU of one core, 100 changes a second that concern one",
        limit,
        used,
        "%",
    );
    report.told(FIGURE, "such a change heard, p50", times.percentile_ms(50), "ms");
    report.told(FIGURE, "such a change heard, p99", times.percentile_ms(99), "ms");

    let asked = Instant::now();
    entries::create(&admin, vec![entries::nth(2_000_000, fleet::ALIAS)]).await?;
    let last = all_hear(&mut heard, count, "/agent/2000000").await?;
    let limit = Limit::AtMost(2.0);
    report.held(
        FIGURE,
        "one change that concerns all heard by all",
        limit,
        (last - asked).as_secs_f64(),
        "s",
    );

    drop(fleet);
    let (asked, (_fleet, mut heard)) = (Instant::now(), start(&followers));
    let (last, away) = in_step(&mut heard, count).await?;
    report.told(
        FIGURE,
        "all reconnect at once: all in step",
        (last - asked).as_secs_f64(),
        "s",
    );
    report.told(
        FIGURE,
        "all reconnect at once: turned away for a moment",
        float(away),
        "times",
    );
    report.told(
        FIGURE,
        "server's memory after it",
        usage::resident_bytes(pid)? / MIB,
        "MiB",
    );
    Ok(())
}

/// Agents that have joined.
async fn join(deployment: &Deployment, admin: &Channel, count: usize) -> anyhow::Result<Vec<Follower>> {
    let home = Home::of(deployment).await?;
    let mut joining = JoinSet::new();
    let mut members = Vec::with_capacity(count);
    for n in 0..count {
        if n >= JOINING {
            members.push(joining.join_next().await.context("nobody joins")???);
        }
        let (home, admin) = (home.clone(), admin.clone());
        joining.spawn(async move { home.join(Home::token(&admin).await?).await });
    }
    while let Some(member) = joining.join_next().await {
        members.push(member??);
    }
    let follower = |member| Follower {
        member,
        resume: Arc::default(),
    };
    Ok(members.into_iter().map(follower).collect())
}

/// Lets all follow, each from where it was before. They stop when the set is dropped.
fn start(followers: &[Follower]) -> (JoinSet<()>, Heards) {
    let (tell, heard) = mpsc::unbounded_channel();
    let mut fleet = JoinSet::new();
    for follower in followers {
        let (follower, tell) = (follower.clone(), tell.clone());
        fleet.spawn(async move {
            let mut backoff = Backoff::new(&Clock::system(), FIRST_WAIT, LONGEST_WAIT);
            loop {
                let ended = follower.follow(&tell).await;
                let _nobody_listens = tell.send(Heard::Away);
                // A server that sheds load says when to come again, and agents do as it says.
                let told = ended.err().and_then(|error| {
                    let status = error.downcast::<tonic::Status>().ok()?;
                    UpstreamError::from(status).retry_after()
                });
                sleep(backoff.wait_at_least(told)).await;
            }
        });
    }
    (fleet, heard)
}

impl Follower {
    async fn follow(&self, tell: &mpsc::UnboundedSender<Heard>) -> anyhow::Result<()> {
        let hello = FollowRequest {
            message: Some(follow_request::Message::Hello(Hello {
                version: 1,
                features: Vec::new(),
                resume: self.resume.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            })),
        };
        let requests = tokio_stream::once(hello).chain(tokio_stream::pending());
        let mut answers = SyncClient::new(self.member.channel()?)
            .follow(requests)
            .await?
            .into_inner();
        let mut in_step = false;
        while let Some(answer) = answers.message().await? {
            let (put, resume): (Vec<Entry>, _) = match answer.message {
                Some(follow_response::Message::Page(page)) => (page.entries, page.resume),
                Some(follow_response::Message::Delta(delta)) => {
                    let put = delta.changes.into_iter().filter_map(|change| match change.kind {
                        Some(change::Kind::EntryPut(entry)) => Some(entry),
                        _ => None,
                    });
                    (put.collect(), delta.resume)
                }
                _ => continue,
            };
            let now = Instant::now();
            for entry in put {
                tell.send(Heard::Put(entry.spiffe_id.unwrap_or_default().path, now))?;
            }
            if let Some(resume) = resume {
                *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = Some(resume);
                if !in_step {
                    tell.send(Heard::InStep(now))?;
                }
                in_step = true;
            }
        }
        Ok(())
    }
}

/// When the last of all was in step, and how often one was turned away before.
async fn in_step(heard: &mut Heards, count: usize) -> anyhow::Result<(Instant, usize)> {
    let (mut there, mut away) = (0, 0);
    let all = async {
        while let Some(one) = heard.recv().await {
            match one {
                Heard::InStep(at) => {
                    there += 1;
                    if there == count {
                        return Ok((at, away));
                    }
                }
                Heard::Away => away += 1,
                Heard::Put(..) => {}
            }
        }
        anyhow::bail!("the fleet has ended")
    };
    let waited = timeout(DEADLINE * 2, all).await;
    waited.with_context(|| format!("{there} of {count} agents are in step, {away} were turned away"))?
}

/// The processor time of a process while something is done, in percent of one core, and what came of it.
async fn spent<T>(pid: i32, work: impl Future<Output = T>) -> anyhow::Result<(f64, T)> {
    let (spent, begun) = (usage::processor(pid)?, Instant::now());
    let done = work.await;
    let spent = usage::processor(pid)? - spent;
    Ok((100.0 * spent.as_secs_f64() / begun.elapsed().as_secs_f64(), done))
}

/// Creates entries at the rate, one agent each; says when each was asked for.
async fn changes_of_one(
    admin: &Channel,
    followers: &[Follower],
    count: usize,
) -> anyhow::Result<Vec<(String, Instant)>> {
    let mut tick = interval(Duration::from_secs(1) / CHANGES_A_SECOND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = Vec::with_capacity(count);
    for (n, follower) in followers.iter().cycle().take(count).enumerate() {
        tick.tick().await;
        let entry = entries::nth(1_000_000 + n, &follower.member.path);
        sent.push((entry.spiffe_id.clone().unwrap_or_default().path, Instant::now()));
        entries::create(admin, vec![entry]).await?;
    }
    Ok(sent)
}

/// How long after it was asked for each entry came.
async fn arrivals(heard: &mut Heards, sent: &[(String, Instant)]) -> anyhow::Result<Times> {
    let mut waiting: std::collections::HashMap<&str, Instant> =
        sent.iter().map(|(path, at)| (path.as_str(), *at)).collect();
    let mut times = Vec::with_capacity(sent.len());
    let all = async {
        while !waiting.is_empty() {
            if let Heard::Put(path, at) = heard.recv().await.context("the fleet has ended")?
                && let Some(asked) = waiting.remove(path.as_str())
            {
                times.push(at.saturating_duration_since(asked));
            }
        }
        anyhow::Ok(())
    };
    timeout(DEADLINE, all)
        .await
        .context("a change has not arrived")??;
    Ok(times.into())
}

/// When the last of all heard of the entry of this path.
async fn all_hear(heard: &mut Heards, count: usize, wanted: &str) -> anyhow::Result<Instant> {
    let mut there = 0;
    let all = async {
        loop {
            if let Heard::Put(path, at) = heard.recv().await.context("the fleet has ended")?
                && path == wanted
            {
                there += 1;
                if there == count {
                    return anyhow::Ok(at);
                }
            }
        }
    };
    let waited = timeout(DEADLINE, all).await;
    waited.with_context(|| format!("{there} of {count} agents have heard"))?
}
