//! The `unix` attestor on real processes. What needs another user or a namespace stands in
//! `tests/suites/namespaces.rs`.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use vouchsafe_attestors::Finding;

use super::*;
use crate::contract;
use crate::subject::{Subject, copy_program, folder, found, python, reason, sha256, value};

fn attestor() -> UnixAttestor {
    UnixAttestor::new(UnixConfig::default(), Arc::default())
}

async fn evidence_of(subject: &Subject) -> Evidence {
    attestor()
        .attest(&subject.process, &Asked::default())
        .await
        .unwrap()
}

/// Runs a program that stands at `path`, changes the place by `meanwhile`, then measures.
async fn after(path: &Path, meanwhile: impl FnOnce(&Path)) -> Evidence {
    copy_program(path);
    let subject = Subject::plain(path);
    meanwhile(path);
    evidence_of(&subject).await
}

#[tokio::test]
async fn it_keeps_the_contract() {
    contract::holds(&attestor()).await;
}

#[tokio::test]
async fn a_plain_process_gets_ids_names_groups_path_and_hash_all_measured() {
    let (_folder, path) = folder();
    let program = path.join("a program");
    let evidence = after(&program, |_| {}).await;
    let id = |flag: &str| {
        let output = Command::new("id").arg(flag).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(value(&evidence, "unix:uid:"), Some(id("-u")));
    assert_eq!(value(&evidence, "unix:gid:"), Some(id("-g")));
    assert_eq!(value(&evidence, "unix:path:").as_deref(), program.to_str());
    assert_eq!(value(&evidence, "unix:sha256:"), Some(sha256(&program)));
    let mut all = found(&evidence);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let groups = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap();
    for gid in groups.split_ascii_whitespace() {
        assert!(all.contains(&format!("unix:supplementary_gid:{gid}")));
    }
    // Names are there only where the machine has them.
    for (names, flag) in [("unix:user:", "-un"), ("unix:group:", "-gn")] {
        assert!(value(&evidence, names).is_none_or(|name| name == id(flag)));
    }
    all.retain(|text| !text.starts_with("unix:supplementary_"));
    assert!(all.len() <= 6, "{all:?}");
    assert!(
        evidence
            .findings
            .iter()
            .all(|Finding { trust, .. }| *trust == Trust::Measured)
    );
    assert_eq!(evidence.withheld, Vec::new());
}

#[tokio::test]
async fn a_deleted_executable_has_a_hash_and_no_path() {
    let (_folder, path) = folder();
    let mut hash = String::new();
    let evidence = after(&path.join("program"), |program| {
        hash = sha256(program);
        fs::remove_file(program).unwrap();
    })
    .await;
    assert_eq!(value(&evidence, "unix:path:"), None);
    assert!(reason(&evidence, "unix:path").unwrap().contains("deleted"));
    assert_eq!(value(&evidence, "unix:sha256:"), Some(hash));
}

#[tokio::test]
async fn a_replaced_executable_has_no_path() {
    let (_folder, path) = folder();
    let other = path.join("other");
    copy_program(&other);
    let evidence = after(&path.join("program"), |program| {
        fs::rename(&other, program).unwrap()
    })
    .await;
    assert_eq!(value(&evidence, "unix:path:"), None);
}

/// The kernel's text for a deleted `program` is the name of a file that is there: another file.
#[tokio::test]
async fn a_file_named_as_the_kernel_names_the_deleted_does_not_stand_in_for_it() {
    let (_folder, path) = folder();
    let evidence = after(&path.join("program"), |program| {
        copy_program(path.join("program (deleted)"));
        fs::remove_file(program).unwrap();
    })
    .await;
    assert_eq!(value(&evidence, "unix:path:"), None);
    assert!(reason(&evidence, "unix:path").unwrap().contains("another file"));
}

#[tokio::test]
async fn a_file_that_is_really_named_deleted_has_its_path() {
    let (_folder, path) = folder();
    let program = path.join("program (deleted)");
    let evidence = after(&program, |_| {}).await;
    assert_eq!(value(&evidence, "unix:path:").as_deref(), program.to_str());
}

#[tokio::test]
async fn a_path_that_a_selector_cannot_hold_is_withheld() {
    let (_folder, path) = folder();
    for name in [&b"a\nunix:uid:0"[..], b"\xff"] {
        let evidence = after(&path.join(OsStr::from_bytes(name)), |_| {}).await;
        assert_eq!(value(&evidence, "unix:path:"), None);
        assert!(reason(&evidence, "unix:path").is_some());
        assert!(value(&evidence, "unix:sha256:").is_some());
    }
}

#[tokio::test]
async fn over_the_limit_only_the_hash_is_withheld() {
    let (_folder, path) = folder();
    let program = path.join("program");
    copy_program(&program);
    let subject = Subject::plain(&program);
    let config = UnixConfig { hash_limit_bytes: 99 };
    let evidence = UnixAttestor::new(config, Arc::default())
        .attest(&subject.process, &Asked::default())
        .await
        .unwrap();
    assert_eq!(value(&evidence, "unix:sha256:"), None);
    assert!(
        reason(&evidence, "unix:sha256")
            .unwrap()
            .contains("limit of 99 bytes")
    );
    assert_eq!(value(&evidence, "unix:path:").as_deref(), program.to_str());
}

#[tokio::test]
async fn a_process_that_has_other_ids_than_it_came_with_is_refused() {
    let (_folder, path) = folder();
    let program = path.join("program");
    copy_program(&program);
    let subject = Subject::plain(&program);
    let with = |uid: u32, gid: u32| Process {
        uid: subject.process.uid + uid,
        gid: subject.process.gid + gid,
        ..subject.process.clone()
    };
    for (process, which) in [(with(1, 0), "uid"), (with(0, 1), "gid")] {
        let refused = attestor().attest(&process, &Asked::default()).await;
        assert!(
            matches!(refused, Err(WorkloadAttestError::CredentialsDiffer { what, .. }) if what == which),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_command_name_with_a_line_break_forges_no_id() {
    let rename = "open('/proc/self/comm', 'w').write('a\\nUid:\\t7\\t7'); print(1, flush=True); input()";
    let mut subject = Subject::start(Command::new(python()).args(["-c", rename]));
    assert_eq!(subject.hear(), "1");
    let evidence = evidence_of(&subject).await;
    assert_eq!(
        value(&evidence, "unix:uid:"),
        Some(subject.process.uid.to_string())
    );
}

#[test]
fn ids_without_a_name_have_no_selector_of_a_name() {
    let mut evidence = Evidence::default();
    name(&mut evidence, "user", 7, Ok(None));
    assert_eq!(evidence, Evidence::default());
    name(&mut evidence, "user", 7, Err(Errno::EIO));
    assert!(evidence.findings.is_empty());
    assert!(reason(&evidence, "unix:user").is_some());
}

#[test]
fn too_many_groups_are_withheld_whole() {
    let mut evidence = Evidence::default();
    let many: Vec<u32> = (0..=1024).collect();
    groups(&mut evidence, &many, &Known::new(UnixConfig::default()));
    assert!(evidence.findings.is_empty());
    assert!(
        reason(&evidence, "unix:supplementary_gid")
            .unwrap()
            .contains("1024")
    );
}
