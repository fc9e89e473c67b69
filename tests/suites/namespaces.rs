//! Workload attestors on processes of other users and in namespaces of their own. Needs root, or user
//! namespaces, or both, by test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

use nix::unistd::{Group, Uid, User, getegid, geteuid};
use tempfile::TempDir;
use vouchsafe_attestors::{Asked, Evidence, Process, Reach, Trust, WorkloadAttestor};
use vouchsafe_sys::PidFd;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::{require, wait};
use vouchsafe_workload_attestors::{
    AgentNamespaces, ProcessAttestor, ProcessConfig, UnixAttestor, UnixConfig,
};

const NOBODY: u32 = 65534;

/// A command that runs until its standard input ends, and has shown that it runs by echoing a line.
struct Echo {
    child: Child,
    _stdin: ChildStdin,
}

impl Echo {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "here").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "here\n");
        Self { child, _stdin: stdin }
    }

    fn process(&self, uid: u32, gid: u32) -> Process {
        process(i32::try_from(self.child.id()).unwrap(), uid, gid)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _already_reaped = self.child.wait();
    }
}

fn process(pid: i32, uid: u32, gid: u32) -> Process {
    Process {
        pidfd: Arc::new(PidFd::open(pid).unwrap()),
        pid,
        uid,
        gid,
        reach: Reach::Full,
        program: None,
    }
}

/// Someone without rights: nobody where we are root, else ourselves. The command runs as that user.
fn without_rights(program: &str) -> (Command, u32, u32) {
    if !geteuid().is_root() {
        return (Command::new(program), geteuid().as_raw(), getegid().as_raw());
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", program]);
    (command, NOBODY, NOBODY)
}

/// A folder that everybody may enter, and two programs in it that differ in their bytes.
fn programs() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // By a shell: a file that we hold open for writing could not be executed.
    let script = r#"umask 022; mkdir "$1/trusted" "$1/evil"
        for to in trusted evil; do cp -L "$(command -v cat)" "$1/$to/cat"; done; echo >>"$1/evil/cat""#;
    let status = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    (folder, path.join("trusted/cat"), path.join("evil/cat"))
}

async fn unix(process: &Process) -> Evidence {
    let attestor = UnixAttestor::new(UnixConfig::default(), Arc::default());
    attestor.attest(process, &Asked::everything()).await.unwrap()
}

fn texts(evidence: &Evidence) -> Vec<String> {
    evidence.selectors().iter().map(ToString::to_string).collect()
}

fn reason<'a>(evidence: &'a Evidence, what: &str) -> &'a str {
    let withheld = evidence.withheld.iter().find(|withheld| withheld.what == what);
    &withheld
        .unwrap_or_else(|| panic!("{what} is not withheld"))
        .reason
}

fn sha256(path: &Path) -> String {
    hex::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &fs::read(path).unwrap(),
    ))
}

/// In a mount namespace of its own a user mounts a program over another one's path; `/proc/PID/exe` then
/// reads as the other one's. Without the comparison of device and inode in the `unix` attestor's `path_here`
/// this test fails: the process gets `unix:path` of the trusted program.
#[tokio::test]
async fn a_program_mounted_over_anothers_path_gets_no_path() {
    require!(Need::Namespaces);
    let (_folder, trusted, evil) = programs();
    let (mut command, uid, gid) = without_rights("unshare");
    let script = r#"mount --bind "$1" "$2" && exec "$2""#;
    command
        .args(["-Urm", "sh", "-c", script, "sh"])
        .arg(&evil)
        .arg(&trusted);
    let subject = Echo::start(&mut command);
    let process = subject.process(uid, gid);
    assert_eq!(
        fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap(),
        trusted
    );

    let evidence = unix(&process).await;
    let all = texts(&evidence);
    assert!(all.iter().all(|text| !text.starts_with("unix:path:")), "{all:?}");
    assert!(reason(&evidence, "unix:path").contains("another file"));
    // What was executed is told all the same.
    assert!(all.contains(&format!("unix:sha256:{}", sha256(&evil))), "{all:?}");
    assert_ne!(sha256(&evil), sha256(&trusted));
}

/// Where the agent has nothing at the path, as for most programs of a container.
#[tokio::test]
async fn a_program_in_a_file_system_of_its_own_gets_a_hash_and_no_path() {
    require!(Need::Namespaces);
    let (_folder, trusted, evil) = programs();
    let (mut command, uid, gid) = without_rights("unshare");
    let script = r#"mount -t tmpfs tmpfs "$2" && cp "$1" "$2/cat" && exec "$2/cat""#;
    let place = evil.parent().unwrap();
    fs::remove_file(&evil).unwrap();
    command
        .args(["-Urm", "sh", "-c", script, "sh"])
        .arg(&trusted)
        .arg(place);
    let subject = Echo::start(&mut command);
    let evidence = unix(&subject.process(uid, gid)).await;
    let all = texts(&evidence);
    assert!(all.iter().all(|text| !text.starts_with("unix:path:")), "{all:?}");
    assert!(reason(&evidence, "unix:path").contains("not in the agent's mount namespace"));
    assert!(
        all.contains(&format!("unix:sha256:{}", sha256(&trusted))),
        "{all:?}"
    );
}

#[tokio::test]
async fn another_user_has_its_own_ids_and_groups_and_no_names_where_there_are_none() {
    require!(Need::Root);
    const UID: u32 = 1_234_567;
    const GIDS: [u32; 3] = [2_345_678, 3_456_789, 4_567_890];
    assert!(User::from_uid(Uid::from_raw(UID)).unwrap().is_none());
    for gid in GIDS {
        assert!(Group::from_gid(gid.into()).unwrap().is_none());
    }
    let (_folder, trusted, _) = programs();
    let mut command = Command::new("setpriv");
    let groups = format!("{},{}", GIDS[1], GIDS[2]);
    command.args([
        "--reuid",
        &UID.to_string(),
        "--regid",
        &GIDS[0].to_string(),
        "--groups",
        &groups,
    ]);
    let subject = Echo::start(command.arg(&trusted));
    let evidence = unix(&subject.process(UID, GIDS[0])).await;
    let mut expected = vec![
        format!("unix:gid:{}", GIDS[0]),
        format!("unix:path:{}", trusted.display()),
        format!("unix:sha256:{}", sha256(&trusted)),
        format!("unix:supplementary_gid:{}", GIDS[1]),
        format!("unix:supplementary_gid:{}", GIDS[2]),
        format!("unix:uid:{UID}"),
    ];
    expected.sort();
    assert_eq!(texts(&evidence), expected);
    assert_eq!(evidence.withheld, Vec::new());
}

/// Whoever is root over a PID namespace can name another process of it as the sender of bytes.
#[tokio::test]
async fn a_pid_namespace_of_another_user_namespace_leaves_only_the_ids() {
    require!(Need::Namespaces);
    let (_folder, trusted, _) = programs();
    let (mut command, uid, gid) = without_rights("unshare");
    command.args(["-Urp", "--fork", "--kill-child"]).arg(&trusted);
    let parent = Echo::start(&mut command);
    let children = format!("/proc/{0}/task/{0}/children", parent.child.id());
    let pid = wait::until("the child in its own PID namespace", async || {
        fs::read_to_string(&children).ok()?.trim().parse::<i32>().ok()
    });
    let mut subject = process(pid.await.unwrap(), uid, gid);
    let namespaces = AgentNamespaces::of_self().unwrap();
    subject.reach = namespaces.reach_of(&subject.pidfd, subject.pid).unwrap();
    assert!(
        matches!(subject.reach, Reach::NamespaceOnly { .. }),
        "{:?}",
        subject.reach
    );

    let evidence = unix(&subject).await;
    for text in texts(&evidence) {
        let name = text.split(':').nth(1).unwrap();
        assert!(["uid", "gid", "user", "group"].contains(&name), "{text}");
    }
    assert!(texts(&evidence).contains(&format!("unix:uid:{uid}")));
    assert!(reason(&evidence, "unix:path").contains("user namespace"));
}

#[tokio::test]
async fn a_user_namespace_alone_keeps_a_process_within_reach() {
    require!(Need::Namespaces);
    let (_folder, trusted, _) = programs();
    let (mut command, uid, gid) = without_rights("unshare");
    let echo = Echo::start(command.arg("-Ur").arg(&trusted));
    let subject = echo.process(uid, gid);
    let reach = AgentNamespaces::of_self()
        .unwrap()
        .reach_of(&subject.pidfd, subject.pid);
    assert_eq!(reach.unwrap(), Reach::Full);
}

/// A script is looked for where the process itself would find it, also where the agent has nothing.
#[tokio::test]
async fn a_script_in_a_file_system_of_its_own_is_found_by_the_processs_root() {
    require!(Need::Namespaces);
    let (folder, _, evil) = programs();
    let place = evil.parent().unwrap();
    let (mut command, uid, gid) = without_rights("unshare");
    let script = r#"mount -t tmpfs tmpfs "$1" && cd "$1" && ln -s agent.sh link.sh &&
        printf 'while read -r line; do echo "$line"; done\n' >agent.sh && exec sh ./link.sh"#;
    command.args(["-Urm", "sh", "-c", script, "sh"]).arg(place);
    let subject = Echo::start(&mut command);
    let attestor = ProcessAttestor::new(ProcessConfig::default(), Arc::default());
    let evidence = attestor
        .attest(&subject.process(uid, gid), &Asked::default())
        .await
        .unwrap();
    let copy = folder.path().join("copy");
    fs::write(&copy, "while read -r line; do echo \"$line\"; done\n").unwrap();
    let mut path = OsString::from("process:script:");
    path.push(place.join("agent.sh"));
    let all = texts(&evidence);
    assert!(all.contains(&path.into_string().unwrap()), "{all:?}");
    assert!(
        all.contains(&format!("process:script_sha256:{}", sha256(&copy))),
        "{all:?}"
    );
    assert!(
        evidence
            .findings
            .iter()
            .all(|finding| finding.trust == Trust::Asserted)
    );
}
