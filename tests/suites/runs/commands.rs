//! `vouchsafe run` on a real agent: a program that is launched this way is as one that a shell starts.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::{DEADLINE, until};

use crate::stage::{POOL, Stage, measured};

const SHELL: &str = "/bin/bash";

/// A class that launches a shell with whatever script.
async fn stage() -> Stage {
    let stage = Stage::empty().await.unwrap();
    let spec = format!(
        "any_node = true\nlaunchers = [\"uid:0\"]\nuser = {{ first_uid = {}, last_uid = {} }}\n\n\
         [program]\nexecutable = {}\nextra_args = true\n",
        POOL.0,
        POOL.1,
        measured(Path::new(SHELL)).unwrap()
    );
    let id = "spiffe://example.org/agent/shell";
    stage.class("shell", id, &spec).await.unwrap();
    stage
}

fn run(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("vouchsafe").unwrap());
    command
        .arg("run")
        .arg("--launch-socket")
        .arg(stage.at.path("launch.sock"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn shell(stage: &Stage, script: &str) -> Command {
    run(stage, &["--class", "shell", "--quiet", "--", SHELL, "-c", script])
}

/// Waits until it has printed this.
async fn printed(child: &mut Child, text: &str) {
    let mut heard = Vec::new();
    let stdout = child.stdout.as_mut().unwrap();
    while !String::from_utf8_lossy(&heard).contains(text) {
        heard.push(timeout(DEADLINE, stdout.read_u8()).await.unwrap().unwrap());
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

async fn output(child: Child) -> std::process::Output {
    timeout(DEADLINE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn what_is_refused_is_told_with_its_code_and_nothing_runs() {
    require!(Need::Root);
    let stage = stage().await;
    let cases: [(&[&str], i32, &str); 4] = [
        (&["--class", "nobody", "--", SHELL], 77, "nobody"),
        (&["--class", "shell", "--", "/bin/true"], 65, "/bin/true"),
        (&["--class", "shell", "--task", "a b", "--", SHELL], 64, "task"),
        (&["--class", "shell", "--", "/no/such"], 127, "/no/such"),
    ];
    for (arguments, code, text) in cases {
        let said = output(run(&stage, arguments).spawn().unwrap()).await;
        let err = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(code), "{err}");
        assert!(err.contains(text) && said.stdout.is_empty(), "{err}");
    }
    let mut foreign = shell(&stage, "echo up");
    foreign.uid(4242).gid(4242);
    let said = output(foreign.spawn().unwrap()).await;
    let err = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(77), "{err}");
    assert!(err.contains("vouchsafe class show shell"), "{err}");
    assert!(said.stdout.is_empty());
    let runs = stage.at.json(&["run", "list", "--state", "all"]).await.unwrap();
    assert_eq!(runs, Value::Array(Vec::new()));
}

#[tokio::test]
async fn streams_exit_status_and_signals_pass_through() {
    require!(Need::Root);
    let stage = stage().await;
    let script = "cat; echo $0 \"$@\" >&2; pwd; exit 7";
    let mut child = run(
        &stage,
        &[
            "--class", "shell", "--quiet", "--", SHELL, "-c", script, "zero", "a b", "",
        ],
    )
    .stdin(Stdio::piped())
    .current_dir("/usr")
    .spawn()
    .unwrap();
    child.stdin.take().unwrap().write_all(b"through\n").await.unwrap();
    let said = output(child).await;
    assert_eq!(said.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "through\n/usr\n");
    assert_eq!(String::from_utf8_lossy(&said.stderr), "zero a b \n");

    let said = output(shell(&stage, "kill -9 $$").spawn().unwrap()).await;
    assert_eq!(said.status.signal(), Some(9));

    let trap = "trap 'echo heard; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let mut child = shell(&stage, trap).spawn().unwrap();
    printed(&mut child, "up").await;
    signal(&child, nix::sys::signal::Signal::SIGTERM);
    let said = output(child).await;
    assert_eq!(said.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "\nheard\n");
}

#[tokio::test]
async fn a_run_goes_on_while_its_agent_is_away_and_its_end_is_heard_of() {
    require!(Need::Root);
    let mut stage = stage().await;
    let script = "echo up; read -r line; echo \"$line\"; exit 5";
    let mut child = shell(&stage, script).stdin(Stdio::piped()).spawn().unwrap();
    printed(&mut child, "up").await;
    stage.at.agent.take().unwrap().kill().await.unwrap();
    stage.at.start_agent(&[]).await.unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"still here\n")
        .await
        .unwrap();
    let said = output(child).await;
    let err = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(5), "{err}");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "\nstill here\n");
}

#[tokio::test]
async fn a_run_at_a_terminal_has_one_of_its_own_with_job_control() {
    require!(Need::Root);
    let stage = stage().await;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let end = ioctl_tiocgptpeer(&master, flags).unwrap();
    let stdio = || Stdio::from(end.try_clone().unwrap());
    let before = tcgetattr(&end).unwrap().local_modes;
    let script =
        "trap 'exit 9' INT; read -r line </dev/tty; echo \"got $line\"; while :; do sleep 0.05; done";
    let mut command = shell(&stage, script);
    let child = command
        .stdin(stdio())
        .stdout(stdio())
        .stderr(stdio())
        .spawn()
        .unwrap();
    until("the terminal is raw", async || {
        let modes = tcgetattr(&end).unwrap().local_modes;
        (!modes.contains(LocalModes::ICANON)).then_some(())
    })
    .await
    .unwrap();
    let mut user = std::fs::File::from(master);
    user.write_all(b"hello\r").unwrap();
    let mut seen = user.try_clone().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut text, mut chunk) = (String::new(), [0; 64]);
        while !text.contains("got hello\r\n") {
            let count = seen.read(&mut chunk).unwrap();
            text.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
    timeout(DEADLINE, reading).await.unwrap().unwrap();
    // As typed: the terminal of the run makes a signal of it.
    user.write_all(&[3]).unwrap();
    let said = output(child).await;
    assert_eq!(said.status.code(), Some(9));
    assert_eq!(tcgetattr(&end).unwrap().local_modes, before);
}

#[tokio::test]
async fn the_callers_own_terminal_is_never_taken_from_it() {
    require!(Need::Root);
    let stage = stage().await;
    // Without a terminal in the place of each stream, the program has none.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = shell(&stage, "true </dev/tty");
    let child = command.stdin(Stdio::from(OwnedFd::from(reader))).spawn().unwrap();
    drop(writer);
    assert_eq!(output(child).await.status.code(), Some(1));
}

#[tokio::test]
async fn a_detached_run_is_seen_in_the_tree_and_its_output_read() {
    require!(Need::Root);
    let stage = stage().await;
    let detach = ["--class", "shell", "--detach", "--quiet", "--task", "T-9", "--"];
    let script = "echo up; trap 'echo down; exit 0' TERM; while :; do sleep 0.05; done";
    let command = [&detach[..], &[SHELL, "-c", script]].concat();
    let said = output(run(&stage, &command).spawn().unwrap()).await;
    let id = String::from_utf8(said.stdout).unwrap().trim().to_owned();
    let tree = until("the run is in the tree", async || {
        let tree = stage.at.json(&["run", "tree"]).await.ok()?;
        (tree[0]["run"] == id.as_str() && tree[0]["state"] == "running").then_some(tree)
    });
    let tree = tree.await.unwrap();
    assert_eq!(
        (&tree[0]["task"], &tree[0]["launched"]),
        (&"T-9".into(), &Value::Array(Vec::new()))
    );
    let listed = stage.at.vouchsafe(&["run", "list"]).await.unwrap();
    let table = String::from_utf8(listed.stdout).unwrap();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let head = [
        "RUN", "CLASS", "STATE", "TASK", "LAUNCHER", "NODE", "AGE", "SVIDS", "LAST", "CALL",
    ];
    assert_eq!(lines[0], head, "{table}");
    assert_eq!(lines[1][..4], [id.as_str(), "shell", "running", "T-9"], "{table}");
    let last = lines[1].last().copied();
    assert!(matches!(last, Some("ago" | "never")), "{table}");
    let mut logs = run(&stage, &["logs", &id, "--follow"]).spawn().unwrap();
    printed(&mut logs, "up").await;
    stage.at.json(&["run", "kill", &id]).await.unwrap();
    let said = output(logs).await;
    assert!(said.status.success(), "{said:?}");
}
