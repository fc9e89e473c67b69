//! At a terminal: the run gets one of its own, and the caller's is as it was, whichever way the command line ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, isatty, tcgetattr, tcgetwinsize, tcsetwinsize};
use tokio::process::Child;
use tonic::Status;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_tests::wait::until;

use super::agent::{Agent, Following, Outcomes, ended, signal};

/// The terminal that the user sits at.
struct Terminal {
    user: File,
    end: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn new() -> anyhow::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags)?;
        unlockpt(&user)?;
        let end = ioctl_tiocgptpeer(&user, flags)?;
        tcsetwinsize(&end, size(50, 132))?;
        Ok(Self {
            user: user.into(),
            before: tcgetattr(&end)?,
            end,
        })
    }

    fn stdio(&self) -> anyhow::Result<Stdio> {
        Ok(self.end.try_clone()?.into())
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.end).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    fn is_as_before(&self) -> bool {
        let now = tcgetattr(&self.end).unwrap();
        (
            now.local_modes,
            now.input_modes,
            now.output_modes,
            now.control_modes,
        ) == (
            self.before.local_modes,
            self.before.input_modes,
            self.before.output_modes,
            self.before.control_modes,
        )
    }

    async fn raw(&self) -> Outcomes {
        until("the terminal is raw", async || self.is_raw().then_some(())).await
    }

    /// Reads what is shown until it is this.
    async fn shows(&self, text: &'static str) -> Outcomes {
        let mut user = self.user.try_clone()?;
        let reading = tokio::task::spawn_blocking(move || {
            let mut shown = String::new();
            let mut chunk = [0; 256];
            while !shown.contains(text) {
                let count = user.read(&mut chunk).unwrap();
                shown.push_str(&String::from_utf8_lossy(chunk.get(..count).unwrap()));
            }
        });
        tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, reading).await??;
        Ok(())
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A run that has begun at a terminal: the client, what the run was given, and its events.
async fn begun(agent: &mut Agent, terminal: &Terminal) -> anyhow::Result<(Child, [OwnedFd; 3], Following)> {
    let mut client = agent.client(&["--quiet", "--agent-wait", "1s"]);
    client
        .stdin(terminal.stdio()?)
        .stdout(terminal.stdio()?)
        .stderr(terminal.stdio()?);
    let child = client.spawn()?;
    let (request, passed, follow) = agent.launched().await;
    assert!(request.terminal);
    assert!(terminal.is_as_before(), "raw before anything runs");
    follow.start().await;
    terminal.raw().await?;
    Ok((child, passed.unwrap(), follow))
}

#[tokio::test]
async fn the_terminal_is_as_before_on_every_way_out() -> Outcomes {
    for way in ["exit", "signal", "unknown", "gone", "gone and signalled"] {
        let (mut agent, terminal) = (Agent::start(), Terminal::new()?);
        let (child, passed, follow) = begun(&mut agent, &terminal).await?;
        drop(passed);
        match way {
            "exit" => follow.end(Outcome::Exited(0), "").await,
            "signal" => {
                signal(&child, Signal::SIGTERM);
                assert_eq!(agent.signalled().await, Signal::SIGTERM as i32);
                follow.end(Outcome::Signalled(15), "").await;
            }
            "unknown" => follow.end(Outcome::Unknown(true), "").await,
            "gone" => agent.stop().await,
            _ => {
                agent.stop().await;
                signal(&child, Signal::SIGTERM);
            }
        }
        let said = ended(child).await?;
        match way {
            "exit" => assert!(said.status.success(), "{said:?}"),
            "unknown" | "gone" => assert_eq!(said.status.code(), Some(69), "{way}"),
            _ => assert_eq!(said.status.signal(), Some(15), "{way}"),
        }
        assert!(terminal.is_as_before(), "{way}");
    }
    Ok(())
}

#[tokio::test]
async fn a_launch_that_is_refused_leaves_the_terminal_alone() -> Outcomes {
    let (mut agent, terminal) = (Agent::start(), Terminal::new()?);
    let child = agent.client(&[]).stdin(terminal.stdio()?).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.fail(Status::permission_denied("no")).await;
    ended(child).await?.refused(77, "no")?;
    assert!(terminal.is_as_before());
    Ok(())
}

#[tokio::test]
async fn the_run_has_a_terminal_of_its_own_with_the_size_of_the_callers() -> Outcomes {
    let (mut agent, mut terminal) = (Agent::start(), Terminal::new()?);
    let (child, passed, follow) = begun(&mut agent, &terminal).await?;
    let [mut input, mut said, errors] = passed.map(File::from);
    assert!(isatty(&input) && isatty(&said) && isatty(&errors));
    assert_ne!(
        rustix::termios::ttyname(&input, Vec::new())?,
        rustix::termios::ttyname(&terminal.end, Vec::new())?
    );
    assert_eq!(tcgetwinsize(&said)?, size(50, 132));
    assert_eq!(
        tcgetattr(&input)?.local_modes,
        terminal.before.local_modes,
        "settings are the caller's"
    );

    tcsetwinsize(&terminal.end, size(24, 80))?;
    signal(&child, Signal::SIGWINCH);
    until("the run's terminal has the new size", async || {
        (tcgetwinsize(&said).ok()? == size(24, 80)).then_some(())
    })
    .await?;

    terminal.user.write_all(b"hello\r")?;
    let mut line = [0; 6];
    let reading = tokio::task::spawn_blocking(move || {
        input.read_exact(&mut line).unwrap();
        line
    });
    let line = tokio::time::timeout(vouchsafe_tests::wait::DEADLINE, reading).await??;
    assert_eq!(&line, b"hello\n");
    terminal.shows("hello\r\n").await?;
    said.write_all(b"to the last byte")?;
    drop((said, errors));
    follow.end(Outcome::Exited(0), "").await;
    terminal.shows("to the last byte").await?;
    assert!(ended(child).await?.status.success());
    assert!(terminal.is_as_before());
    Ok(())
}

#[tokio::test]
async fn only_what_is_a_terminal_is_replaced() -> Outcomes {
    let (mut agent, terminal) = (Agent::start(), Terminal::new()?);
    let child = agent.client(&["--quiet"]).stdin(terminal.stdio()?).spawn()?;
    let (_, passed, follow) = agent.launched().await;
    follow.start().await;
    let [input, mut said, errors] = passed.unwrap().map(File::from);
    assert!(isatty(&input) && !isatty(&said) && !isatty(&errors));
    said.write_all(b"through the pipe")?;
    drop((input, said, errors));
    follow.end(Outcome::Exited(0), "").await;
    assert_eq!(ended(child).await?.out, "through the pipe");
    assert!(terminal.is_as_before());

    let child = agent
        .client(&["--quiet", "--detach"])
        .stdin(terminal.stdio()?)
        .spawn()?;
    let (request, passed, follow) = agent.launched().await;
    assert!(
        !request.terminal && passed.is_none(),
        "a detached run has no terminal"
    );
    follow.start().await;
    assert!(ended(child).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn a_command_line_that_is_stopped_gives_the_terminal_back_meanwhile() -> Outcomes {
    let (mut agent, terminal) = (Agent::start(), Terminal::new()?);
    let (child, passed, follow) = begun(&mut agent, &terminal).await?;
    signal(&child, Signal::SIGTSTP);
    assert_eq!(agent.signalled().await, Signal::SIGSTOP as i32);
    until("the terminal is as before", async || {
        terminal.is_as_before().then_some(())
    })
    .await?;
    signal(&child, Signal::SIGCONT);
    assert_eq!(agent.signalled().await, Signal::SIGCONT as i32);
    terminal.raw().await?;
    drop(passed);
    follow.end(Outcome::Exited(0), "").await;
    assert!(ended(child).await?.status.success());
    assert!(terminal.is_as_before());
    Ok(())
}
