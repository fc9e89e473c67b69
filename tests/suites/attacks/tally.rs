//! Runs an attack script round by round against an agent, and counts what came of it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::timeout;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::node::Node;
use vouchsafe_tests::repository;
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::wait::{DEADLINE, until};

/// Rounds of each attack, unless `ROUNDS` says otherwise.
const ROUNDS: usize = 50;

/// How soon a stream must end that somebody else came to read.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// Lines of configuration by which nobody needs to prove its presence: for attacks that another defence is to stop, so
/// that it is seen to do so by itself.
pub(crate) const NO_PRESENCE: &str = "[attest]\npresence_exempt_uids = [0, 65534]";

/// How many rounds of each attack are run.
#[expect(
    clippy::disallowed_methods,
    reason = "the one thing that a test is told from outside"
)]
pub(crate) fn rounds() -> usize {
    let wanted = std::env::var("ROUNDS").ok();
    wanted.map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

/// A node whose one entry has these selectors, and has its SVID.
pub(crate) async fn node(more: &str, selectors: &[&str]) -> Node {
    let mut node = prepared(more).await;
    node.run(Some(TOKEN)).await.unwrap();
    victim(&node, selectors).await;
    node
}

/// A node with the scripts in its folder, whose agent does not run yet.
pub(crate) async fn prepared(more: &str) -> Node {
    let node = Node::down(more).await.unwrap();
    // Every user and every namespace is to read the scripts; the tree may stand where others cannot.
    for script in ["raw.py", "attack.py"] {
        std::fs::copy(repository().join("tests/clients").join(script), node.path(script)).unwrap();
    }
    std::fs::write(node.path("good.py"), "import time\ntime.sleep(60)\n").unwrap();
    node
}

/// Puts the entry, and waits until the agent has an SVID for it.
pub(crate) async fn victim(node: &Node, selectors: &[&str]) {
    node.upstream.put_entry("victim", selectors, |_| {});
    until("the agent has the victim's SVID", async || {
        let health = node.health().await.ok()?;
        (health.entries == 1 && health.cached_svids == 1).then_some(())
    })
    .await
    .unwrap();
}

/// A Python interpreter that every user can execute, and what it needs in a copy to find its library: not a script that
/// a version manager puts before it.
pub(crate) fn python() -> (PathBuf, String) {
    let probe = [
        "-c",
        "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix)",
    ];
    let system = ["/usr/bin/python3", "python3"];
    let found = system
        .iter()
        .find_map(|python| Command::new(python).args(probe).output().ok());
    let text = String::from_utf8(found.unwrap().stdout).unwrap();
    let (path, home) = text.trim_end().split_once(' ').unwrap();
    (PathBuf::from(path), home.to_owned())
}

/// Two copies of the interpreter that differ in their bytes, in the node's folder: a trusted one, and an evil one.
pub(crate) fn programs(node: &Node) -> (PathBuf, PathBuf) {
    let (trusted, evil) = (node.path("trusted"), node.path("evil"));
    // By another process: a file that we hold open for writing could not be executed.
    let script = r#"umask 022; cp "$1" "$2"; cp "$1" "$3"; echo >>"$3""#;
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .args([&python().0, &trusted, &evil])
        .status()
        .unwrap();
    assert!(status.success());
    (trusted, evil)
}

/// A command as someone without rights: nobody where we are root, else ourselves.
pub(crate) fn without_rights(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = match nix::unistd::geteuid().is_root() {
        false => Command::new(program),
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
            command.arg(program);
            command
        }
    };
    command.env("PYTHONHOME", python().1);
    command
}

/// A program that waits and asks nobody anything, with its arguments.
pub(crate) fn sleeper() -> [String; 2] {
    let path = std::fs::canonicalize("/bin/sleep").unwrap();
    [path.display().to_string(), "60".to_owned()]
}

/// The selector of a program's path.
pub(crate) fn path_selector(path: impl AsRef<Path>) -> String {
    format!("unix:path:{}", path.as_ref().display())
}

/// The arguments by which Python runs an attack on a node.
pub(crate) fn script(node: &Node, attack: &str, rounds: usize, more: &[&str]) -> Vec<String> {
    let script = node.path("attack.py").display().to_string();
    let socket = node.workload_socket().display().to_string();
    let more = more.iter().map(|word| (*word).to_owned());
    [script, attack.to_owned(), socket, rounds.to_string()]
        .into_iter()
        .chain(more)
        .collect()
}

/// Runs an attack by the Python interpreter.
pub(crate) async fn attack(node: &Node, name: &'static str, more: &[&str]) -> Tally {
    let mut command = Command::new(python().0);
    command.args(script(node, name, rounds(), more));
    run(name, &mut command).await
}

/// Runs an attack and counts its rounds. In a test of one thread, the agent stands still while the script says `hold`.
pub(crate) async fn run(name: &'static str, command: &mut Command) -> Tally {
    follow(name, Attacker::start(command)).await
}

/// Counts the rounds of an attack that runs already.
pub(crate) async fn follow(name: &'static str, mut attacker: Attacker) -> Tally {
    let mut tally = Tally::new(name);
    while let Some(line) = attacker.line().await {
        match line.as_str() {
            "hold" => attacker.hold(),
            word => tally.count(word),
        }
    }
    assert!(attacker.child.wait().unwrap().success(), "{name} has failed");
    tally
}

/// Starts an attack in a PID namespace of its own, which runs the node's agent there too; returns when that has an SVID for
/// these selectors.
pub(crate) async fn in_a_pid_namespace(
    node: &Node,
    attack: &str,
    selectors: &[String],
    more: &[&str],
) -> Attacker {
    let selectors: Vec<&str> = selectors.iter().map(String::as_str).collect();
    node.upstream.put_entry("victim", &selectors, |_| {});
    let config = node.path("agent.toml");
    std::fs::write(&config, node.config_text()).unwrap();
    let (agent, config) = (
        binary("vouchsafe-agent").unwrap().display().to_string(),
        config.display().to_string(),
    );
    let more = [&[agent.as_str(), &config, TOKEN], more].concat();
    let mut command = Command::new("unshare");
    command
        .args(["-pm", "--mount-proc", "--fork", "--kill-child"])
        .arg(python().0)
        .args(script(node, attack, rounds(), &more));
    let mut attacker = Attacker::start(&mut command);
    until("the agent has the victim's SVID", async || {
        (node.health().await.ok()?.cached_svids == 1).then_some(())
    })
    .await
    .unwrap();
    attacker.tell();
    attacker
}

/// An attack script that runs.
pub(crate) struct Attacker {
    pub(crate) child: Child,
    stdin: std::process::ChildStdin,
    lines: Option<std::io::Lines<BufReader<std::process::ChildStdout>>>,
}

impl Attacker {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            lines: child.stdout.take().map(|stdout| BufReader::new(stdout).lines()),
            child,
        }
    }

    /// The script's next line, or its end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        let mut lines = self.lines.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || (lines.next(), lines));
        let (line, lines) = timeout(DEADLINE, reading).await.unwrap().unwrap();
        self.lines = Some(lines);
        line.map(Result::unwrap)
    }

    /// Blocks this thread, and the agent with it, until the script says that it may go on.
    fn hold(&mut self) {
        self.tell();
        assert_eq!(self.lines.as_mut().unwrap().next().unwrap().unwrap(), "go");
    }

    /// Lets the script go on.
    pub(crate) fn tell(&mut self) {
        self.stdin.write_all(b"held\n").unwrap();
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

/// What came of an attack's rounds.
pub(crate) struct Tally {
    name: &'static str,
    prevented: usize,
    noticed: usize,
    late: usize,
    wrong: usize,
    slowest: Duration,
}

impl Tally {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            prevented: 0,
            noticed: 0,
            late: 0,
            wrong: 0,
            slowest: Duration::ZERO,
        }
    }

    /// How many rounds gave an identity to whom it was not meant for.
    pub(crate) fn wrong(&self) -> usize {
        self.wrong
    }

    /// Counts one round by the script's word for it.
    pub(crate) fn count(&mut self, word: &str) {
        match word.split_once(' ') {
            None if ["refused", "cut", "silent"].contains(&word) => self.prevented += 1,
            None if word == "svid" => self.wrong += 1,
            Some(("noticed", millis)) => self.notice(Duration::from_millis(millis.parse().unwrap())),
            _ => panic!("{}: {word}", self.name),
        }
    }

    /// Counts a round whose stream has ended so much later.
    pub(crate) fn notice(&mut self, after: Duration) {
        self.slowest = self.slowest.max(after);
        match after <= NOTICED_WITHIN {
            true => self.noticed += 1,
            false => self.late += 1,
        }
    }

    /// Says what came of it, and fails where anything came of it.
    pub(crate) fn close(self) {
        let Self {
            name,
            prevented,
            noticed,
            late,
            wrong,
            slowest,
        } = self;
        let all = prevented + noticed + late + wrong;
        let line = format!(
            "attack {name}: {all} rounds, {prevented} prevented, {noticed} noticed within a second (the slowest after \
             {} ms), {late} later, {wrong} wrong identities\n",
            slowest.as_millis()
        );
        // Past the harness, which would keep it back.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        assert_eq!((wrong, late), (0, 0), "{line}");
        assert!(all >= rounds(), "{line}");
    }
}
