//! The `process` attestor on real interpreters.

mod ancestors;
mod asked;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use vouchsafe_attestors::Finding;

use super::*;
use crate::contract;
use crate::subject::{Subject, copy_program, folder, found, python, reason, sha256, value};

fn attestor() -> ProcessAttestor {
    ProcessAttestor::new(ProcessConfig::default(), Arc::default())
}

async fn evidence_of(subject: &Subject) -> Evidence {
    attestor()
        .attest(&subject.process, &Asked::default())
        .await
        .unwrap()
}

/// A Python script that waits.
fn script(path: &Path) {
    fs::write(path, "print(1, flush=True)\ninput()\n").unwrap();
}

/// Starts a waiting Python script, changes its place by `meanwhile`, then measures.
async fn after(path: &Path, meanwhile: impl FnOnce(&Path)) -> Evidence {
    script(path);
    let mut subject = Subject::start(Command::new(python()).arg(path));
    assert_eq!(subject.hear(), "1");
    meanwhile(path);
    evidence_of(&subject).await
}

#[tokio::test]
async fn it_keeps_the_contract() {
    contract::holds(&attestor()).await;
}

#[tokio::test]
async fn a_script_is_named_by_its_path_without_links_and_all_is_asserted() {
    let (_folder, path) = folder();
    fs::create_dir(path.join("real")).unwrap();
    let real = path.join("real/agent.py");
    script(&real);
    symlink("real", path.join("link")).unwrap();
    symlink("agent.py", path.join("real/alias.py")).unwrap();
    let expected = [
        "process:interpreter:python3".to_owned(),
        format!("process:script:{}", real.display()),
        format!("process:script_sha256:{}", sha256(&real)),
    ];
    let absolute = path.join("link/alias.py");
    for name in [Path::new("link/../link/alias.py"), absolute.as_path()] {
        let subject = Subject::start(
            Command::new(python())
                .arg("-u")
                .arg(name)
                .arg("-m")
                .current_dir(&path),
        );
        let evidence = evidence_of(&subject).await;
        assert_eq!(found(&evidence), expected);
        assert_eq!(evidence.withheld, Vec::new());
        assert!(
            evidence
                .findings
                .iter()
                .all(|Finding { trust, .. }| *trust == Trust::Asserted)
        );
    }
}

#[tokio::test]
async fn a_shell_script_and_a_module_and_code_on_the_command_line() {
    let (_folder, path) = folder();
    let shell = path.join("agent.sh");
    fs::write(&shell, "read line\n").unwrap();
    script(&path.join("waiter.py"));
    let path_of_script = format!("process:script:{}", shell.display());
    let hash_of_script = format!("process:script_sha256:{}", sha256(&shell));
    let mut sh = Command::new("sh");
    sh.arg("-e").arg(&shell);
    let mut module = Command::new(python());
    module.args(["-m", "waiter"]).env("PYTHONPATH", &path);
    let mut inline = Command::new(python());
    inline.args(["-c", "input()", "/etc/passwd"]);
    for (command, expected) in [
        (&mut sh, vec![path_of_script.as_str(), hash_of_script.as_str()]),
        (&mut module, vec!["process:module:waiter"]),
        (&mut inline, vec!["process:inline:true"]),
    ] {
        let evidence = evidence_of(&Subject::start(command)).await;
        assert!(value(&evidence, "process:interpreter:").is_some());
        let mut rest = found(&evidence);
        rest.retain(|text| !text.starts_with("process:interpreter:"));
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn a_program_that_is_no_interpreter_gets_nothing() {
    let (_folder, path) = folder();
    let program = path.join("program");
    copy_program(&program);
    assert_eq!(evidence_of(&Subject::plain(&program)).await, Evidence::default());
}

#[tokio::test]
async fn a_script_that_is_gone_is_withheld() {
    let (_folder, path) = folder();
    let evidence = after(&path.join("agent.py"), |script| fs::remove_file(script).unwrap()).await;
    assert_eq!(found(&evidence), ["process:interpreter:python3"]);
    assert!(
        reason(&evidence, "process:script")
            .unwrap()
            .contains("does not exist")
    );
    assert!(reason(&evidence, "process:script_sha256").is_some());
}

#[tokio::test]
async fn a_script_that_became_a_pipe_a_folder_or_a_link_to_a_device_is_withheld() {
    let (_folder, path) = folder();
    let replace: [fn(&Path); 3] = [
        |place| nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRUSR).unwrap(),
        |place| fs::create_dir(place).unwrap(),
        |place| symlink("/dev/zero", place).unwrap(),
    ];
    for (number, replace) in replace.into_iter().enumerate() {
        let evidence = after(&path.join(number.to_string()), |script| {
            fs::remove_file(script).unwrap();
            replace(script);
        })
        .await;
        assert_eq!(found(&evidence), ["process:interpreter:python3"]);
        assert!(
            reason(&evidence, "process:script")
                .unwrap()
                .contains("not a regular file")
        );
    }
}

#[tokio::test]
async fn a_working_directory_that_is_gone_withholds_a_relative_script() {
    let (_folder, path) = folder();
    let inner = path.join("inner");
    fs::create_dir(&inner).unwrap();
    script(&inner.join("agent.py"));
    let mut subject = Subject::start(Command::new(python()).arg("agent.py").current_dir(&inner));
    assert_eq!(subject.hear(), "1");
    fs::remove_dir_all(&inner).unwrap();
    // Another one of the same name is not the one that the process is in.
    fs::create_dir(&inner).unwrap();
    script(&inner.join("agent.py"));
    let evidence = evidence_of(&subject).await;
    assert_eq!(found(&evidence), ["process:interpreter:python3"]);
    assert!(
        reason(&evidence, "process:script")
            .unwrap()
            .contains("working directory")
    );
}

#[tokio::test]
async fn names_that_a_selector_cannot_hold_are_withheld() {
    let (_folder, path) = folder();
    for name in [&b"a\nb.py"[..], b"\xff.py"] {
        let evidence = after(&path.join(OsStr::from_bytes(name)), |_| {}).await;
        assert_eq!(value(&evidence, "process:script:"), None);
        assert!(reason(&evidence, "process:script").is_some());
        assert!(value(&evidence, "process:script_sha256:").is_some());
    }
}

#[tokio::test]
async fn a_command_line_over_the_limit_is_withheld() {
    let long = "x".repeat(100_000);
    let mut command = Command::new(python());
    command.args(["-c", "input()", &long, &long, &long]);
    let evidence = evidence_of(&Subject::start(&mut command)).await;
    assert_eq!(found(&evidence), ["process:interpreter:python3"]);
    assert!(reason(&evidence, "process:script").unwrap().contains("limit"));
}

#[tokio::test]
async fn over_the_hash_limit_only_the_hash_is_withheld() {
    let (_folder, path) = folder();
    let place = path.join("agent.py");
    script(&place);
    let subject = Subject::start(Command::new(python()).arg(&place));
    let config = ProcessConfig {
        hash_limit_bytes: 3,
        ..ProcessConfig::default()
    };
    let evidence = ProcessAttestor::new(config, Arc::default())
        .attest(&subject.process, &Asked::default())
        .await
        .unwrap();
    assert_eq!(value(&evidence, "process:script:").as_deref(), place.to_str());
    assert_eq!(value(&evidence, "process:script_sha256:"), None);
    assert!(
        reason(&evidence, "process:script_sha256")
            .unwrap()
            .contains("limit of 3 bytes")
    );
}
