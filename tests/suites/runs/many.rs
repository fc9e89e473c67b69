//! Many runs: in a row, at once, and with an agent that is killed in the midst of it. Nothing may be left of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde_json::Value;
use tonic::Streaming;
use vouchsafe_launch::record::Process;
use vouchsafe_proto::vouchsafe::launch::v1::{LaunchEvent, LaunchRequest, launch_event::Event};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::stage::{Stage, event, measured};

/// Uids that no other test's runs have, of each test here.
const OF_MANY: RangeInclusive<u32> = 61_300..=61_559;
const OF_KILLED: RangeInclusive<u32> = 61_600..=61_699;
/// As many runs at once.
const AT_ONCE: usize = 200;
/// As many in a row.
const IN_A_ROW: usize = 1000;

/// A deployment with a class whose program is `/bin/sleep`, which sleeps as long as the launcher says.
async fn stage(pool: &RangeInclusive<u32>) -> Stage {
    let stage = Stage::empty().await.unwrap();
    let spec = format!(
        "any_node = true\nlaunchers = [\"uid:0\"]\nmax_runs = 300\nuser = {{ first_uid = {}, last_uid = {} }}\n\
         \n[program]\nexecutable = {}\nextra_args = true\n",
        pool.start(),
        pool.end(),
        measured(&Path::new("/bin/sleep").canonicalize().unwrap()).unwrap(),
    );
    let id = "spiffe://example.org/agent/sleeper";
    stage.class("sleeper", id, &spec).await.unwrap();
    stage
}

fn sleeping(seconds: &str) -> LaunchRequest {
    LaunchRequest {
        class: "sleeper".to_owned(),
        arguments: vec![b"/bin/sleep".to_vec(), seconds.as_bytes().to_vec()],
        detached: true,
        ..LaunchRequest::default()
    }
}

async fn launch(stage: &Stage, seconds: &str) -> Streaming<LaunchEvent> {
    let mut api = stage.api().await.unwrap();
    api.launch(sleeping(seconds)).await.unwrap().into_inner()
}

/// Follows a run to its end; its id, and its user.
async fn to_the_end(mut events: Streaming<LaunchEvent>) -> (String, u32) {
    let mut uid = 0;
    loop {
        match event(&mut events).await.unwrap() {
            Event::Admitted(_) => {}
            Event::Started(started) => uid = started.uid,
            Event::Ended(ended) => return (ended.run_id, uid),
        }
    }
}

/// The processes whose user is one of the pool's.
fn processes(pool: &RangeInclusive<u32>) -> BTreeSet<i32> {
    let folders = fs::read_dir("/proc").unwrap().flatten();
    let numbers = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let of_pool = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let uid = uid.and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        uid.is_some_and(|uid| pool.contains(&uid))
    };
    numbers.filter(of_pool).collect()
}

/// What the agent holds for runs: open descriptors, control groups, records of processes and of runs.
#[derive(Debug, PartialEq, Eq)]
struct Holds {
    descriptors: usize,
    groups: usize,
    records: usize,
}

fn holds(stage: &Stage) -> Holds {
    let pid = stage.at.agent.as_ref().unwrap().pid().unwrap();
    let count = |path: PathBuf| fs::read_dir(path).map_or(0, Iterator::count);
    let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = group
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .unwrap()
        .to_owned();
    let unified = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let root = unified
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists())
        .unwrap();
    let own = fs::read_dir(root.join(group)).unwrap().flatten();
    let prefix = "vouchsafe-runs-";
    // The tests of this suite run beside each other: of this agent's subtree nothing but runs of this class count.
    let ours = own.filter(|folder| folder.file_name().to_string_lossy().starts_with(prefix));
    let runs = ours.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    let held = runs.filter(|run| {
        let name = run.file_name().to_string_lossy().into_owned();
        stage.at.path(&format!("agent/runs/records/{name}.json")).exists()
    });
    Holds {
        descriptors: count(PathBuf::from(format!("/proc/{pid}/fd"))),
        groups: held.count(),
        records: count(stage.at.path("agent/runs/records")) + count(stage.at.path("agent/runs/processes")),
    }
}

fn resident_kib(stage: &Stage) -> u64 {
    let pid = stage.at.agent.as_ref().unwrap().pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Waits until the agent holds no more than before.
async fn settled(stage: &Stage, before: &Holds) {
    let mut last = None;
    let wait = until("nothing is left of the runs", async || {
        let now = holds(stage);
        let done = now.groups == 0 && now.records == 0 && now.descriptors <= before.descriptors + 8;
        last = Some(now);
        done.then_some(())
    });
    let waited = wait.await;
    waited.unwrap_or_else(|error| unreachable!("{error}: {last:?}, {before:?} before"));
}

#[tokio::test]
async fn two_hundred_at_once_and_a_thousand_in_a_row_leave_nothing() {
    require!(Need::Root);
    let stage = stage(&OF_MANY).await;
    to_the_end(launch(&stage, "0").await).await;
    let before = holds(&stage);
    let events = join_all((0..AT_ONCE).map(|_| launch(&stage, "3"))).await;
    let ends = join_all(events.into_iter().map(to_the_end)).await;
    let ids: BTreeSet<_> = ends.iter().map(|(id, _)| id).collect();
    let uids: BTreeSet<_> = ends.iter().map(|(_, uid)| uid).collect();
    assert_eq!(
        (ids.len(), uids.len()),
        (AT_ONCE, AT_ONCE),
        "each has an id and a user of its own"
    );
    settled(&stage, &before).await;
    let after_many = resident_kib(&stage);
    let mut ids = BTreeSet::new();
    for _ in 0..IN_A_ROW {
        let (id, _) = to_the_end(launch(&stage, "0").await).await;
        assert!(ids.insert(id), "no id is used twice");
    }
    settled(&stage, &before).await;
    let grown = resident_kib(&stage).saturating_sub(after_many);
    assert!(grown < 8 * 1024, "{IN_A_ROW} runs in a row cost {grown} KiB");
    assert_eq!(processes(&OF_MANY), BTreeSet::new());
}

/// Kills the agent after so many events of launches that are under way at once. The processes that their launchers were told of.
async fn kill_amid(stage: &mut Stage, after: usize) -> BTreeSet<i32> {
    let mut launches = join_all((0..4).map(|_| launch(stage, "600"))).await;
    let mut started = BTreeSet::new();
    for seen in 0..after {
        let of = seen % launches.len();
        if let Event::Started(run) = event(&mut launches[of]).await.unwrap() {
            started.insert(run.pid);
        }
    }
    stage.at.agent.take().unwrap().kill().await.unwrap();
    started
}

/// The processes of the pool that are the program already; each by its number and its start.
fn programs() -> BTreeMap<i32, Process> {
    let program = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name == "sleep\n")
    };
    let all = processes(&OF_KILLED).into_iter().filter(program);
    all.filter_map(|pid| Some((pid, Process::of(pid).ok()?)))
        .collect()
}

/// Those of before that are not there any more.
fn lost(before: &BTreeMap<i32, Process>, now: &BTreeMap<i32, Process>) -> Vec<Process> {
    let gone = before
        .iter()
        .filter(|(pid, process)| now.get(pid) != Some(process));
    gone.map(|(_, process)| *process).collect()
}

/// What the agent says of a process.
async fn explained(stage: &Stage, pid: i32) -> Value {
    stage.at.json(&["explain", &pid.to_string()]).await.unwrap()
}

/// The runs that live for the server.
async fn living(stage: &Stage) -> BTreeSet<String> {
    let listed = stage
        .at
        .json(&["run", "list", "--class", "sleeper"])
        .await
        .unwrap();
    let runs = listed["runs"].as_array().or_else(|| listed.as_array()).unwrap();
    let live = runs.iter().filter(|run| run["state"] != "ended");
    live.map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_agent_killed_amid_launches_neither_loses_nor_orphans_a_run() {
    require!(Need::Root);
    let mut stage = stage(&OF_KILLED).await;
    let mut lived = BTreeMap::new();
    for after in 0..=8 {
        let started = kill_amid(&mut stage, after).await;
        // Runs outlive their agent: what is a program while none looks, is so ever after.
        let before = std::mem::replace(&mut lived, programs());
        assert_eq!(lost(&before, &lived), Vec::new(), "as the agent was killed");
        let told = started.iter().filter(|pid| !lived.contains_key(pid));
        assert_eq!(
            told.collect::<Vec<_>>(),
            Vec::<&i32>::new(),
            "a launcher was told of it"
        );
        stage.at.start_agent(&[]).await.unwrap();
        // What lives is known, each process as the main one of a run of its own; what is not known does not live.
        until("what lives is what the agent and the server know", async || {
            let mut known = BTreeSet::new();
            let processes = processes(&OF_KILLED);
            for pid in &processes {
                let explained = explained(&stage, *pid).await;
                assert_eq!(explained["run"]["main"], true, "an orphan: {explained}");
                known.insert(explained["run"]["run"].as_str()?.to_owned());
            }
            (known.len() == processes.len() && known == living(&stage).await).then_some(())
        })
        .await
        .unwrap();
        assert_eq!(
            lost(&lived, &programs()),
            Vec::new(),
            "by the restart after {after} events"
        );
    }
    assert!(
        lived.len() >= 4,
        "as many as their launchers were told of: {lived:?}"
    );
    for run in living(&stage).await {
        stage.at.json(&["run", "kill", &run]).await.unwrap();
    }
    until("all have ended", async || {
        processes(&OF_KILLED).is_empty().then_some(())
    })
    .await
    .unwrap();
}
