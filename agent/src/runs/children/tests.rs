//! What is refused, and that numbers stay what they were over lives of the agent.

use std::process::{Child as Spawned, Command};

use tempfile::TempDir;
use vouchsafe_identity::SpiffeId;

use super::*;

const RUN: &str = "spiffe://example.org/agent/run/01K9Z3V7Q8R4S5T6V7W8X9YZAB";

/// A process that ends with the test.
struct Sleeping(Spawned);

impl Sleeping {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pidfd(&self) -> PidFd {
        PidFd::open(i32::try_from(self.0.id()).unwrap()).unwrap()
    }
}

impl Drop for Sleeping {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

fn identity() -> RunIdentity {
    RunIdentity::parse(&SpiffeId::new(RUN).unwrap()).unwrap()
}

fn open(folder: &TempDir) -> Children {
    Children::open(identity(), folder.path().join("numbers")).unwrap()
}

fn write(folder: &TempDir, noted: &Noted) {
    let text = serde_json::to_vec(noted).unwrap();
    fs::write(folder.path().join("numbers"), text).unwrap();
}

fn number(children: &mut Children, of: &Sleeping) -> Result<String, NotServed> {
    let (entry, _) = children.child(&of.pidfd())?;
    let id = entry.spiffe_id.to_string();
    Ok(id.strip_prefix(RUN).unwrap().to_owned())
}

#[test]
fn when_all_numbers_are_given_no_process_gets_one() {
    let folder = tempfile::tempdir().unwrap();
    let max = RunIdentity::MAX_CHILDREN;
    let given = max - 1;
    let living = Vec::new();
    write(&folder, &Noted { given, living });
    let mut children = open(&folder);
    let (last, none) = (Sleeping::start(), Sleeping::start());
    assert_eq!(number(&mut children, &last), Ok(format!("/child/{max}")));
    let run = identity().run;
    let refused = Err(NotServed::NumbersGiven { run, max });
    assert_eq!(number(&mut children, &none), refused);
    assert_eq!(number(&mut open(&folder), &none), refused, "nor after a restart");
}

#[test]
fn a_number_that_cannot_be_noted_is_not_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut children = Children::open(identity(), folder.path().join("none/numbers")).unwrap();
    let one = Sleeping::start();
    let refused = number(&mut children, &one).unwrap_err();
    assert!(refused.to_string().contains("cannot be noted"), "{refused}");
    assert_eq!(children.entries().count(), 0);
}

#[test]
fn who_cannot_know_which_numbers_were_given_gives_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("numbers");
    fs::write(&file, "{").unwrap();
    let refused = Children::open(identity(), file).unwrap_err();
    assert!(refused.contains("numbers of its children"), "{refused}");
}

#[test]
fn another_life_gives_no_number_twice_and_a_child_that_lives_keeps_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut before = open(&folder);
    let (living, over) = (Sleeping::start(), Sleeping::start());
    assert_eq!(number(&mut before, &living), Ok("/child/1".to_owned()));
    assert_eq!(number(&mut before, &over), Ok("/child/2".to_owned()));
    drop((before, over));
    let mut after = open(&folder);
    assert_eq!(after.entries().count(), 1, "of those that live");
    let new = Sleeping::start();
    assert_eq!(number(&mut after, &new), Ok("/child/3".to_owned()));
    assert_eq!(number(&mut after, &living), Ok("/child/1".to_owned()));
}

#[test]
fn a_process_that_has_the_pid_of_an_earlier_child_has_not_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let one = Sleeping::start();
    let process = Process::held(&one.pidfd()).unwrap();
    let earlier = Process {
        start_time: process.start_time - 1,
        ..process
    };
    let living = vec![(earlier, NonZeroU32::new(7).unwrap())];
    write(&folder, &Noted { given: 7, living });
    assert_eq!(number(&mut open(&folder), &one), Ok("/child/8".to_owned()));
}
