//! The programs above a process: those that are there, and no others.

use std::process::Command;

use vouchsafe_sys::PidFd;

use super::super::*;
use crate::subject::{Subject, python};

/// Starts a child, says its number, and on a line ends without it.
const PARENT: &str = "import subprocess, sys\nchild = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL)\nprint(child.pid, flush=True)\n\
    sys.stdin.readline()\n";

fn paths(evidence: &Evidence) -> Vec<(String, Trust)> {
    let all = evidence.findings.iter();
    let named = all.filter_map(|finding| {
        let path = finding.selector.value().strip_prefix("ancestor:")?;
        Some((path.to_owned(), finding.trust))
    });
    named.collect()
}

async fn ancestors(process: &Process, asked: &Asked) -> Vec<(String, Trust)> {
    let attestor = ProcessAttestor::new(ProcessConfig::default(), Arc::default());
    paths(&attestor.attest(process, asked).await.unwrap())
}

#[tokio::test]
async fn a_process_has_the_programs_above_it_as_long_as_they_are_there() {
    let own = std::env::current_exe().unwrap().canonicalize().unwrap();
    let own = (own.display().to_string(), Trust::Asserted);
    let python = (python().display().to_string(), Trust::Asserted);
    let mut parent = Subject::start(Command::new(&python.0).args(["-c", PARENT]));
    let pid: i32 = parent.hear().parse().unwrap();
    let child = Process {
        pid,
        pidfd: Arc::new(PidFd::open(pid).unwrap()),
        ..parent.process.clone()
    };
    let mut asked = Asked::default();
    asked.add("process:cwd");
    assert_eq!(ancestors(&child, &asked).await, [], "nobody asked");
    asked.add("process:ancestor");
    // The tests may run below the same Python.
    let above = ancestors(&parent.process, &asked).await;
    assert_eq!(above.first(), Some(&own), "{above:?}");
    let with_parent = [vec![python.clone()], above].concat();
    assert_eq!(ancestors(&child, &asked).await, with_parent);
    parent.reap();
    let above = ancestors(&child, &asked).await;
    child.pidfd.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_ne!(above.first(), Some(&python), "{above:?}");
    assert!(above.len() < with_parent.len(), "{above:?}");
}
