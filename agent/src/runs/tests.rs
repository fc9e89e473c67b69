//! Which process is whose, on real processes.

use std::process::{Child, Command, Stdio};

use tokio_util::sync::CancellationToken;
use vouchsafe_identity::ClassName;

use super::record::RunRecord;
use super::*;
use crate::testing::runs;

/// A process that ends with the test.
struct Sleeping(Child, tempfile::TempDir);

impl Sleeping {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        let child = command.arg("600").stdout(Stdio::null()).spawn();
        Self(child.unwrap(), tempfile::tempdir().unwrap())
    }

    fn pidfd(&self) -> PidFd {
        PidFd::open(i32::try_from(self.0.id()).unwrap()).unwrap()
    }

    fn process(&self, reach: Reach) -> Process {
        let pidfd = self.pidfd();
        Process {
            pid: pidfd.pid().unwrap(),
            pidfd: Arc::new(pidfd),
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            reach,
            program: None,
        }
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

/// A run of this user, as it stands on disk.
fn record() -> RunRecord {
    let run = RunId::made(1, 1);
    RunRecord {
        run,
        spiffe_id: format!("spiffe://example.org/agent/run/{run}").parse().unwrap(),
        class: ClassName::new("agent").unwrap(),
        inherit: Inherit::None,
        launcher_uid: 0,
        parent: None,
        task: String::new(),
        selectors: Vec::new(),
        expires_at: 0,
        uid: nix::unistd::geteuid().as_raw(),
        alone: false,
        program: None,
        non_dumpable: false,
        group: None,
        output: false,
        unheard: None,
    }
}

/// That run.
fn taken_in(record: &RunRecord, main: &Sleeping) -> Arc<Run> {
    let run = Run::new(record, main.pidfd(), main.1.path().join("children"));
    Arc::new(run.unwrap())
}

/// A run whose main process this is, in a group that all of this test's processes are in.
fn run(main: &Sleeping, inherit: Inherit, grouped: bool) -> Arc<Run> {
    let pidfd = main.pidfd();
    let group = group_of(&pidfd, pidfd.pid().unwrap()).unwrap();
    let number = pidfd.info().unwrap().cgroup_id.unwrap_or_default();
    let record = RunRecord {
        inherit,
        group: grouped.then_some((number, group)),
        ..record()
    };
    taken_in(&record, main)
}

fn foreign() -> Reach {
    Reach::NamespaceOnly {
        reason: "another namespace".to_owned(),
    }
}

fn id(standing: Result<Standing, NotServed>) -> Option<String> {
    match standing.unwrap() {
        Standing::Of(member) => Some(member.entry.spiffe_id.to_string()),
        Standing::Outside => None,
    }
}

#[test]
fn a_child_gets_nothing_unless_the_class_says_so() {
    let (main, child) = (Sleeping::start(), Sleeping::start());
    for (inherit, suffix) in [
        (Inherit::None, None),
        (Inherit::Children, Some("")),
        (Inherit::Derived, Some("/child/1")),
    ] {
        let runs = runs();
        let run = run(&main, inherit, true);
        runs.enter(Arc::clone(&run));
        assert_eq!(
            id(runs.standing(&main.process(Reach::Full))),
            Some(run.spiffe_id.to_string())
        );
        let got = runs.standing(&child.process(Reach::Full));
        match suffix {
            None => assert!(matches!(got, Err(NotServed::Child { .. })), "{got:?}"),
            Some(suffix) => assert_eq!(id(got), Some(format!("{}{suffix}", run.spiffe_id))),
        }
    }
}

#[test]
fn a_child_keeps_its_number_and_another_has_another() {
    let (main, one, other) = (Sleeping::start(), Sleeping::start(), Sleeping::start());
    let runs = runs();
    let run = run(&main, Inherit::Derived, true);
    runs.enter(Arc::clone(&run));
    let child = |n| Some(format!("{}/child/{n}", run.spiffe_id));
    assert_eq!(id(runs.standing(&one.process(Reach::Full))), child(1));
    assert_eq!(id(runs.standing(&other.process(Reach::Full))), child(2));
    assert_eq!(id(runs.standing(&one.process(Reach::Full))), child(1));
    drop(other);
    let third = Sleeping::start();
    assert_eq!(
        id(runs.standing(&third.process(Reach::Full))),
        child(3),
        "no number is used twice"
    );
}

#[test]
fn who_could_be_named_by_another_namespace_gets_nothing() {
    let (main, child) = (Sleeping::start(), Sleeping::start());
    let runs = runs();
    runs.enter(run(&main, Inherit::Children, true));
    for process in [&main, &child] {
        let got = runs.standing(&process.process(foreign()));
        assert!(matches!(got, Err(NotServed::Altered { .. })), "{got:?}");
    }
}

#[test]
fn a_run_that_has_ended_gives_nothing_and_its_processes_are_still_its_own() {
    let (main, child) = (Sleeping::start(), Sleeping::start());
    let runs = runs();
    let run = run(&main, Inherit::Children, true);
    runs.enter(Arc::clone(&run));
    let before = runs.standing(&main.process(Reach::Full)).unwrap();
    assert_eq!(before.holds(&main.process(Reach::Full)), Ok(()));
    runs.end(&run, Cause::Revoked("by alice".into()));
    runs.end(&run, Cause::Over);
    let ended = NotServed::Ended {
        run: run.id,
        cause: Cause::Revoked("by alice".into()),
    };
    for process in [&main, &child] {
        assert_eq!(runs.standing(&process.process(Reach::Full)).unwrap_err(), ended);
    }
    assert_eq!(
        before.holds(&main.process(Reach::Full)),
        Err(ended),
        "also for who was served before"
    );
    runs.forget(&run);
    assert!(matches!(
        runs.standing(&child.process(Reach::Full)),
        Ok(Standing::Outside)
    ));
    assert_eq!(runs.live(), 0);
}

#[test]
fn a_main_process_that_is_another_program_gets_nothing() {
    let main = Sleeping::start();
    let record = RunRecord {
        program: Some((1, 1)),
        ..record()
    };
    let runs = runs();
    runs.enter(taken_in(&record, &main));
    let got = runs.standing(&main.process(Reach::Full));
    assert!(matches!(got, Err(NotServed::Altered { .. })), "{got:?}");
}

#[test]
fn who_belongs_to_no_run_is_told_so() {
    let (main, stranger) = (Sleeping::start(), Sleeping::start());
    let runs = runs();
    assert!(matches!(
        runs.standing(&stranger.process(Reach::Full)),
        Ok(Standing::Outside)
    ));
    runs.enter(run(&main, Inherit::Children, false));
    assert!(matches!(
        runs.standing(&stranger.process(Reach::Full)),
        Ok(Standing::Outside)
    ));
}

#[test]
fn who_has_the_uid_that_is_a_runs_alone_is_none_but_the_run() {
    let (main, stranger) = (Sleeping::start(), Sleeping::start());
    let runs = runs();
    let record = RunRecord {
        alone: true,
        ..record()
    };
    let run = taken_in(&record, &main);
    runs.enter(Arc::clone(&run));
    let got = runs.standing(&stranger.process(Reach::Full));
    let (id, uid) = (run.id, record.uid);
    assert_eq!(got.unwrap_err(), NotServed::Strayed { run: id, uid });
    assert!(runs.standing(&main.process(Reach::Full)).is_ok());
    runs.end(&run, Cause::Over);
    runs.forget(&run);
    assert!(matches!(
        runs.standing(&stranger.process(Reach::Full)),
        Ok(Standing::Outside)
    ));
}

#[tokio::test]
async fn whoever_waits_hears_why_a_run_ended() {
    let main = Sleeping::start();
    let runs = runs();
    let run = run(&main, Inherit::None, false);
    runs.enter(Arc::clone(&run));
    let heard = CancellationToken::new();
    let waiting = async {
        let ended = run.ended().await;
        heard.cancel();
        ended
    };
    let ending = async {
        assert!(!heard.is_cancelled());
        runs.end(&run, Cause::Expired);
    };
    let (ended, ()) = tokio::join!(waiting, ending);
    assert!(
        ended.to_string().ends_with("has ended: its time was over"),
        "{ended}"
    );
}
