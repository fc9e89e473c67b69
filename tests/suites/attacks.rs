//! Attacks on the Workload API, each tried many times: 50 rounds, or as many as `ROUNDS` says (`make attack`: 1,000).
//! Real processes on a real agent; the table in SECURITY.md names these tests and what comes of them.
//!
//! Not one identity may go to the wrong process. Where an attack is over only after an identity was given (a stream
//! that is kept), the end of the stream has to come within a second.

#[path = "attacks/denial.rs"]
mod denial;
#[path = "attacks/execs.rs"]
mod execs;
#[path = "attacks/files.rs"]
mod files;
#[path = "attacks/namespaces.rs"]
mod namespaces;
#[path = "attacks/reuse.rs"]
mod reuse;
#[path = "attacks/senders.rs"]
mod senders;
#[path = "attacks/streams.rs"]
mod streams;
#[path = "attacks/tally.rs"]
mod tally;

/// The table of attacks keeps up with the tests.
#[test]
fn security_md_names_every_attack() {
    let top = vouchsafe_tests::repository();
    let table = std::fs::read_to_string(top.join("SECURITY.md")).unwrap();
    for file in std::fs::read_dir(top.join("tests/suites/attacks")).unwrap() {
        let path = file.unwrap().path();
        let module = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("#[tokio::test").skip(1) {
            let name = part.split("async fn ").nth(1).unwrap().split('(').next().unwrap();
            assert!(
                table.contains(&format!("`{module}::{name}`")),
                "SECURITY.md does not name {module}::{name}"
            );
        }
    }
}
