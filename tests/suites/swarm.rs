//! `make demo-swarm`, with the binaries of this build: agents of real frameworks start each other, and a shell that one of
//! them spawned gets neither SVID nor key. Without the defence the same shell gets both.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::Context;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::demos::Demo;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::{repository, require};

const DEMO: Demo = Demo {
    program: "run-swarm",
    interpreter: "swarm",
    home: ".run-swarm",
};
const NOBODY: u32 = 65_534;

/// The SPIFFE ID of the run of this class, as it is printed last.
fn id_of(told: &str, class: &str) -> anyhow::Result<String> {
    let start = format!("spiffe://example.org/agent/{class}/run/");
    let run = told.rsplit_once(&start).and_then(|(_, rest)| rest.get(..26));
    let run = run.with_context(|| format!("no run of {class} in:\n{told}"))?;
    Ok(start + run)
}

/// Whether these texts are printed in this order.
fn in_order(told: &str, wanted: &[&str]) -> anyhow::Result<()> {
    let mut rest = told;
    for text in wanted {
        let found = rest.split_once(text);
        (_, rest) = found.with_context(|| format!("`{text}` is missing, or out of order:\n{told}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn each_agent_is_known_by_its_run_and_the_shell_of_one_gets_neither_svid_nor_key() {
    require!(Need::Root, Need::Frameworks);
    let told = DEMO
        .shows(&[], &["only the run's main process", "2 launched by a run"])
        .await
        .unwrap();
    let ids = ["tools", "planner", "researcher", "coder"].map(|class| id_of(&told, class).unwrap());
    let [_, planner, researcher, coder] = ids.each_ref().map(|id| id.rsplit('/').next().unwrap());
    in_order(
        &told,
        &[
            "bash -c '",
            "thief.py socket;",
            "thief.py memory $PPID'",
            "asks the Workload API for the SVID: refused",
            "PERMISSION_DENIED",
            "only the run's main process have an identity",
            "looks for the key in its agent's memory: refused",
            "Permission denied: '/proc/",
        ],
    )
    .unwrap();
    assert!(!told.contains("GOT IT"), "{told}");
    let call = |run: &str, rest: &str| format!("run {run}  class {rest}");
    in_order(
        &told,
        &[
            &call(researcher, "researcher  tool search      answered"),
            &call(researcher, "researcher  tool write_note  answered"),
            &call(researcher, "researcher  tool read_note   refused"),
            &call(coder, "coder       tool read_note   answered"),
            &call(coder, "coder       tool write_note  refused"),
            &format!("{planner}     planner"),
            &format!("├─ {researcher}  researcher"),
            &format!("└─ {coder}  coder"),
        ],
    )
    .unwrap();
    for id in &ids {
        assert!(told.contains(&format!("revoked: {id}")), "{id}: {told}");
    }
    DEMO.interrupted(|_| DEMO.file("researcher.log").exists())
        .await
        .unwrap();
    // With the defence off the same attempts succeed, so they are real.
    let told = DEMO.shows(&["--defence", "off"], &[]).await.unwrap();
    let got = format!("GOT IT\n      | {}", id_of(&told, "researcher").unwrap());
    in_order(
        &told,
        &[
            "asks the Workload API for the SVID: ",
            &got,
            "looks for the key in its agent's memory: ",
            "GOT IT\n      | a private key, of key pair ",
        ],
    )
    .unwrap();
}

#[test]
fn without_root_it_says_what_it_needs() {
    require!(Need::Root, Need::Python);
    let folder = tempfile::tempdir().unwrap();
    for name in ["run-swarm", "runs.py", "node.py", "stage.py"] {
        std::fs::copy(repository().join("demo").join(name), folder.path().join(name)).unwrap();
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .arg("--clear-groups")
        .arg(interpreter().canonicalize().unwrap())
        .arg(folder.path().join("run-swarm"))
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("needs root") && told.contains("cgroup v2"),
        "{told}"
    );
}
