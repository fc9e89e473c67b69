//! The `process` attestor on processes of other users, in groups of their own and with mounts of their own: what only the
//! kernel can say, and how it is withheld from those who could have arranged it. Needs root, or namespaces, by test.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{getegid, geteuid};
use tempfile::TempDir;
use vouchsafe_attestors::{Asked, Evidence, Process, Reach, Trust, WorkloadAttestor};
use vouchsafe_sys::PidFd;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_workload_attestors::{ProcessAttestor, ProcessConfig};

/// A uid that nobody has.
const USER: u32 = 61_080;

/// A command that has echoed a line and runs until its standard input ends.
struct Echo {
    child: Child,
    _stdin: ChildStdin,
    ids: (u32, u32),
}

impl Echo {
    fn start(command: &mut Command, ids: (u32, u32)) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "here").unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(line, "here\n");
        Self {
            child,
            _stdin: stdin,
            ids,
        }
    }

    /// A shell with this script, as another user. (`setpriv` would keep privileges up to the exec, and so might read all.)
    fn as_user(at: &Place, script: &Path) -> Self {
        let mut command = Command::new(at.shell());
        command.arg(script).uid(USER).gid(USER).current_dir(&at.at);
        Self::start(&mut command, (USER, USER))
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    async fn evidence(&self, systemd: &Path) -> Evidence {
        let process = Process {
            pidfd: Arc::new(PidFd::open(self.pid()).unwrap()),
            pid: self.pid(),
            uid: self.ids.0,
            gid: self.ids.1,
            reach: Reach::Full,
            program: None,
        };
        let config = ProcessConfig {
            systemd_dir: systemd.to_owned(),
            ..ProcessConfig::default()
        };
        let attestor = ProcessAttestor::new(config, Arc::default());
        attestor.attest(&process, &Asked::everything()).await.unwrap()
    }

    async fn found(&self) -> Found {
        Found(self.evidence(Path::new("/nonexistent")).await)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

#[derive(Debug)]
struct Found(Evidence);

impl Found {
    /// The value and trust of the one selector of that name.
    fn value(&self, name: &str) -> Option<(String, Trust)> {
        let prefix = format!("{name}:");
        let mut all = self.0.findings.iter().filter_map(|finding| {
            let value = finding.selector.value().strip_prefix(&prefix)?;
            Some((value.to_owned(), finding.trust))
        });
        let first = all.next();
        assert_eq!(all.next(), None, "more than one {name}");
        first
    }

    fn has(&self, text: &str) -> bool {
        let mut all = self.0.findings.iter();
        all.any(|finding| finding.selector.value() == text)
    }

    fn reason(&self, what: &str) -> &str {
        let found = self
            .0
            .withheld
            .iter()
            .find(|withheld| withheld.what == format!("process:{what}"));
        found.map_or("it is not withheld", |withheld| withheld.reason.as_str())
    }
}

/// A folder of root's that everybody may enter, with a shell and a script that echoes.
struct Place {
    _folder: TempDir,
    at: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        fs::set_permissions(&at, Permissions::from_mode(0o755)).unwrap();
        let place = Self { _folder: folder, at };
        place.install("inner");
        place
    }

    /// A folder with a shell; by another process, for a file that we hold open for writing could not be executed.
    fn install(&self, name: &str) -> PathBuf {
        let folder = self.at.join(name);
        let script = r#"umask 022; mkdir "$1"; cp -L "$(command -v dash || command -v bash)" "$1/sh"
            printf 'while read -r line; do echo "$line"; done\n' >"$1/agent.sh""#;
        let mut command = Command::new("sh");
        let status = command.args(["-ec", script, "sh"]).arg(&folder).status();
        assert!(status.unwrap().success());
        folder
    }

    fn shell(&self) -> PathBuf {
        self.at.join("inner/sh")
    }

    fn script(&self) -> PathBuf {
        self.at.join("inner/agent.sh")
    }
}

#[tokio::test]
async fn immutable_is_what_neither_the_user_nor_its_groups_can_change_anywhere_on_the_way() {
    require!(Need::Root);
    let place = Place::new();
    let echo = Echo::as_user(&place, &place.script());
    let found = async || echo.found().await;
    let both = found().await;
    assert!(
        both.has("immutable:program") && both.has("immutable:script"),
        "{both:?}"
    );
    let trusts: Vec<Trust> = both
        .0
        .findings
        .iter()
        .filter(|finding| finding.selector.value().starts_with("immutable:"))
        .map(|finding| finding.trust)
        .collect();
    assert_eq!(trusts, [Trust::Measured, Trust::Asserted]);

    chown(place.script(), Some(USER), None).unwrap();
    let less = found().await;
    assert!(less.has("immutable:program") && !less.has("immutable:script"));
    assert!(less.reason("immutable:script").contains("agent.sh"), "{less:?}");
    chown(place.script(), Some(0), None).unwrap();

    // A folder on the way, by its group and by everybody.
    chown(place.at.join("inner"), None, Some(USER)).unwrap();
    for mode in [0o775, 0o757] {
        fs::set_permissions(place.at.join("inner"), Permissions::from_mode(mode)).unwrap();
        let none = found().await;
        assert!(
            !none.has("immutable:program") && !none.has("immutable:script"),
            "{mode:o}"
        );
        assert!(none.reason("immutable:program").contains("inner"), "{none:?}");
    }
    fs::set_permissions(place.at.join("inner"), Permissions::from_mode(0o755)).unwrap();
    assert!(found().await.has("immutable:script"));

    // Another file in the place of the script is not the one that was looked at before.
    fs::rename(place.script(), place.at.join("old")).unwrap();
    fs::write(place.script(), "true\n").unwrap();
    fs::set_permissions(place.script(), Permissions::from_mode(0o666)).unwrap();
    assert!(found().await.reason("immutable:script").contains("agent.sh"));
}

#[tokio::test]
async fn root_and_who_has_capabilities_find_nothing_immutable_and_have_no_group() {
    require!(Need::Root);
    let place = Place::new();
    let flags = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"];
    let id = USER.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(flags)
        .arg(place.shell())
        .arg(place.script());
    let able = Echo::start(&mut command, (USER, USER)).found().await;
    assert!(!able.has("immutable:program"));
    assert!(able.reason("immutable").contains("capabilities"), "{able:?}");
    assert!(able.reason("cgroup").contains("capabilities"), "{able:?}");
    let mut command = Command::new(place.shell());
    let root = Echo::start(command.arg(place.script()), (0, 0)).found().await;
    assert!(!root.has("immutable:program") && root.value("non_dumpable").is_none());
    assert!(root.reason("immutable").contains("root"), "{root:?}");
    assert!(root.reason("non_dumpable").contains("root"), "{root:?}");
}

#[tokio::test]
async fn a_process_that_runs_what_it_may_not_read_is_non_dumpable_and_others_are_not() {
    require!(Need::Root);
    let place = Place::new();
    let plain = Echo::as_user(&place, &place.script()).found().await;
    assert_eq!(plain.value("non_dumpable"), None);
    assert!(plain.reason("non_dumpable").contains("look into"), "{plain:?}");
    fs::set_permissions(place.shell(), Permissions::from_mode(0o711)).unwrap();
    let shut = Echo::as_user(&place, &place.script()).found().await;
    assert_eq!(
        shut.value("non_dumpable"),
        Some(("true".to_owned(), Trust::Measured))
    );
}

/// In a mount namespace of its own any user can put its own file over any path.
#[tokio::test]
async fn what_was_mounted_over_a_path_has_neither_that_path_nor_its_immutability() {
    require!(Need::Root, Need::Namespaces);
    let place = Place::new();
    let evil = place.install("evil");
    fs::write(
        evil.join("agent.sh"),
        "while read -r line; do echo \"$line\"; done # evil\n",
    )
    .unwrap();
    let id = USER.to_string();
    let script = r#"mount --bind "$1/sh" "$2/sh" && mount --bind "$1/agent.sh" "$2/agent.sh" &&
        exec setpriv --bounding-set -all "$2/sh" "$2/agent.sh""#;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["unshare", "-Urm", "sh", "-c", script, "sh"])
        .arg(&evil)
        .arg(place.at.join("inner"));
    let found = Echo::start(&mut command, (USER, USER)).found().await;
    // What it says it runs is its own word, as ever; the hash is that of its own file.
    assert!(
        found.has(&format!("script:{}", place.script().display())),
        "{found:?}"
    );
    assert_eq!(found.value("interpreter_path"), None, "{found:?}");
    assert!(
        found.reason("interpreter_path").contains("another file"),
        "{found:?}"
    );
    for (what, said) in [
        ("immutable:program", "another file in the agent's mount namespace"),
        ("immutable:script", "not that file in the agent's mount namespace"),
    ] {
        assert!(!found.has(what), "{found:?}");
        assert!(found.reason(what).contains(said), "{found:?}");
    }
}

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A control group that is gone with the test.
struct Group(PathBuf);

impl Group {
    /// Below where the unified hierarchy is mounted.
    fn top(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        let mount = line.split(' ').nth(4).unwrap();
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let name = format!("vouchsafetest{}x{number}{name}", std::process::id());
        Self::make(Path::new(mount).join(name))
    }

    fn make(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn inner(&self, name: &str) -> Self {
        Self::make(self.0.join(name))
    }

    fn take(&self, echo: &Echo) {
        fs::write(self.0.join("cgroup.procs"), echo.pid().to_string()).unwrap();
    }

    /// As systemd does for `Delegate=`.
    fn delegate(&self, uid: u32) {
        for path in [self.0.clone(), self.0.join("cgroup.procs")] {
            chown(path, Some(uid), None).unwrap();
        }
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _has_processes = fs::remove_dir(&self.0);
    }
}

/// The processes first, then the groups from within.
struct Stay {
    echo: Option<Echo>,
    groups: Vec<Group>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        drop(self.echo.take());
        while let Some(group) = self.groups.pop() {
            drop(group);
        }
    }
}

impl Stay {
    /// In the innermost of these groups.
    fn of(place: &Place, groups: Vec<Group>) -> Self {
        let echo = Echo::as_user(place, &place.script());
        groups.last().unwrap().take(&echo);
        Self {
            echo: Some(echo),
            groups,
        }
    }

    async fn found(&self, systemd: &Path) -> Found {
        Found(self.echo.as_ref().unwrap().evidence(systemd).await)
    }
}

#[tokio::test]
async fn a_group_is_told_as_it_is_called_and_withheld_from_the_user_that_it_was_delegated_to() {
    require!(Need::Root);
    let place = Place::new();
    let nowhere = Path::new("/nonexistent");
    let top = Group::top(" a:b 0::\u{2603}");
    let name = top.name();
    let inner = top.inner("in");
    let stay = Stay::of(&place, vec![top, inner]);
    let found = stay.found(nowhere).await;
    assert_eq!(
        found.value("cgroup"),
        Some((format!("{name}/in"), Trust::Measured))
    );
    assert_eq!(found.value("systemd_unit"), None);
    let [top, inner] = stay.groups.as_slice() else {
        return;
    };
    for group in [inner, top] {
        group.delegate(USER);
        let found = stay.found(nowhere).await;
        assert_eq!(found.value("cgroup"), None);
        assert!(found.reason("cgroup").contains("can write to"), "{found:?}");
        group.delegate(0);
    }
    assert!(stay.found(nowhere).await.value("cgroup").is_some());
}

#[tokio::test]
async fn names_of_groups_that_a_selector_cannot_hold_or_that_look_removed_are_withheld() {
    require!(Need::Root);
    let place = Place::new();
    let nowhere = Path::new("/nonexistent");
    for (name, said) in [("\u{1b}[2J", "control character"), (" (deleted)", "removed")] {
        let stay = Stay::of(&place, vec![Group::top(name)]);
        let found = stay.found(nowhere).await;
        assert_eq!(found.value("cgroup"), None, "{found:?}");
        assert!(found.reason("cgroup").contains(said), "{found:?}");
    }
}

/// What systemd keeps in `/run/systemd`.
fn systemd(at: &Path, unit: &str, id: &str) -> PathBuf {
    let folder = at.join("systemd");
    fs::create_dir_all(folder.join("system")).unwrap();
    fs::create_dir_all(folder.join("units")).unwrap();
    symlink(id, folder.join(format!("units/invocation:{unit}"))).unwrap();
    folder
}

const INVOCATION: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_unit_is_what_root_called_it_also_where_its_inside_was_delegated() {
    require!(Need::Root);
    let place = Place::new();
    let run = systemd(&place.at, "agent@1.service", INVOCATION);
    let slice = Group::top(".slice");
    let unit = slice.inner("agent@1.service");
    let deep = unit.inner("other.service");
    let stay = Stay::of(&place, vec![slice, unit, deep]);
    let measured = |text: &str| Some((text.to_owned(), Trust::Measured));
    let found = stay.found(&run).await;
    assert_eq!(found.value("systemd_unit"), measured("agent@1.service"));
    assert_eq!(found.value("systemd_invocation_id"), measured(INVOCATION));

    let [slice, unit, deep] = stay.groups.as_slice() else {
        return;
    };
    for group in [unit, deep] {
        group.delegate(USER);
    }
    let found = stay.found(&run).await;
    assert_eq!(found.value("systemd_unit"), measured("agent@1.service"));
    assert_eq!(found.value("cgroup"), None, "{found:?}");
    // Who can write above the unit can make one of any name.
    slice.delegate(USER);
    let found = stay.found(&run).await;
    for what in ["systemd_unit", "systemd_invocation_id"] {
        assert_eq!(found.value(what), None);
        assert!(found.reason(what).contains("can write to"), "{found:?}");
    }
}

#[tokio::test]
async fn a_unit_needs_systemd_and_an_invocation_systemds_own_note() {
    require!(Need::Root);
    let place = Place::new();
    let slice = Group::top(".slice");
    let unit = slice.inner("agent.service");
    let stay = Stay::of(&place, vec![slice, unit]);
    let found = stay.found(&place.at.join("none")).await;
    assert_eq!(found.value("systemd_unit"), None);
    assert!(
        found.reason("systemd_unit").contains("systemd does not run"),
        "{found:?}"
    );
    let run = systemd(&place.at, "other.service", INVOCATION);
    let found = stay.found(&run).await;
    assert!(found.value("systemd_unit").is_some());
    assert!(
        found.reason("systemd_invocation_id").contains("no invocation"),
        "{found:?}"
    );
    let run = systemd(&place.at, "agent.service", "../../etc/passwd");
    let found = stay.found(&run).await;
    assert_eq!(found.value("systemd_invocation_id"), None);
    assert!(
        found.reason("systemd_invocation_id").contains("no invocation id"),
        "{found:?}"
    );
}

/// The agent's own user is told nothing that it could have arranged, whoever runs this.
#[tokio::test]
async fn a_process_of_our_own_is_told_its_folder_and_no_more_than_that() {
    let place = Place::new();
    let mut command = Command::new(place.shell());
    command
        .arg(place.script())
        .current_dir(&place.at)
        .env("INVOCATION_ID", INVOCATION);
    let ids = (geteuid().as_raw(), getegid().as_raw());
    let found = Echo::start(&mut command, ids).found().await;
    let cwd = Some((place.at.display().to_string(), Trust::Asserted));
    assert_eq!(found.value("cwd"), cwd);
    assert_eq!(found.value("systemd_invocation_id"), None);
    assert!(!found.has("immutable:script"), "{found:?}");
}
