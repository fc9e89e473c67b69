//! How `vouchsafe run` ends: as the program does, or, where the agent goes away, with what is known.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::Status;
use vouchsafe_proto::vouchsafe::launch::v1::OutputChunk;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_tests::wait::until;

use super::agent::{Agent, Call, ID, Outcomes, RUN, ended, signal, told};

#[tokio::test]
async fn an_agent_that_goes_away_before_the_launch_is_told_apart_from_a_run_that_is_lost() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.client(&[]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    agent.stop().await;
    drop(follow);
    ended(child).await?.refused(75, "before it launched the run")
}

#[tokio::test]
async fn an_agent_that_stays_away_is_not_waited_for_without_end() -> Outcomes {
    let mut agent = Agent::start();
    let flags = ["--output", "json", "--agent-wait", "1s"];
    let mut child = agent.client(&flags).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    told(&mut child, "started").await;
    agent.stop().await;
    let said = ended(child).await?;
    said.refused(69, "--agent-wait")?;
    said.refused(69, &format!("`vouchsafe run show {RUN}`"))
}

#[tokio::test]
async fn an_agent_that_is_back_and_no_longer_knows_the_run_is_believed() -> Outcomes {
    let mut agent = Agent::start();
    let mut child = agent.client(&["--output", "json"]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    told(&mut child, "started").await;
    agent.stop().await;
    agent.again();
    let Call::Follow(run, follow) = agent.call().await else {
        panic!("not followed");
    };
    assert_eq!(run, RUN);
    follow.fail(Status::not_found("no such run")).await;
    ended(child).await?.refused(69, "no such run")
}

#[tokio::test]
async fn a_deadly_signal_while_the_agent_is_away_ends_the_wait() -> Outcomes {
    let mut agent = Agent::start();
    let mut child = agent.client(&["--output", "json"]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    told(&mut child, "started").await;
    agent.stop().await;
    signal(&child, Signal::SIGINT);
    let said = ended(child).await?;
    assert_eq!(said.status.signal(), Some(Signal::SIGINT as i32), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_that_outlives_its_agent_is_followed_on() -> Outcomes {
    let mut agent = Agent::start();
    let mut child = agent.client(&["--output", "json"]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    told(&mut child, "started").await;
    for _ in 0..3 {
        agent.stop().await;
        agent.again();
        let Call::Follow(_, follow) = agent.call().await else {
            panic!("not followed");
        };
        follow.start().await;
        signal(&child, Signal::SIGTERM);
        assert_eq!(agent.signalled().await, Signal::SIGTERM as i32);
    }
    agent.stop().await;
    agent.again();
    let Call::Follow(_, follow) = agent.call().await else {
        panic!("not followed");
    };
    follow.end(Outcome::Exited(9), "").await;
    ended(child).await?.refused(9, "")
}

#[tokio::test]
async fn a_run_that_the_agent_lost_sight_of_is_no_success() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.client(&[]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    follow.end(Outcome::Unknown(true), "").await;
    ended(child).await?.refused(69, "lost sight of it")
}

#[tokio::test]
async fn a_signal_before_the_program_runs_ends_the_launch() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.client(&[]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    signal(&child, Signal::SIGTERM);
    follow.given_up().await;
    let said = ended(child).await?;
    assert_eq!(said.status.signal(), Some(Signal::SIGTERM as i32), "{said:?}");
    Ok(())
}

/// Without it, a program that has just begun would be killed, though it does something about the signal.
#[tokio::test]
async fn a_signal_between_admission_and_start_is_for_the_program_and_a_second_one_ends_the_launch() -> Outcomes
{
    for patient in [true, false] {
        let mut agent = Agent::start();
        let mut child = agent.client(&["--output", "json"]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.admit().await;
        told(&mut child, "admitted").await;
        signal(&child, Signal::SIGTERM);
        if patient {
            until("the signal is taken", async || {
                (!pending(&child, Signal::SIGTERM)).then_some(())
            })
            .await?;
            follow.start().await;
            assert_eq!(agent.signalled().await, Signal::SIGTERM as i32);
            follow.end(Outcome::Exited(3), "").await;
            assert_eq!(ended(child).await?.status.code(), Some(3));
        } else {
            signal(&child, Signal::SIGHUP);
            follow.given_up().await;
            // The kernel gives them in the order of their numbers.
            assert!(matches!(ended(child).await?.status.signal(), Some(1 | 15)));
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_programs_end_is_its_own() -> Outcomes {
    for code in [0, 1, 3, 77, 255] {
        let mut agent = Agent::start();
        let child = agent.client(&["--quiet"]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.start().await;
        follow.end(Outcome::Exited(code), "").await;
        let said = ended(child).await?;
        assert_eq!(said.status.code(), Some(code));
        assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""));
    }
    for number in [2, 3, 6, 9, 11, 15] {
        let mut agent = Agent::start();
        let child = agent.client(&["--quiet"]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.start().await;
        follow.end(Outcome::Signalled(number), "").await;
        let said = ended(child).await?;
        assert_eq!(said.status.signal(), Some(number), "{said:?}");
        assert!(!said.status.core_dumped(), "no core of the command line");
    }
    // Signals that do nothing to us are told as a shell tells them.
    for number in [13, 40] {
        let mut agent = Agent::start();
        let child = agent.client(&["--quiet"]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.start().await;
        follow.end(Outcome::Signalled(number), "").await;
        assert_eq!(ended(child).await?.status.code(), Some(128 + number));
    }
    Ok(())
}

#[tokio::test]
async fn signals_are_for_the_run_and_those_that_were_ignored_stay_ignored() -> Outcomes {
    use Signal::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGSTOP, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH};
    let mut agent = Agent::start();
    let mut shell = tokio::process::Command::new("sh");
    let client = agent.client(&["--output", "json"]);
    shell.args(["-c", "trap '' USR2; exec \"$@\"", "sh"]);
    shell
        .arg(client.as_std().get_program())
        .args(client.as_std().get_args());
    shell
        .env("VOUCHSAFE_LAUNCH_SOCKET", agent.socket())
        .kill_on_drop(true);
    let mut child = shell.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    told(&mut child, "started").await;
    for passed in [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGWINCH] {
        signal(&child, SIGUSR2);
        signal(&child, passed);
        assert_eq!(agent.signalled().await, passed as i32);
    }
    signal(&child, SIGTSTP);
    assert_eq!(
        agent.signalled().await,
        SIGSTOP as i32,
        "the kernel stops no session's leader by TSTP"
    );
    until("the command line has stopped", async || {
        (state(&child) == "T").then_some(())
    })
    .await?;
    signal(&child, SIGCONT);
    assert_eq!(agent.signalled().await, SIGCONT as i32);
    follow.end(Outcome::Exited(0), "").await;
    assert!(ended(child).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn the_run_has_the_callers_own_input_and_output_and_nobody_else_says_anything() -> Outcomes {
    let mut agent = Agent::start();
    let (input, mut typed) = std::io::pipe()?;
    let child = agent.client(&["--quiet"]).stdin(Stdio::from(input)).spawn()?;
    let (_, passed, follow) = agent.launched().await;
    follow.start().await;
    let [input, said, errors] = passed.unwrap().map(File::from);
    write!(typed, "typed")?;
    drop(typed);
    assert_eq!(std::io::read_to_string(input)?, "typed");
    write!(&said, "said")?;
    write!(&errors, "errors")?;
    drop((said, errors));
    follow.end(Outcome::Exited(0), "").await;
    let said = ended(child).await?;
    assert_eq!((said.out.as_str(), said.err.as_str()), ("said", "errors"));
    Ok(())
}

#[tokio::test]
async fn people_are_told_what_was_taken_out_and_why_it_ended() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.client(&[]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    follow.end(Outcome::Signalled(9), "killed by an operator").await;
    let said = ended(child).await?;
    assert_eq!(said.out, "");
    for text in ["`PYTHONPATH`", "it shares its user", "killed by an operator"] {
        assert!(said.err.contains(text), "{said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn programs_are_told_on_standard_error_a_line_for_each_event() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.client(&["--output", "json"]).spawn()?;
    let (_, _, follow) = agent.launched().await;
    follow.start().await;
    follow.end(Outcome::Exited(4), "").await;
    let said = ended(child).await?;
    assert_eq!((said.status.code(), said.out.as_str()), (Some(4), ""));
    let lines: Vec<Value> = said
        .err
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["admitted", "started", "ended"]);
    assert!(lines.iter().all(|line| line["run"] == RUN), "{lines:?}");
    assert_eq!(lines[1]["spiffe_id"], ID);
    assert_eq!(
        (&lines[2]["exited"], &lines[2]["signalled"]),
        (&Value::from(4), &Value::Null)
    );
    Ok(())
}

#[tokio::test]
async fn a_detached_run_is_left_alone_and_named() -> Outcomes {
    for json in [false, true] {
        let mut agent = Agent::start();
        let format = if json { "json" } else { "table" };
        let child = agent
            .client(&["--detach", "--quiet", "--output", format])
            .spawn()?;
        let (request, passed, follow) = agent.launched().await;
        assert!(request.detached && passed.is_none());
        follow.start().await;
        let said = ended(child).await?;
        assert!(said.status.success(), "{said:?}");
        match json {
            false => assert_eq!(said.out, format!("{RUN}\n")),
            true => assert_eq!(serde_json::from_str::<Value>(&said.out)?["run"], RUN),
        }
        assert_eq!(said.err, "");
    }
    Ok(())
}

#[tokio::test]
async fn logs_are_byte_for_byte_what_the_run_said() -> Outcomes {
    let mut agent = Agent::start();
    let child = agent.asking(&["run", "logs", RUN, "--follow"]).spawn()?;
    let Call::Read(follow, chunks) = agent.call().await else {
        panic!("not read");
    };
    assert!(follow);
    for text in ["one\n", "\u{1b}[1mtwo"] {
        let output = text.as_bytes().to_vec();
        chunks.send(Ok(OutputChunk { output })).await?;
    }
    drop(chunks);
    let said = ended(child).await?;
    assert_eq!(
        (said.status.code(), said.out.as_str()),
        (Some(0), "one\n\u{1b}[1mtwo")
    );

    let child = agent.asking(&["run", "logs", RUN]).spawn()?;
    let Call::Read(false, chunks) = agent.call().await else {
        panic!("not read");
    };
    chunks.send(Err(Status::not_found("no such run"))).await?;
    ended(child).await?.refused(65, "no such run")
}

/// Whether the process was sent a signal and has not taken it yet.
fn pending(child: &tokio::process::Child, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t"));
    u64::from_str_radix(line.unwrap(), 16).unwrap() & (1 << (signal as i32 - 1)) != 0
}

fn state(child: &tokio::process::Child) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("State:\t"));
    line.unwrap()[..1].to_owned()
}
