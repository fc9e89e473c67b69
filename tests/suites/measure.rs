//! `vouchsafe measure` as an operator meets it, without any daemon: what it prints of real interpreters, and what it refuses.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use vouchsafe_launch::Digest;
use vouchsafe_tests::clients::interpreter;
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

/// A uid that nobody has.
const USER: u32 = 61_090;

struct Place {
    _folder: TempDir,
    at: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        fs::set_permissions(&at, Permissions::from_mode(0o755)).unwrap();
        fs::write(at.join("agent.py"), "print(1)\n").unwrap();
        Self { _folder: folder, at }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("vouchsafe").unwrap());
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&self.at)
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [&["measure", "--output", "json"], arguments].concat();
        let output = self.command(&arguments).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.at.join(name).display().to_string()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn hash(path: impl AsRef<Path>) -> String {
    Digest::of(&fs::read(path).unwrap()).to_string()
}

#[test]
fn a_script_of_a_virtual_environment_is_measured_with_what_stands_for_its_packages() {
    require!(Need::Python);
    let place = Place::new();
    let python = interpreter().display().to_string();
    let found = place.json(&["--packages", "record", "--", &python, "agent.py", "--deep"]);
    let program = &found["spec"]["program"];
    assert_eq!(program["executable"]["path"], python);
    assert_eq!(program["executable"]["sha256"], hash(&python));
    assert_eq!(program["script"]["path"], place.path("agent.py"));
    assert_eq!(program["script"]["sha256"], hash(place.at.join("agent.py")));
    assert_eq!(program["fixed_args"], serde_json::json!(["--deep"]));
    assert_eq!(
        found["command"],
        serde_json::json!([python, place.path("agent.py"), "--deep"])
    );
    let files = found["spec"]["files"].as_array().unwrap();
    let record = |name: &str| {
        let of = |file: &&Value| file["path"].as_str().unwrap().contains(&format!("/{name}-"));
        let file = files.iter().find(of).unwrap();
        assert_eq!(file["role"], "record");
        assert_eq!(file["sha256"], hash(file["path"].as_str().unwrap()));
        fs::read_to_string(file["path"].as_str().unwrap()).unwrap()
    };
    record("spiffe");
    assert_eq!(found["altered"], serde_json::json!([]));
    // A native extension is among what its record names.
    assert!(record("grpcio").contains(".so,sha256="));
    let config = files
        .iter()
        .any(|file| file["path"].as_str().unwrap().ends_with("/pyvenv.cfg"));
    assert!(config, "{files:?}");
}

#[test]
fn node_scripts_first_lines_and_native_programs_are_measured() {
    require!(Need::Node);
    let place = Place::new();
    fs::write(place.at.join("agent.js"), "#!/usr/bin/env node\n").unwrap();
    fs::set_permissions(place.at.join("agent.js"), Permissions::from_mode(0o755)).unwrap();
    let by_name = place.json(&["--", "node", "agent.js", "x"]);
    let by_line = place.json(&["--", "./agent.js", "x"]);
    assert_eq!(by_name["spec"], by_line["spec"]);
    assert_eq!(
        by_line["spec"]["program"]["script"]["path"],
        place.path("agent.js")
    );
    let native = place.json(&["--", "sha256sum", "-z", "agent.py"]);
    let program = &native["spec"]["program"];
    assert_eq!(program["executable"]["sha256"], hash("/usr/bin/sha256sum"));
    assert_eq!(program["fixed_args"], serde_json::json!(["-z", "agent.py"]));
    assert!(program["script"].is_null());
}

#[test]
fn files_have_the_roles_that_were_named_and_variables_of_loaders_are_told_and_not_allowed() {
    let place = Place::new();
    for name in ["prompt.txt", "tools.json", "skill.md", "more"] {
        fs::write(place.at.join(name), name).unwrap();
    }
    let flags = [
        "measure",
        "--prompt",
        "prompt.txt",
        "--tools",
        "tools.json",
        "--skill",
        "skill.md",
        "--other",
        "more",
        "--",
        "sh",
        "agent.py",
    ];
    let mut command = place.command(&flags);
    let output = command
        .env("LD_LIBRARY_PATH", "/x")
        .env("HOME", "/")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("LD_LIBRARY_PATH"));
    let parsed: toml::Table = text.parse().unwrap();
    assert!(!parsed.contains_key("env_allow"), "{text}");
    assert!(text.contains("# env_allow = [\"LD_LIBRARY_PATH\"]"), "{text}");
    let roles: Vec<&str> = parsed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["prompt", "tools", "skill", "other"]);
    let twice = [
        "measure", "--prompt", "more", "--skill", "more", "--", "sh", "agent.py",
    ];
    let output = place.command(&twice).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    assert!(stderr(&output).contains("named twice"));
}

#[test]
fn what_cannot_be_measured_is_named_with_its_code() {
    let place = Place::new();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&place.at.join("pipe.py"), mode).unwrap();
    nix::unistd::mkfifo(&place.at.join("pipe"), mode).unwrap();
    fs::create_dir(place.at.join("folder")).unwrap();
    fs::write(place.at.join("text"), "no first line\n").unwrap();
    fs::set_permissions(place.at.join("text"), Permissions::from_mode(0o755)).unwrap();
    let long = format!("#!/{}\n", "a".repeat(300));
    fs::write(place.at.join("long"), long).unwrap();
    fs::set_permissions(place.at.join("long"), Permissions::from_mode(0o755)).unwrap();
    let cases: [(&[&str], i32, &str); 14] = [
        (&["--", "nosuch"], 127, "`nosuch`"),
        (&["--", "./folder"], 126, "`./folder`"),
        (&["--", "./pipe"], 126, "`./pipe`"),
        (&["--", "./agent.py"], 126, "`./agent.py`"),
        (&["--", "./text"], 65, "neither an ELF program"),
        (&["--", "./long"], 65, "256 bytes"),
        (&["--", "sh", "nosuch.sh"], 65, "nosuch.sh"),
        (&["--", "sh", "folder"], 65, "is no regular file"),
        (&["--", "sh", "pipe.py"], 65, "is no regular file"),
        (&["--", "sh", "-c", "true"], 65, "can be approved"),
        (&["--", "sh", "-e", "agent.py"], 65, "`-e`"),
        (
            &["--prompt", "nosuch.txt", "--", "sh", "agent.py"],
            65,
            "nosuch.txt",
        ),
        (&["--user", "root", "--", "sh", "agent.py"], 65, "uid 0"),
        (
            &["--module-file", "agent.py", "--", "sh", "agent.py"],
            64,
            "--module-file",
        ),
    ];
    for (arguments, code, said) in cases {
        let output = place
            .command(&[&["measure"], arguments].concat())
            .output()
            .unwrap();
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    let output = place.command(&["measure"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

#[test]
fn a_file_that_this_user_may_not_read_is_a_matter_of_permission() {
    require!(Need::Root);
    use std::os::unix::process::CommandExt;
    let place = Place::new();
    fs::set_permissions(place.at.join("agent.py"), Permissions::from_mode(0o600)).unwrap();
    let mut command = place.command(&["measure", "--", "sh", "agent.py"]);
    let output = command.uid(USER).gid(USER).output().unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", stderr(&output));
    assert!(stderr(&output).contains("agent.py"));
}

#[test]
fn files_that_runs_could_change_are_named_with_their_owner() {
    require!(Need::Root);
    let place = Place::new();
    let user = USER.to_string();
    let measure = || place.json(&["--user", &user, "--", "sh", "agent.py"]);
    assert_eq!(measure()["mutable"], serde_json::json!([]));
    chown(place.at.join("agent.py"), Some(USER), None).unwrap();
    let found = measure();
    assert_eq!(found["mutable"][0]["path"], place.path("agent.py"));
    assert_eq!(found["mutable"][0]["owner_uid"], USER);
    // A folder on the way is as good as the file.
    let inner = place.at.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("agent.sh"), "true\n").unwrap();
    chown(&inner, Some(USER), None).unwrap();
    let found = place.json(&["--user", &user, "--", "sh", "inner/agent.sh"]);
    assert_eq!(found["mutable"][0]["writable"], inner.display().to_string());
    let warning = found["warnings"][0].as_str().unwrap();
    assert!(
        warning.contains(&format!("uid {USER}")) && warning.contains("agent.sh"),
        "{warning}"
    );
}
