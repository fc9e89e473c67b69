//! From a measurement to a class to a run: what `vouchsafe measure` prints is what a launch compares.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::Code;
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::stage::{POOL, Stage};

const SAYS: &str = "import sys\nprint(sys.prefix, sys.argv)\n";

fn public(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

/// A virtual environment without packages, its lock file, a script and a prompt.
async fn project(stage: &Stage) {
    let made = Command::new(interpreter())
        .args(["-m", "venv", "--without-pip"])
        .arg(stage.at.path("env"))
        .status()
        .await
        .unwrap();
    assert!(made.success());
    public(&stage.at.path("uv.lock"), "version = 1\n");
    public(&stage.at.path("agent.py"), SAYS);
    public(&stage.at.path("prompt.txt"), "Be kind.\n");
}

fn vouchsafe(stage: &Stage, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("vouchsafe").unwrap());
    command
        .arg("--server-socket")
        .arg(stage.at.server_socket())
        .args(arguments)
        .current_dir(stage.at.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What it prints, given this input.
async fn said(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    output.stdout
}

fn request(class: &str, arguments: &[&str]) -> LaunchRequest {
    LaunchRequest {
        class: class.to_owned(),
        arguments: arguments.iter().map(|text| text.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin:/bin".to_vec()],
        working_directory: b"/".to_vec(),
        ..LaunchRequest::default()
    }
}

async fn output(stage: &Stage, request: LaunchRequest) -> String {
    let mut run = stage.launch(request).await.unwrap();
    let ended = run.ended().await.unwrap();
    let output = stage.output(&ended.run_id).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Exited(0)), "{output}");
    output
}

#[tokio::test]
async fn a_class_from_a_measurement_starts_and_a_changed_file_is_refused_until_it_is_measured_anew() {
    require!(Need::Root, Need::Python);
    let stage = Stage::empty().await.unwrap();
    project(&stage).await;
    let pool = format!("{}-{}", POOL.0, POOL.1);
    let user = POOL.0.to_string();
    let command = ["--", "env/bin/python", "agent.py", "--quiet"];
    let flags = ["measure", "--user", &user, "--prompt", "prompt.txt"];
    let measured = [&flags[..], &command[..]].concat();
    let rest = ["--may-run-on", "any", "--launcher", "uid:0", "--uid-pool", &pool];

    // Its own form by the pipe, and JSON by a file.
    let toml = said(vouchsafe(&stage, &measured), b"").await;
    let id = [
        "--id",
        "spiffe://example.org/agent/one",
        "--from-measurement",
        "-",
    ];
    let create = [&["class", "create", "one"], &id[..], &rest[..]].concat();
    said(vouchsafe(&stage, &create), &toml).await;
    let as_json = [&["--output", "json"], &measured[..]].concat();
    let json = said(vouchsafe(&stage, &as_json), b"").await;
    fs::write(stage.at.path("two.json"), json).unwrap();
    let id = [
        "--id",
        "spiffe://example.org/agent/two",
        "--from-measurement",
        "two.json",
    ];
    let create = [&["class", "create", "two"], &id[..], &rest[..]].concat();
    said(vouchsafe(&stage, &create), b"").await;
    // And as the file that is all of the class.
    let id = ["--id", "spiffe://example.org/agent/three", "--file", "-"];
    let create = [&["class", "create", "three"], &id[..], &rest[..]].concat();
    said(vouchsafe(&stage, &create), &toml).await;

    let prefix = stage.at.path("env").canonicalize().unwrap();
    let script = stage.at.path("agent.py").canonicalize().unwrap();
    let expected = format!("{} ['{}', '--quiet']\n", prefix.display(), script.display());
    for class in ["one", "two", "three"] {
        assert_eq!(output(&stage, request(class, &[])).await, expected, "{class}");
    }

    // Each file that was measured holds the run, the ones that are only read too.
    for (name, text) in [
        ("agent.py", SAYS),
        ("uv.lock", "version = 1\n"),
        ("prompt.txt", "Be kind.\n"),
    ] {
        let path = stage.at.path(name);
        public(&path, &format!("{text}# changed\n"));
        let refused = stage.launch(request("one", &[])).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(name), "{}", refused.message());
        public(&path, text);
        output(&stage, request("one", &[])).await;
    }

    // What the operator measures anew takes the place of program and files alone.
    public(&script, "import sys\nprint('anew')\n");
    let toml = said(vouchsafe(&stage, &measured), b"").await;
    let update = ["class", "update", "one", "--from-measurement", "-"];
    said(vouchsafe(&stage, &update), &toml).await;
    let launched = until("the agent has heard of the new version", async || {
        stage.launch(request("one", &[])).await.ok()
    });
    let ended = launched.await.unwrap().ended().await.unwrap();
    assert_eq!(stage.output(&ended.run_id).await.unwrap(), "anew\n");
}

#[tokio::test]
async fn a_module_of_an_environment_starts_and_not_with_another_file_of_its_package() {
    require!(Need::Root, Need::Python);
    let stage = Stage::empty().await.unwrap();
    project(&stage).await;
    let mut versions = fs::read_dir(stage.at.path("env/lib")).unwrap();
    let site = versions.next().unwrap().unwrap().path().join("site-packages");
    fs::create_dir(site.join("agentpkg")).unwrap();
    public(&site.join("agentpkg/__init__.py"), "GREETING = 'up'\n");
    public(
        &site.join("agentpkg/__main__.py"),
        "import agentpkg, sys\nprint(agentpkg.GREETING, sys.argv[1:])\n",
    );
    let command = ["measure", "--", "env/bin/python", "-m", "agentpkg", "x"];
    let toml = said(vouchsafe(&stage, &command), b"").await;
    let pool = format!("{}-{}", POOL.0, POOL.1);
    let create = [
        "class",
        "create",
        "module",
        "--id",
        "spiffe://example.org/agent/module",
        "--from-measurement",
        "-",
        "--may-run-on",
        "any",
        "--launcher",
        "uid:0",
        "--uid-pool",
        &pool,
    ];
    said(vouchsafe(&stage, &create), &toml).await;
    assert_eq!(output(&stage, request("module", &[])).await, "up ['x']\n");
    public(&site.join("agentpkg/__init__.py"), "GREETING = 'down'\n");
    let refused = stage.launch(request("module", &[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("__init__.py"), "{}", refused.message());
}

#[tokio::test]
async fn a_script_that_its_launcher_could_change_is_not_launched_by_it() {
    require!(Need::Root, Need::Python);
    const LAUNCHER: u32 = 65_534;
    let launchers =
        |spec: &mut String| *spec = spec.replace("launchers = [\"uid:0\"]", "launchers = [\"uid:65534\"]");
    let stage = Stage::with(launchers).await.unwrap();
    let launch = async || {
        let mut command = Command::new("setpriv");
        let id = LAUNCHER.to_string();
        command.args([
            &format!("--reuid={id}"),
            &format!("--regid={id}"),
            "--clear-groups",
        ]);
        command.arg(binary("vouchsafe").unwrap()).args(["run", "--quiet"]);
        command.arg("--launch-socket").arg(stage.at.path("launch.sock"));
        command.args(["--class", "researcher", "--"]);
        command.arg(interpreter()).arg(&stage.script).args(["exit", "7"]);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap()
    };
    chown(&stage.script, Some(LAUNCHER), None).unwrap();
    let refused = launch().await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_ne!(refused.status.code(), Some(7), "{said}");
    assert!(said.contains("could be changed by its launcher"), "{said}");
    chown(&stage.script, Some(0), None).unwrap();
    let ran = launch().await;
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
}
