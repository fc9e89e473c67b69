//! The programs under `tests/clients`: each uses a SPIFFE library that we did not write, does one thing, and
//! tells what happened as JSON lines (`{"event": …}`) on stdout. A line that does not come within the
//! deadline, or a client that ends early, is an error that carries what the client wrote to stderr.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::wait::DEADLINE;
use crate::{dependencies, repository};

/// The Python interpreter with `spiffe` and `spiffe-tls`.
#[must_use]
pub fn interpreter() -> PathBuf {
    dependencies().join("python/bin/python")
}

/// A Python of this host whose library is a shared one, new enough for the scripts of the tests: from the search path, or of
/// pyenv.
#[must_use]
pub fn shared_python() -> Option<PathBuf> {
    const ASK: &str = "import sys, sysconfig\n\
        sys.exit(not (sysconfig.get_config_var('Py_ENABLE_SHARED') and sys.version_info >= (3, 11)))";
    let pyenv = std::env::home_dir().map(|home| home.join(".pyenv/versions"));
    let versions = pyenv.and_then(|versions| versions.read_dir().ok());
    let versions = versions.into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin/python3"))
        .collect();
    found.sort();
    let shared = |python: &PathBuf| {
        let mut command = std::process::Command::new(python);
        let asked = command
            .args(["-c", ASK])
            .stderr(std::process::Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    found.insert(0, "python3".into());
    found.into_iter().find(shared)
}

/// One of the scripts in `tests/clients/python`, named without its `.py`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    repository()
        .join("tests/clients/python")
        .join(name)
        .with_extension("py")
}

/// Runs one of the scripts in `tests/clients/python`: `fetch_x509`, `fetch_jwt`, `watch_x509`, `mtls`.
#[must_use]
pub fn python(name: &str) -> Command {
    let mut command = Command::new(interpreter());
    command.arg(script(name));
    command
}

/// The Go client, which uses go-spiffe; the verb is its first argument.
#[must_use]
pub fn go(verb: &str) -> Command {
    let mut command = Command::new(dependencies().join("go/peer"));
    command.arg(verb);
    command
}

/// The Go client of the server's API, which uses SPIRE's published API module; the verb comes next.
#[must_use]
pub fn go_server_api(socket: &Path) -> Command {
    let mut command = Command::new(dependencies().join("go/serverapi"));
    command.arg(socket);
    command
}

/// The Java client, which uses java-spiffe; the verb is its first argument.
#[must_use]
pub fn java(verb: &str) -> Command {
    let folder = dependencies().join("java");
    let mut classes = folder.join("classes").into_os_string();
    classes.push(":");
    classes.push(folder.join("lib/*"));
    let mut command = Command::new("java");
    // One core's worth of JVM: the tests share two.
    command
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(classes);
    command.args(["example.vouchsafe.Peer", verb]);
    command
}

/// The address of a Workload API socket, as `SPIFFE_ENDPOINT_SOCKET` takes it.
#[must_use]
pub fn endpoint(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// A client that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Client {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    complaints: NamedTempFile,
}

impl Client {
    /// Starts a client with this Workload API socket.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start(mut command: Command, socket: &Path) -> anyhow::Result<Self> {
        command.env("SPIFFE_ENDPOINT_SOCKET", endpoint(socket));
        Self::spawn(command)
    }

    /// Starts a client whose environment is already complete.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let complaints = NamedTempFile::new()?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command.stderr(complaints.reopen()?);
        let program = command.as_std().get_program().to_owned();
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", shown(&program)))?;
        let output = child.stdout.take().context("stdout is piped")?;
        let lines = BufReader::new(output).lines();
        Ok(Self {
            input: child.stdin.take(),
            child,
            lines,
            complaints,
        })
    }

    /// The client's process id, while it has not been waited for.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn pid(&self) -> anyhow::Result<i32> {
        let pid = self.child.id().context("the client has ended")?;
        Ok(i32::try_from(pid)?)
    }

    /// The next line.
    ///
    /// # Errors
    /// When no line comes within the deadline, the client ends, or the line is not JSON.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        let line = match timeout(DEADLINE, self.lines.next_line()).await {
            Ok(line) => line?,
            Err(_) => bail!(
                "no line within {} s; stderr:\n{}",
                DEADLINE.as_secs(),
                self.stderr()
            ),
        };
        let Some(line) = line else {
            bail!(
                "the client ended without another line; stderr:\n{}",
                self.stderr()
            )
        };
        serde_json::from_str(&line).with_context(|| format!("not JSON: `{line}`"))
    }

    /// The next line, which must tell of this event.
    ///
    /// # Errors
    /// As [`Client::next`], and when the line tells of another event.
    pub async fn expect(&mut self, event: &str) -> anyhow::Result<Value> {
        let line = self.next().await?;
        let told = line.get("event").and_then(Value::as_str);
        ensure!(
            told == Some(event),
            "expected `{event}`, got {line}; stderr:\n{}",
            self.stderr()
        );
        Ok(line)
    }

    /// Every line until the client closes its stdout.
    ///
    /// # Errors
    /// When it does not within the deadline, or a line is not JSON.
    pub async fn rest(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut values = Vec::new();
        loop {
            match timeout(DEADLINE, self.lines.next_line()).await {
                Ok(Ok(Some(line))) => values.push(serde_json::from_str(&line).context(line)?),
                Ok(Ok(None)) => return Ok(values),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => bail!("the client did not end its output; stderr:\n{}", self.stderr()),
            }
        }
    }

    /// Writes a line to the client's stdin.
    ///
    /// # Errors
    /// When the client does not read it any more.
    pub async fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("stdin is closed")?;
        input.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(input.flush().await?)
    }

    /// Closes the client's stdin, which tells it to end, and waits for that.
    ///
    /// # Errors
    /// When it does not end within the deadline.
    pub async fn finish(&mut self) -> anyhow::Result<ExitStatus> {
        self.input = None;
        match timeout(DEADLINE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("the client did not end; stderr:\n{}", self.stderr()),
        }
    }

    /// What the client has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        std::fs::read(self.complaints.path()).map_or_else(
            |error| error.to_string(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }
}

/// Runs a client that tells one thing and ends: its line and its exit code.
///
/// # Errors
/// As [`Client::next`] and [`Client::finish`].
pub async fn one_shot(command: Command, socket: &Path) -> anyhow::Result<(Value, ExitStatus)> {
    let mut client = Client::start(command, socket)?;
    let line = client.next().await?;
    Ok((line, client.finish().await?))
}

fn shown(program: &OsStr) -> std::path::Display<'_> {
    Path::new(program).display()
}
