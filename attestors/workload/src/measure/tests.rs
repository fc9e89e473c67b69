//! Measurements of processes that change while they are measured.

use std::process::Command;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::subject::{Subject, copy_program, folder, python};
use crate::{ProcessAttestor, ProcessConfig, UnixAttestor, UnixConfig};

/// Prints a line, then becomes itself again for each line that it reads.
const AGAIN: &str = "import os, sys; print(1, flush=True); sys.stdin.buffer.raw.read(2); \
                     os.execv(sys.executable, sys.orig_argv)";

/// An attestor that does something to the process meanwhile.
struct Meanwhile<F>(Mutex<F>);

#[async_trait]
impl<F> WorkloadAttestor for Meanwhile<F>
where
    F: FnMut() -> Result<Evidence, WorkloadAttestError> + Send,
{
    fn name(&self) -> &'static str {
        "test"
    }

    async fn attest(&self, _process: &Process, _asked: &Asked) -> Result<Evidence, WorkloadAttestError> {
        let mut meanwhile = self.0.lock().unwrap();
        meanwhile()
    }
}

fn measurer_with<F>(meanwhile: F) -> Measurer
where
    F: FnMut() -> Result<Evidence, WorkloadAttestError> + Send + 'static,
{
    let reads = Arc::new(Reads::default());
    let attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![
        Arc::new(UnixAttestor::new(UnixConfig::default(), Arc::clone(&reads))),
        Arc::new(Meanwhile(Mutex::new(meanwhile))),
        Arc::new(ProcessAttestor::new(ProcessConfig::default(), Arc::clone(&reads))),
    ];
    Measurer::new(attestors, reads)
}

fn nothing() -> Result<Evidence, WorkloadAttestError> {
    Ok(Evidence::default())
}

fn again() -> Subject {
    let mut subject = Subject::start(Command::new(python()).args(["-c", AGAIN]));
    assert_eq!(subject.hear(), "1");
    subject
}

#[tokio::test]
async fn what_all_attestors_find_is_joined_and_the_same_the_second_time() {
    let subject = again();
    let measurer = measurer_with(nothing);
    let first = measurer
        .measure(&subject.process, &Asked::default())
        .await
        .unwrap();
    let kinds: Vec<String> = first
        .evidence
        .selectors()
        .iter()
        .map(|s| s.kind().to_owned())
        .collect();
    assert!(kinds.contains(&"unix".to_owned()) && kinds.contains(&"process".to_owned()));
    let second = measurer
        .measure_since(&subject.process, &Asked::default(), &first.fingerprint)
        .await;
    let second = second.unwrap();
    assert_eq!(
        (second.evidence, second.fingerprint),
        (first.evidence, first.fingerprint.clone())
    );
    assert_eq!(
        measurer.fingerprint(&subject.process).await.unwrap(),
        first.fingerprint
    );
}

#[tokio::test]
async fn the_same_program_executed_again_has_another_fingerprint() {
    let mut subject = again();
    let measurer = measurer_with(nothing);
    let before = measurer.fingerprint(&subject.process).await.unwrap();
    subject.say("x");
    assert_eq!(subject.hear(), "1");
    let after = measurer.fingerprint(&subject.process).await.unwrap();
    assert_eq!(before.exe, after.exe);
    assert!(before.image.is_some());
    assert_ne!(before.image, after.image);
    // Where the kernel places programs at random, which is how it comes.
    assert!(before.layout.is_some());
    assert_ne!(before.layout, after.layout);
    assert_ne!(before, after);
}

/// The race that gave SPIRE's SVIDs away: another program while it is measured.
#[tokio::test]
async fn a_process_that_executes_a_program_while_it_is_measured_is_refused() {
    let mut subject = again();
    let process = subject.process.clone();
    let measurer = measurer_with(move || {
        subject.say("x");
        assert_eq!(subject.hear(), "1");
        nothing()
    });
    let refused = measurer.measure(&process, &Asked::default()).await;
    assert!(
        matches!(refused, Err(WorkloadAttestError::Changed { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_process_that_ends_while_it_is_measured_is_gone() {
    let mut subject = again();
    let process = subject.process.clone();
    let measurer = measurer_with(move || {
        subject.reap();
        nothing()
    });
    let refused = measurer.measure(&process, &Asked::default()).await;
    assert!(
        matches!(refused, Err(WorkloadAttestError::Gone { .. })),
        "{refused:?}"
    );
    let fingerprint = measurer.fingerprint(&process).await;
    assert!(
        matches!(fingerprint, Err(WorkloadAttestError::Gone { .. })),
        "{fingerprint:?}"
    );
}

#[tokio::test]
async fn an_attestor_that_fails_makes_the_measurement_fail() {
    let subject = again();
    let measurer = measurer_with(|| {
        Err(WorkloadAttestError::Unreadable {
            what: "a test",
            pid: 1,
            source: io::ErrorKind::Other.into(),
        })
    });
    let refused = measurer.measure(&subject.process, &Asked::default()).await;
    assert!(
        matches!(refused, Err(WorkloadAttestError::Unreadable { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn other_ids_than_it_came_with_have_no_fingerprint() {
    let mut subject = again();
    subject.process.uid += 1;
    let refused = measurer_with(nothing).fingerprint(&subject.process).await;
    assert!(
        matches!(refused, Err(WorkloadAttestError::CredentialsDiffer { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_process_of_our_own_namespaces_is_within_reach_and_a_gone_one_is_gone() {
    let (_folder, path) = folder();
    let program = path.join("program");
    copy_program(&program);
    let mut subject = Subject::plain(&program);
    let namespaces = AgentNamespaces::of_self().unwrap();
    let reach = |subject: &Subject| namespaces.reach_of(&subject.process.pidfd, subject.process.pid);
    assert_eq!(reach(&subject).unwrap(), Reach::Full);
    subject.reap();
    assert!(matches!(reach(&subject), Err(WorkloadAttestError::Gone { .. })));
}
