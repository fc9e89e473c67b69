//! What is refused, by whom, and in which words.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use prost::Message;
use tonic::{Code, Status};
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_proto::vouchsafe::run::v1::AdmissionRefused;
use vouchsafe_proto::vouchsafe::run::v1::admission_refused::Reason;

use super::agent::{Agent, Outcomes, ended};

#[tokio::test]
async fn an_agent_that_is_not_there_is_named_with_its_flag() -> Outcomes {
    let mut agent = Agent::start();
    agent.stop().await;
    let said = ended(agent.client(&[]).spawn()?).await?;
    said.refused(69, "--launch-socket")?;
    said.refused(69, "is the agent running")
}

#[tokio::test]
async fn a_wrong_command_line_asks_nobody() -> Outcomes {
    let mut agent = Agent::start();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["run"], 64, "Usage"),
        (&["run", "--class", "a"], 64, "COMMAND"),
        (&["run", "--class", "a", "--"], 64, "COMMAND"),
        (&["run", "--", "true"], 64, "--class"),
        (&["run", "--class", "a", "true"], 64, "true"),
        (
            &["run", "--class", "a", "--label", "wrong", "--", "true"],
            64,
            "key=value",
        ),
        (&["run", "--class", "a", "list"], 64, "--"),
        (&["run", "--class", "a", "list", "--", "true"], 64, "list"),
    ];
    for (arguments, code, text) in cases {
        let said = ended(agent.asking(arguments).spawn()?).await?;
        said.refused(code, text)?;
    }
    for (command, code) in [
        ("no-such-command", 127),
        ("/no/such", 127),
        ("/etc/passwd", 126),
        ("", 127),
    ] {
        let said = ended(agent.asking(&["run", "--class", "a", "--", command]).spawn()?).await?;
        said.refused(code, &format!("`{command}`"))?;
    }
    agent.stop().await;
    assert!(agent.is_unasked(), "nobody was asked");
    Ok(())
}

#[tokio::test]
async fn what_the_server_refuses_is_told_with_reason_and_next_step() -> Outcomes {
    let cases = [
        (
            Reason::LauncherNotAllowed,
            Code::PermissionDenied,
            77,
            "class show a",
        ),
        (Reason::UnknownClass, Code::PermissionDenied, 77, "class list"),
        (Reason::MaxRuns, Code::ResourceExhausted, 75, "run list --class a"),
        (Reason::ClassChanged, Code::FailedPrecondition, 75, "try again"),
    ];
    for (reason, code, exit, next) in cases {
        let mut agent = Agent::start();
        let child = agent.client(&[]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.fail(admission_refused(reason, code)).await;
        let said = ended(child).await?;
        said.refused(exit, "not today")?;
        said.refused(exit, next)?;
    }
    Ok(())
}

fn admission_refused(reason: Reason, code: Code) -> Status {
    /// `google.rpc.Status`, as far as it is needed.
    #[derive(Clone, PartialEq, Message)]
    struct RpcStatus {
        #[prost(message, repeated, tag = "3")]
        details: Vec<prost_types::Any>,
    }
    let detail = AdmissionRefused {
        reason: reason.into(),
        detail: "not today".to_owned(),
    };
    let any = prost_types::Any {
        type_url: "type.googleapis.com/vouchsafe.run.v1.AdmissionRefused".to_owned(),
        value: detail.encode_to_vec(),
    };
    let details = RpcStatus { details: vec![any] }.encode_to_vec();
    Status::with_details(code, "not today", details.into())
}

#[tokio::test]
async fn what_the_agent_refuses_has_its_code() -> Outcomes {
    let cases = [
        (Code::NotFound, 65),
        (Code::InvalidArgument, 65),
        (Code::PermissionDenied, 77),
        (Code::Unavailable, 75),
        (Code::FailedPrecondition, 1),
    ];
    for (code, exit) in cases {
        let mut agent = Agent::start();
        let child = agent.client(&["--output", "json"]).spawn()?;
        let (_, _, follow) = agent.launched().await;
        follow.fail(Status::new(code, "no \u{1b}[2J")).await;
        let said = ended(child).await?;
        said.refused(exit, "no ")?;
        let error: serde_json::Value = serde_json::from_str(&said.err)?;
        assert_eq!(error["error"]["exit_code"], exit);
    }
    Ok(())
}

#[tokio::test]
async fn a_closed_input_is_an_empty_one() -> Outcomes {
    let mut agent = Agent::start();
    let mut shell = tokio::process::Command::new("sh");
    let client = agent.client(&[]);
    let program = client.as_std().get_program();
    shell.args(["-c", "exec 0<&-; exec \"$@\"", "sh"]);
    shell.arg(program).args(client.as_std().get_args());
    shell.env("VOUCHSAFE_LAUNCH_SOCKET", agent.socket());
    let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (_, passed, follow) = agent.launched().await;
    let [input, ..] = passed.unwrap();
    let text = std::io::read_to_string(std::fs::File::from(input))?;
    assert_eq!(text, "");
    follow.start().await;
    follow.end(Outcome::Exited(0), "").await;
    assert!(ended(child).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn arguments_and_variables_come_as_they_are_even_those_that_are_no_text_or_large() -> Outcomes {
    let mut agent = Agent::start();
    let odd = OsString::from_vec(vec![b'a', 0xff, b'\n', 0xfe]);
    let large = "x".repeat(120 * 1024);
    let mut client = agent.client(&["--task", "T-1", "--label", "team=blue", "--label", "empty="]);
    client.arg(&odd).args(["--class", "--", "-x"]);
    client.env("ODD", &odd);
    for n in 0..12 {
        client.env(format!("LARGE{n}"), &large);
    }
    let child = client.current_dir("/usr").spawn()?;
    let (request, passed, follow) = agent.launched().await;
    let odd = odd.into_vec();
    let given: Vec<&[u8]> = request.arguments.iter().map(Vec::as_slice).collect();
    assert_eq!(given, [b"true".as_slice(), &odd, b"--class", b"--", b"-x"]);
    assert!(request.environment.contains(&[b"ODD=".as_slice(), &odd].concat()));
    let larges = request
        .environment
        .iter()
        .filter(|variable| variable.len() > large.len());
    assert_eq!(larges.count(), 12);
    assert_eq!(request.working_directory, b"/usr");
    assert_eq!((request.class.as_str(), request.task.as_str()), ("a", "T-1"));
    assert_eq!(
        (request.labels["team"].as_str(), request.labels["empty"].as_str()),
        ("blue", "")
    );
    assert!(!request.detached && !request.terminal && passed.is_some());
    drop(passed);
    follow.start().await;
    follow.end(Outcome::Exited(0), "").await;
    assert!(ended(child).await?.status.success());
    Ok(())
}
