//! `make demo`, with the binaries of this build: it succeeds twice in a row, and when it is interrupted it says
//! so and leaves nothing running and nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::wait::{DEADLINE, until};
use vouchsafe_tests::{repository, require};

/// The whole demo takes a quarter of this on two busy cores.
const WHOLE_DEMO: std::time::Duration = std::time::Duration::from_secs(180);

fn start() -> anyhow::Result<Child> {
    let binaries = binary("vouchsafe")?.parent().context("a folder")?.to_owned();
    ensure!(binary("vouchsafe-server")?.is_file() && binary("vouchsafe-agent")?.is_file());
    let mut command = Command::new(interpreter());
    command
        .arg(repository().join("demo/run"))
        .arg("--binaries")
        .arg(binaries);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn().context("cannot run the demo")
}

async fn ended(demo: Child) -> anyhow::Result<(Output, String)> {
    let output = timeout(WHOLE_DEMO, demo.wait_with_output())
        .await
        .context("the demo does not end")??;
    let told = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    Ok((output, told))
}

/// The folder outside the checkout that a run used, from the agent's configuration that it left.
fn stage() -> Option<PathBuf> {
    let config = std::fs::read_to_string(repository().join("demo/.run/agent.toml")).ok()?;
    let config: toml::Table = config.parse().ok()?;
    let socket = Path::new(config.get("workload_socket")?.as_str()?);
    socket.ancestors().nth(2).map(Path::to_owned)
}

/// The processes that name this folder in their arguments.
fn processes_of(stage: &Path) -> anyhow::Result<Vec<String>> {
    let stage = stage.to_string_lossy();
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        // A process may end while it is looked at.
        let arguments = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(stage.as_ref()) || arguments.contains("demo/.run/") {
            found.push(arguments);
        }
    }
    Ok(found)
}

fn left_nothing() -> anyhow::Result<()> {
    let stage = stage().context("the demo wrote no configuration")?;
    ensure!(!stage.exists(), "`{}` is still there", stage.display());
    let left = processes_of(&stage)?;
    ensure!(left.is_empty(), "still running: {left:?}");
    Ok(())
}

async fn shows_everything() -> anyhow::Result<()> {
    let (output, told) = ended(start()?).await?;
    ensure!(output.status.success(), "{told}");
    let wanted = [
        "I am spiffe://example.org/agent/researcher",
        "I am spiffe://example.org/agent/coder",
        "I am spiffe://example.org/agent/reviewer",
        "3 of 3 examples come out right",
        "a caller without an SVID: the reviewer hung up",
        "reviewer: not spiffe://example.org/agent/researcher",
        "under the same uid: PERMISSION_DENIED",
        "vouchsafe explain",
    ];
    for text in wanted {
        ensure!(told.contains(text), "`{text}` is missing from:\n{told}");
    }
    left_nothing()
}

async fn interrupted() -> anyhow::Result<()> {
    let demo = start()?;
    let pid = Pid::from_raw(i32::try_from(demo.id().context("the demo runs")?)?);
    let old = stage();
    until("the demo's agent has started", async || {
        stage().filter(|stage| Some(stage) != old.as_ref() && stage.join("run/workload.sock").exists())
    })
    .await?;
    kill(pid, Signal::SIGINT)?;
    let (output, told) = timeout(DEADLINE, ended(demo)).await??;
    ensure!(
        output.status.code() == Some(1) && told.contains("ended by SIGINT"),
        "{told}"
    );
    left_nothing()
}

#[tokio::test]
async fn it_shows_everything_twice_and_cleans_up_when_interrupted() {
    require!(Need::Python);
    shows_everything().await.unwrap();
    interrupted().await.unwrap();
    shows_everything().await.unwrap();
}
