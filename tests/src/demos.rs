//! The programs under `demo/`, run with the binaries of this build: what they print, and that they leave nothing.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::daemons::binary;
use crate::wait::{DEADLINE, until};
use crate::{dependencies, repository};

/// A whole demo takes a quarter of this on two busy cores.
const WHOLE: Duration = Duration::from_secs(180);

/// One of the demos.
#[derive(Debug, Clone, Copy)]
pub struct Demo {
    /// The program, in `demo/`.
    pub program: &'static str,
    /// The part of `make deps` whose interpreter runs it.
    pub interpreter: &'static str,
    /// Where it keeps state and logs, in `demo/`.
    pub home: &'static str,
}

impl Demo {
    /// Starts it.
    ///
    /// # Errors
    /// When the binaries are not built, or it cannot be run.
    pub fn start(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let binaries = binary("vouchsafe")?.parent().context("a folder")?.to_owned();
        for name in ["vouchsafe-server", "vouchsafe-agent", "vouchsafe-supervisor"] {
            binary(name)?;
        }
        let interpreter = dependencies().join(self.interpreter).join("bin/python");
        let mut command = Command::new(interpreter);
        command
            .arg(repository().join("demo").join(self.program))
            .args(arguments)
            .arg("--binaries")
            .arg(binaries);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().context("cannot run the demo")
    }

    /// A file of its home.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        repository().join("demo").join(self.home).join(name)
    }

    /// The folder outside the checkout that a run used, from the agent's configuration that it left.
    #[must_use]
    pub fn stage(&self) -> Option<PathBuf> {
        let config = std::fs::read_to_string(self.file("agent.toml")).ok()?;
        let config: toml::Table = config.parse().ok()?;
        let socket = Path::new(config.get("workload_socket")?.as_str()?);
        socket.ancestors().nth(2).map(Path::to_owned)
    }

    /// Runs it to its end: it succeeds, prints each of these texts, and leaves nothing. Returns what it printed.
    ///
    /// # Errors
    /// When it does otherwise; the error has all that it printed.
    pub async fn shows(&self, arguments: &[&str], wanted: &[&str]) -> anyhow::Result<String> {
        let (output, told) = ended(self.start(arguments)?).await?;
        ensure!(output.status.success(), "{told}");
        for text in wanted {
            ensure!(told.contains(text), "`{text}` is missing from:\n{told}");
        }
        self.left_nothing()?;
        Ok(told)
    }

    /// Interrupts it as Ctrl-C does, once its new stage has come to this point: it says so, and leaves nothing.
    ///
    /// # Errors
    /// When it does otherwise, or does not come to that point.
    pub async fn interrupted(&self, point: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        let old = self.stage();
        let demo = self.start(&[])?;
        let pid = Pid::from_raw(i32::try_from(demo.id().context("the demo runs")?)?);
        until("the demo has come to the point", async || {
            self.stage()
                .filter(|stage| Some(stage) != old.as_ref() && point(stage))
        })
        .await?;
        kill(pid, Signal::SIGINT)?;
        let (output, told) = timeout(DEADLINE, ended(demo)).await??;
        ensure!(
            output.status.code() == Some(1) && told.contains("ended by SIGINT"),
            "{told}"
        );
        self.left_nothing()
    }

    fn left_nothing(&self) -> anyhow::Result<()> {
        let stage = self.stage().context("the demo wrote no configuration")?;
        ensure!(!stage.exists(), "`{}` is still there", stage.display());
        let left = processes_of(&[&stage, &self.file("")])?;
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    }
}

async fn ended(demo: Child) -> anyhow::Result<(Output, String)> {
    let output = timeout(WHOLE, demo.wait_with_output())
        .await
        .context("the demo does not end")??;
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    Ok((output, told))
}

/// The processes that name one of these folders in their arguments.
fn processes_of(folders: &[&Path]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let arguments = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if folders
            .iter()
            .any(|folder| arguments.contains(folder.to_string_lossy().as_ref()))
        {
            found.push(arguments);
        }
    }
    Ok(found)
}
