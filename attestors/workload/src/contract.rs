//! What every workload attestor must do, whatever it looks for. Each attestor's tests call [`holds`].

use std::process::Command;
use std::time::Duration;

use vouchsafe_attestors::{Asked, Process, Reach, WorkloadAttestError, WorkloadAttestor, trust_of};

use crate::subject::{Subject, copy_program, folder, python};

/// Longest that any answer may take here: far below the deadline of hung reads.
const SOON: Duration = Duration::from_secs(5);

/// Runs the whole suite.
pub(crate) async fn holds(attestor: &dyn WorkloadAttestor) {
    a_process_that_ended_is_gone(attestor).await;
    a_number_without_a_process_is_refused(attestor).await;
    findings_are_of_its_own_type_and_the_same_each_time(attestor).await;
    beyond_the_namespace_it_says_what_it_withholds(attestor).await;
    a_pipe_for_a_script_does_not_hold_it_up(attestor).await;
}

async fn a_process_that_ended_is_gone(attestor: &dyn WorkloadAttestor) {
    let (_folder, path) = folder();
    let program = path.join("program");
    copy_program(&program);
    let mut ended = Subject::plain(&program);
    ended.kill();
    let zombie = attestor.attest(&ended.process, &Asked::everything()).await;
    assert!(
        matches!(zombie, Err(WorkloadAttestError::Gone { .. })),
        "{zombie:?}"
    );
    ended.reap();
    let reaped = attestor.attest(&ended.process, &Asked::everything()).await;
    assert!(
        matches!(reaped, Err(WorkloadAttestError::Gone { .. })),
        "{reaped:?}"
    );

    // Its number may be another process's by now.
    let other = Subject::plain(&program);
    let reused = Process {
        pid: other.process.pid,
        ..ended.process.clone()
    };
    let reused = attestor.attest(&reused, &Asked::everything()).await;
    assert!(
        matches!(reused, Err(WorkloadAttestError::Gone { .. })),
        "{reused:?}"
    );
}

async fn a_number_without_a_process_is_refused(attestor: &dyn WorkloadAttestor) {
    let subject = Subject::start(Command::new(python()).arg("-"));
    for pid in [0, -1, i32::MIN, i32::MAX] {
        let process = Process {
            pid,
            ..subject.process.clone()
        };
        let refused = attestor.attest(&process, &Asked::everything()).await;
        assert!(
            matches!(refused, Err(WorkloadAttestError::Unreadable { .. })),
            "{pid}: {refused:?}"
        );
    }
}

async fn findings_are_of_its_own_type_and_the_same_each_time(attestor: &dyn WorkloadAttestor) {
    let subject = Subject::start(Command::new(python()).arg("-"));
    let evidence = attestor
        .attest(&subject.process, &Asked::everything())
        .await
        .unwrap();
    assert!(!evidence.findings.is_empty());
    for finding in &evidence.findings {
        assert_eq!(finding.selector.kind(), attestor.name());
        assert_eq!(finding.trust, trust_of(&finding.selector), "{}", finding.selector);
    }
    assert_eq!(
        attestor
            .attest(&subject.process, &Asked::everything())
            .await
            .unwrap(),
        evidence
    );
}

async fn beyond_the_namespace_it_says_what_it_withholds(attestor: &dyn WorkloadAttestor) {
    let subject = Subject::start(Command::new(python()).arg("-"));
    let full = attestor
        .attest(&subject.process, &Asked::everything())
        .await
        .unwrap();
    let process = Process {
        reach: Reach::NamespaceOnly {
            reason: "a foreign namespace".to_owned(),
        },
        ..subject.process.clone()
    };
    let less = attestor.attest(&process, &Asked::everything()).await.unwrap();
    assert!(less.selectors().is_subset(&full.selectors()));
    let of_the_program = [
        "path:",
        "sha256:",
        "supplementary_",
        "script",
        "interpreter",
        "module:",
        "inline:",
        "venv:",
        "lock_sha256:",
        "package:",
        "cwd:",
        "immutable:",
        "non_dumpable:",
        "cgroup:",
        "systemd_",
    ];
    for selector in less.selectors() {
        let told = of_the_program
            .iter()
            .find(|name| selector.value().starts_with(*name));
        assert_eq!(told, None, "{selector}");
    }
    for withheld in &less.withheld {
        assert_eq!(withheld.what.split(':').next(), Some(attestor.name()));
        assert_eq!(withheld.reason, "a foreign namespace");
    }
    assert!(!less.withheld.is_empty());
}

async fn a_pipe_for_a_script_does_not_hold_it_up(attestor: &dyn WorkloadAttestor) {
    let (_folder, path) = folder();
    let pipe = path.join("agent.py");
    nix::unistd::mkfifo(
        &pipe,
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )
    .unwrap();
    // It hangs there itself: nobody ever writes.
    let subject = Subject::start(Command::new(python()).arg(&pipe));
    let evidence = tokio::time::timeout(SOON, attestor.attest(&subject.process, &Asked::everything())).await;
    let evidence = evidence.expect("an answer though the script is a pipe").unwrap();
    assert!(
        evidence
            .selectors()
            .iter()
            .all(|selector| !selector.value().starts_with("script"))
    );
}
