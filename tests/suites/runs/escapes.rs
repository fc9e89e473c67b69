//! Processes of a run that try to be somebody else, on a real agent. Each has a user that an entry names: whoever is not known
//! to be of the run gets that entry's identity. None gets it, nor the run's, nor the key.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::{DEADLINE, until};

use crate::life::{USR1, signal};
use crate::stage::{POOL, Running, Stage, client};

/// Who is not the main process hears this.
const NOT_MAIN: &str = "lets only the run's main process have an identity";
/// The pool has one uid, so that it is known beforehand.
const ONE: &str = "last_uid = 61100";
const LURE: &str = "spiffe://example.org/lure";
const BESIDE: [&str; 1] = ["raw.py"];

/// A deployment whose runs have one user, which an entry names too.
async fn stage(change: impl FnOnce(&mut String)) -> Stage {
    let one_uid = |spec: &mut String| {
        *spec = spec.replace("last_uid = 61163", ONE);
        change(spec);
    };
    let stage = Stage::of("runs/escapes.py", &BESIDE, one_uid).await.unwrap();
    let user = format!("unix:uid:{}", POOL.0);
    stage.at.entry(LURE, &[&user], &[]).await.unwrap();
    let mut command = as_user(POOL.0);
    let sleeping = command.args(["sleep", "600"]).spawn().unwrap();
    let pid = sleeping.id().unwrap().to_string();
    until("a process of that user has the entry's identity", async || {
        let explained = stage.at.json(&["explain", &pid]).await.ok()?;
        (explained["spiffe_ids"] == json!([LURE])).then_some(())
    })
    .await
    .unwrap();
    stage
}

/// A command of that user, outside of all runs.
fn as_user(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}")]);
    command.arg("--clear-groups").kill_on_drop(true);
    command
}

/// A run that stays.
async fn staying(stage: &Stage, mode: &str) -> Running {
    let request = LaunchRequest {
        detached: true,
        ..stage.request(&[mode])
    };
    stage.launch(request).await.unwrap()
}

/// What a run has said, once it has said so much.
async fn lines(stage: &Stage, run: &Running, count: usize) -> Vec<(String, Value)> {
    let mut output = String::new();
    let waited = until("the run says what it got", async || {
        output = stage.said_so_far(&run.admitted.run_id).await.ok()?;
        (output.lines().count() >= count && output.ends_with('\n')).then_some(())
    });
    let waited = waited.await;
    assert!(waited.is_ok(), "{output}");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        (line["who"].as_str().unwrap().to_owned(), line["got"].take())
    };
    output.lines().map(line).collect()
}

fn refused(got: &Value, reason: &str) {
    assert!(
        got.as_str().is_some_and(|text| text.contains(reason)),
        "it got {got}"
    );
}

#[tokio::test]
async fn whatever_way_a_child_is_started_it_gets_neither_identity_nor_key() {
    require!(Need::Root, Need::Namespaces);
    let stage = stage(|_| {}).await;
    let (run, told) = stage.told(&["ways"]).await.unwrap();
    let who: Vec<&str> = told.iter().map(|(who, _)| who.as_str()).collect();
    let ways = [
        "shell",
        "session",
        "nohup",
        "user",
        "pid",
        "mount",
        "moved",
        "moved within",
        "double fork",
        "sibling",
    ];
    assert_eq!(who.split_first().unwrap(), (&"main", &ways[..]));
    assert_eq!(told[0].1, json!([run.admitted.spiffe_id]));
    for (who, got) in &told[1..] {
        assert_eq!(got["key"], "shut out", "{who}");
        refused(&got["svid"], NOT_MAIN);
    }
}

#[tokio::test]
async fn where_children_inherit_those_in_namespaces_of_their_own_do_not() {
    require!(Need::Root, Need::Namespaces);
    let all = |spec: &mut String| *spec = spec.replace("inherit = \"none\"", "inherit = \"children\"");
    let stage = stage(all).await;
    let (run, told) = stage.told(&["ways"]).await.unwrap();
    for (who, got) in &told[1..] {
        assert_eq!(got["key"], "shut out", "{who}");
        match who.as_str() {
            "pid" => refused(&got["svid"], "namespace"),
            _ => assert_eq!(got["svid"], json!([run.admitted.spiffe_id]), "{who}"),
        }
    }
}

/// The control group of a run, and the one in which all are.
fn groups(stage: &Stage, run: &Running) -> (PathBuf, PathBuf) {
    let record = format!("agent/runs/processes/{}.json", run.admitted.run_id);
    let record: Value = serde_json::from_slice(&fs::read(stage.at.path(&record)).unwrap()).unwrap();
    let own = PathBuf::from(record["cgroup"][0].as_str().unwrap());
    let above = own.parent().unwrap().to_owned();
    (own, above)
}

fn give(group: &Path, uid: u32) {
    for file in ["", "cgroup.procs"] {
        chown(group.join(file), Some(uid), None).unwrap();
    }
}

/// Nobody gives a run such rights; should an operator do so, this is what comes of it.
#[tokio::test]
async fn who_may_move_to_another_control_group_gets_nothing_there() {
    require!(Need::Root);
    let stage = stage(|_| {}).await;
    let run = staying(&stage, "groups").await;
    let (own, above) = groups(&stage, &run);
    let elsewhere = above.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    for group in [&own, &above, &elsewhere] {
        give(group, run.started.uid);
    }
    let own_id = json!([run.admitted.spiffe_id]);
    lines(&stage, &run, 1).await;
    signal(&stage, &run, USR1).await;
    let told = lines(&stage, &run, 6).await;
    let reasons = [
        ("child within", NOT_MAIN),
        ("child elsewhere", "which is that run's alone"),
        ("main within", "not in its control group"),
        ("main elsewhere", "not in its control group"),
    ];
    assert_eq!(told[0].1, own_id);
    for ((who, got), (expected, reason)) in told[1..].iter().zip(reasons) {
        assert_eq!(who, expected);
        let svid = if who.starts_with("child") {
            &got["svid"]
        } else {
            got
        };
        refused(svid, reason);
    }
    assert_eq!(told[5], ("main back".to_owned(), own_id));
    let emptied = until("the group beside is empty", async || {
        fs::remove_dir(&elsewhere).ok()
    });
    emptied.await.unwrap();
}

/// A process outside of the run that takes a connection from it, and asks on it.
struct Stranger {
    lines: Lines<BufReader<ChildStdout>>,
    path: PathBuf,
    _process: Child,
}

impl Stranger {
    async fn start(stage: &Stage, uid: u32) -> Self {
        let folder = stage.at.path(&format!("stranger-{uid}"));
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(uid), None).unwrap();
        let path = folder.join("socket");
        let mut command = as_user(uid);
        let script = stage.at.path("stranger.py");
        client("runs/stranger.py", &script).unwrap();
        command.arg("/usr/bin/python3").arg(&script).arg(&path);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert_eq!(said(&mut lines).await, "up");
        Self {
            lines,
            path,
            _process: process,
        }
    }
}

async fn said(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = timeout(DEADLINE, lines.next_line()).await.unwrap();
    line.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn a_connection_of_the_main_process_is_of_no_use_to_others() {
    require!(Need::Root);
    let stage = stage(|_| {}).await;
    let mut strangers = Vec::new();
    // Another user, and one that has the run's own.
    for uid in [61_998, POOL.0] {
        strangers.push(Stranger::start(&stage, uid).await);
    }
    let paths = strangers
        .iter()
        .map(|stranger| stranger.path.display().to_string());
    let paths: Vec<String> = paths.collect();
    let words: Vec<&str> = std::iter::once("sockets")
        .chain(paths.iter().map(String::as_str))
        .collect();
    let (_, told) = stage.told(&words).await.unwrap();
    let told: Vec<(&str, &str)> = told
        .iter()
        .map(|(who, got)| (who.as_str(), got.as_str().unwrap()))
        .collect();
    let expected = [
        ("main", "svid"),
        ("inherited", "cut"),
        ("left", "cut"),
        ("reads", "refused"),
        ("reads and answers", "cut"),
        ("passed", "cut"),
    ];
    assert_eq!(told, expected);
    for stranger in &mut strangers {
        assert_eq!(said(&mut stranger.lines).await, "cut");
    }
}

/// Seizes a thread, says so, and lets go of it when its standard input ends.
const TRACER: &str = "import ctypes, sys\nlibc = ctypes.CDLL(None)\npid = int(sys.argv[1])\n\
    assert libc.ptrace(0x4206, pid, 0, 0) == 0\nprint('seized', flush=True)\nsys.stdin.read()";

#[tokio::test]
async fn while_somebody_traces_one_of_its_threads_the_main_process_gets_nothing() {
    require!(Need::Root);
    let stage = stage(|_| {}).await;
    let run = staying(&stage, "stays").await;
    let own = ("main".to_owned(), json!([run.admitted.spiffe_id]));
    let told = lines(&stage, &run, 2).await;
    assert_eq!(told[1], own);
    let other = i32::try_from(told[0].1.as_i64().unwrap()).unwrap();
    let mut count = 2;
    for thread in [run.started.pid, other] {
        let mut tracer = Command::new("/usr/bin/python3");
        tracer
            .args(["-c", TRACER, &thread.to_string()])
            .kill_on_drop(true);
        let mut tracer = tracer
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seized = BufReader::new(tracer.stdout.take().unwrap()).lines();
        assert_eq!(said(&mut seized).await, "seized");
        signal(&stage, &run, USR1).await;
        count += 1;
        let told = lines(&stage, &run, count).await;
        refused(&told.last().unwrap().1, "traces it");
        drop(tracer.stdin.take());
        tracer.wait().await.unwrap();
        signal(&stage, &run, USR1).await;
        count += 1;
        assert_eq!(lines(&stage, &run, count).await.last(), Some(&own));
    }
    signal(&stage, &run, Signal::SIGKILL as i32).await;
}

#[tokio::test]
async fn a_main_process_that_opens_itself_or_becomes_another_program_gets_nothing() {
    require!(Need::Root);
    let stage = stage(|_| {}).await;
    let (run, told) = stage.told(&["opens"]).await.unwrap();
    refused(&told[0].1, "dumpable");
    assert_eq!(told[1], ("shut".to_owned(), json!([run.admitted.spiffe_id])));
    let again = until("the uid is free", async || stage.told(&["becomes"]).await.ok());
    let (_, told) = again.await.unwrap();
    refused(&told[0].1, "does not run the program that was measured");
}
