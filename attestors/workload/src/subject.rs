//! Real processes for tests: each ends with the test that started it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::unistd::{getegid, geteuid};
use tempfile::TempDir;
use tokio::time::Instant;
use vouchsafe_attestors::{Evidence, Process, Reach};
use vouchsafe_sys::PidFd;

/// How long a child may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running child. Programs under test wait on their standard input.
pub(crate) struct Subject {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub(crate) process: Process,
}

impl Subject {
    /// Starts it; by the time this returns the program is executed and has its command line.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = Process {
            pidfd: Arc::new(PidFd::open(pid).unwrap()),
            pid,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            reach: Reach::Full,
            program: None,
        };
        // `spawn` returns within the exec, a moment before the new command line is in place.
        let deadline = Instant::now() + PATIENCE;
        while fs::read(format!("/proc/{pid}/cmdline")).unwrap().is_empty() {
            assert!(Instant::now() < deadline, "process {pid} has no command line");
            std::thread::yield_now();
        }
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
            process,
        }
    }

    /// A program that is no interpreter, at a path of its own.
    pub(crate) fn plain(program: &Path) -> Self {
        Self::start(Command::new(program).arg0("cat"))
    }

    /// Sends a line.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for a line.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Kills it and leaves a zombie.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        let mut nothing = String::new();
        // Its end of the pipe closes as it dies; the pidfd tells when it is dead.
        while self.stdout.read_line(&mut nothing).unwrap() > 0 {}
        let deadline = Instant::now() + PATIENCE;
        while self.process.pidfd.is_alive() {
            assert!(
                Instant::now() < deadline,
                "process {} does not die",
                self.process.pid
            );
            std::thread::yield_now();
        }
    }

    /// Kills it and takes the last of it away.
    pub(crate) fn reap(&mut self) {
        self.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

/// A temporary folder and its path without links.
pub(crate) fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

/// Copies `cat` to `to`. By another process: one of ours that writes it would keep it from being executed,
/// in whatever child another test forks meanwhile.
pub(crate) fn copy_program(to: impl AsRef<OsStr>) {
    let script = r#"cp -L "$(command -v cat)" "$1""#;
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

/// The Python interpreter itself: a version manager may put a script before it.
pub(crate) fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let probe = ["-c", "import os, sys; print(os.path.realpath(sys.executable))"];
        let output = Command::new("python3").args(probe).output().unwrap();
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
    })
}

/// What was found, as sorted text.
pub(crate) fn found(evidence: &Evidence) -> Vec<String> {
    evidence.selectors().iter().map(ToString::to_string).collect()
}

/// The value of the one selector that begins with `prefix`.
pub(crate) fn value(evidence: &Evidence, prefix: &str) -> Option<String> {
    let all = found(evidence);
    let mut with_prefix = all.iter().filter_map(|selector| selector.strip_prefix(prefix));
    let first = with_prefix.next().map(str::to_owned);
    assert_eq!(with_prefix.next(), None, "more than one {prefix}");
    first
}

/// Why something was withheld.
pub(crate) fn reason<'a>(evidence: &'a Evidence, what: &str) -> Option<&'a str> {
    let withheld = evidence.withheld.iter().find(|withheld| withheld.what == what);
    withheld.map(|withheld| withheld.reason.as_str())
}

/// SHA-256 of a file, by another hand than the attestor's.
pub(crate) fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum")
        .arg("--zero")
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').next().unwrap().to_owned()
}
