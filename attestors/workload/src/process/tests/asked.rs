//! What is looked for only where somebody asks: virtual environments and packages of real interpreters, and processes that lie.
//! tests/suites/process.rs has what needs other users and real groups.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use super::super::*;
use crate::subject::{Subject, copy_program, folder, found, python, reason, sha256, value};

/// Longest that any answer may take here: far below the deadline of hung reads.
const SOON: Duration = Duration::from_secs(5);

fn attestor() -> ProcessAttestor {
    ProcessAttestor::new(ProcessConfig::default(), Arc::default())
}

async fn all_of(subject: &Subject) -> Evidence {
    let attestor = attestor();
    let asked = Asked::everything();
    let measuring = tokio::time::timeout(SOON, attestor.attest(&subject.process, &asked));
    measuring.await.expect("an answer").unwrap()
}

fn asked(all: &[&str]) -> Asked {
    let mut asked = Asked::default();
    all.iter().for_each(|what| asked.add(what));
    asked
}

/// A project with a virtual environment, a lock file and some packages in it.
struct Project {
    _folder: tempfile::TempDir,
    at: PathBuf,
}

impl Project {
    fn new() -> Self {
        let (folder, at) = folder();
        let made = Command::new(python())
            .args(["-m", "venv", "--without-pip"])
            .arg(at.join("env"))
            .status()
            .unwrap();
        assert!(made.success());
        fs::write(at.join("uv.lock"), "version = 1\n").unwrap();
        fs::write(at.join("agent.py"), "print(1, flush=True)\ninput()\n").unwrap();
        let project = Self { _folder: folder, at };
        for name in ["Foo_Bar-1.2", "two-1.0", "two-2.0"] {
            project.install(name);
        }
        project
    }

    fn site(&self) -> PathBuf {
        let lib = self.at.join("env/lib");
        let mut folders = fs::read_dir(lib).unwrap().map(|entry| entry.unwrap().path());
        folders.find(|path| path.is_dir()).unwrap().join("site-packages")
    }

    fn install(&self, name: &str) {
        fs::create_dir(self.site().join(format!("{name}.dist-info"))).unwrap();
    }

    fn python(&self) -> PathBuf {
        self.at.join("env/bin/python")
    }

    /// Starts the script, and waits until it runs.
    fn start(&self, command: &mut Command) -> Subject {
        let mut subject = Subject::start(command.arg(self.at.join("agent.py")).current_dir(&self.at));
        assert_eq!(subject.hear(), "1");
        subject
    }
}

#[tokio::test]
async fn a_virtual_environment_is_told_with_its_lock_its_packages_and_its_interpreter() {
    let project = Project::new();
    let subject = project.start(&mut Command::new(project.python()));
    let evidence = all_of(&subject).await;
    let is = |prefix: &str| value(&evidence, prefix);
    assert_eq!(
        is("process:venv:"),
        Some(project.at.join("env").display().to_string())
    );
    assert_eq!(
        is("process:lock_sha256:"),
        Some(sha256(&project.at.join("uv.lock")))
    );
    assert_eq!(is("process:package:"), Some("foo-bar==1.2".to_owned()));
    assert!(
        reason(&evidence, "process:package:two")
            .unwrap()
            .contains("2 versions")
    );
    assert_eq!(
        is("process:interpreter_path:"),
        Some(python().display().to_string())
    );
    assert_eq!(is("process:interpreter_sha256:"), Some(sha256(python())));
    assert_eq!(is("process:cwd:"), Some(project.at.display().to_string()));
}

#[tokio::test]
async fn only_what_is_asked_for_is_looked_for() {
    let project = Project::new();
    project.install("other-1");
    let subject = project.start(&mut Command::new(project.python()));
    let attestor = attestor();
    let extra = async |what: &[&str]| {
        let evidence = attestor.attest(&subject.process, &asked(what)).await.unwrap();
        let mut all = found(&evidence);
        all.retain(|text| !text.starts_with("process:script") && !text.starts_with("process:interpreter:"));
        assert!(evidence.withheld.is_empty(), "{:?}", evidence.withheld);
        all
    };
    assert_eq!(extra(&[]).await, Vec::<String>::new());
    let packages = ["process:package:foo-bar", "process:package:absent"];
    assert_eq!(extra(&packages).await, ["process:package:foo-bar==1.2"]);
    let cwd = format!("process:cwd:{}", project.at.display());
    assert_eq!(extra(&["process:cwd"]).await, [cwd]);
}

#[tokio::test]
async fn a_package_that_comes_and_goes_is_seen_the_next_time() {
    let project = Project::new();
    let subject = project.start(&mut Command::new(project.python()));
    let attestor = attestor();
    let what = asked(&["process:package:new"]);
    let version = async || {
        let evidence = attestor.attest(&subject.process, &what).await.unwrap();
        value(&evidence, "process:package:")
    };
    assert_eq!(version().await, None);
    project.install("new-1");
    assert_eq!(version().await.as_deref(), Some("new==1"));
    fs::rename(
        project.site().join("new-1.dist-info"),
        project.site().join("new-2.dist-info"),
    )
    .unwrap();
    assert_eq!(version().await.as_deref(), Some("new==2"));
    fs::remove_dir(project.site().join("new-2.dist-info")).unwrap();
    assert_eq!(version().await, None);
}

#[tokio::test]
async fn a_bare_name_is_looked_for_in_the_path_that_the_process_was_started_with() {
    let project = Project::new();
    let path = format!(
        "/nonexistent:{}:/usr/bin",
        project.python().parent().unwrap().display()
    );
    let called = |path: &str| {
        let mut command = Command::new(project.python());
        command.arg0("python").env("PATH", path);
        project.start(&mut command)
    };
    let evidence = all_of(&called(&path)).await;
    assert!(value(&evidence, "process:venv:").is_some());
    let evidence = all_of(&called("/nonexistent")).await;
    assert_eq!(value(&evidence, "process:venv:"), None);
    assert!(
        reason(&evidence, "process:venv")
            .unwrap()
            .contains("no folder of the PATH")
    );
}

#[tokio::test]
async fn a_command_line_that_lies_about_the_interpreter_gives_no_environment() {
    let project = Project::new();
    let other = project.at.join("other");
    fs::create_dir_all(other.join("bin")).unwrap();
    fs::write(other.join("pyvenv.cfg"), "home = /usr/bin\n").unwrap();
    copy_program(other.join("bin/python"));
    for (argv0, said) in [
        (other.join("bin/python"), "is not what it executes"),
        (other.join("bin/none"), "is not what it executes"),
        (other.join("bin"), "is not a regular file"),
    ] {
        let mut command = Command::new(project.python());
        let evidence = all_of(&project.start(command.arg0(&argv0))).await;
        let told = found(&evidence);
        let about = ["process:venv:", "process:lock", "process:package"];
        assert!(
            !told
                .iter()
                .any(|text| about.iter().any(|name| text.starts_with(name))),
            "{told:?}"
        );
        assert!(
            reason(&evidence, "process:venv").unwrap().contains(said),
            "{:?}",
            evidence.withheld
        );
    }
    // In no environment there is nothing to tell, and nothing that is withheld.
    let plain = all_of(&project.start(&mut Command::new(python()))).await;
    assert_eq!(value(&plain, "process:venv:"), None);
    assert_eq!(reason(&plain, "process:venv"), None);
}

/// Puts something in the place of a file.
type Replace = fn(&Path);

#[tokio::test]
async fn a_configuration_that_is_a_pipe_huge_or_nonsense_holds_nothing_up_and_gives_no_environment() {
    let project = Project::new();
    let config = project.at.join("env/pyvenv.cfg");
    let subject = project.start(&mut Command::new(project.python()));
    let replace: [(Replace, &str); 4] = [
        (
            |path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
            "not a regular file",
        ),
        (
            |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
            "more than",
        ),
        (|path| fs::write(path, b"home = /\xff\n").unwrap(), "UTF-8"),
        (|path| symlink("/dev/zero", path).unwrap(), "not a regular file"),
    ];
    for (replace, said) in replace {
        fs::remove_file(&config).unwrap();
        replace(&config);
        let evidence = all_of(&subject).await;
        assert_eq!(value(&evidence, "process:venv:"), None);
        assert_eq!(value(&evidence, "process:package:"), None);
        let why = reason(&evidence, "process:venv").unwrap();
        assert!(why.contains(said), "{why}");
    }
}

#[tokio::test]
async fn locks_and_packages_that_cannot_be_looked_at_are_withheld() {
    let project = Project::new();
    fs::remove_file(project.at.join("uv.lock")).unwrap();
    nix::unistd::mkfifo(&project.at.join("uv.lock"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(project.at.join("requirements.txt"), "").unwrap();
    fs::remove_dir_all(project.site()).unwrap();
    let subject = project.start(&mut Command::new(project.python()));
    let evidence = all_of(&subject).await;
    // One that can be looked at is told.
    assert_eq!(
        value(&evidence, "process:lock_sha256:"),
        Some(sha256(&project.at.join("requirements.txt")))
    );
    assert!(
        reason(&evidence, "process:lock_sha256")
            .unwrap()
            .contains("not a regular file")
    );
    assert!(
        reason(&evidence, "process:package")
            .unwrap()
            .contains("does not exist")
    );
}

/// Whoever runs this owns the files, or is root: neither is kept from changing them.
#[tokio::test]
async fn what_its_own_user_can_change_is_not_immutable() {
    let project = Project::new();
    let subject = project.start(&mut Command::new(project.python()));
    let evidence = all_of(&subject).await;
    assert_eq!(value(&evidence, "process:immutable:script"), None);
    let script = reason(&evidence, "process:immutable:script");
    let why = script.or_else(|| reason(&evidence, "process:immutable")).unwrap();
    assert!(why.contains("can write to") || why.contains("root"), "{why}");
}

#[tokio::test]
async fn a_program_that_is_no_interpreter_has_a_place_and_no_environment() {
    let (_folder, path) = folder();
    copy_program(path.join("program"));
    let evidence = all_of(&Subject::plain(&path.join("program"))).await;
    for text in found(&evidence) {
        let name = text.split(':').nth(1).unwrap();
        let known = [
            "cwd",
            "immutable",
            "non_dumpable",
            "cgroup",
            "systemd_unit",
            "systemd_invocation_id",
            "ancestor",
        ];
        assert!(known.contains(&name), "{text}");
    }
    assert!(value(&evidence, "process:cwd:").is_some());
}
