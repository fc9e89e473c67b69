//! A launcher with folders and a control group of its own, and plans for it.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use vouchsafe_launch::cgroups::CgroupRoot;
use vouchsafe_launch::harden::Harden;
use vouchsafe_launch::{
    Config, Expected, Isolation, LaunchError, Launched, Launcher, OnEnd, Outcome, PATIENCE, Plan, Stdio, User,
};
use vouchsafe_tests::daemons::binary;

/// A uid that no other test uses, and that nobody has.
pub(crate) const UID: u32 = 61_013;

/// Debian's own Python, which every uid can reach.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

static NAMES: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Rig {
    pub(crate) launcher: Launcher,
    pub(crate) groups: CgroupRoot,
    dir: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_patience(PATIENCE)
    }

    pub(crate) fn with_patience(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let own = CgroupRoot::of_self("vouchsafe.test").unwrap();
        let number = NAMES.fetch_add(1, Ordering::Relaxed);
        let groups = format!("vouchsafe.test-{}-{number}", std::process::id());
        let groups = CgroupRoot::open(&own.path().with_file_name(groups)).unwrap();
        let launcher = launcher(dir.path(), &groups, patience);
        Self {
            launcher,
            groups,
            dir,
        }
    }

    /// The launcher that a restarted agent would have.
    pub(crate) fn again(&self) -> Launcher {
        launcher(self.dir.path(), &self.groups, PATIENCE)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file of root's that everybody can read.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    pub(crate) fn run(&self, plan: Plan) -> Result<Launched, LaunchError> {
        self.launcher.prepare(plan)?.release()
    }

    /// Runs to the end; the outcome and what was printed.
    pub(crate) fn output(
        &self,
        make: impl FnOnce(&mut Plan),
        program: &str,
        argv: &[&str],
    ) -> (Outcome, String) {
        let (mut plan, mut reader) = plan(program, argv);
        make(&mut plan);
        let mut launched = self.run(plan).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        (launched.wait().unwrap(), text)
    }

    pub(crate) fn python(&self, script: &str) -> (Outcome, String) {
        self.output(|_| {}, PYTHON, &["python3", "-c", script])
    }

    /// Files in the folder of records, and groups: what a run would leave behind.
    pub(crate) fn left(&self) -> (usize, usize) {
        let records = fs::read_dir(self.path().join("records")).unwrap().count();
        (records, self.groups.list().unwrap().len())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for group in self.groups.list().unwrap_or_default() {
            let _gone = group.kill();
            let _gone = group.wait_empty_for(nix::poll::PollTimeout::from(5000_u16));
            let _gone = group.remove();
        }
        let _kept_for_looking = fs::remove_dir(self.groups.path());
    }
}

fn launcher(dir: &Path, groups: &CgroupRoot, patience: Duration) -> Launcher {
    let config = Config {
        supervisor: binary("vouchsafe-supervisor").unwrap(),
        copies: dir.join("copies"),
        records: dir.join("records"),
        cgroups: Some(groups.clone()),
        patience,
    };
    Launcher::new(config).unwrap()
}

/// A name that no other run of this process has.
pub(crate) fn name() -> String {
    format!("run-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// An isolated run under a uid of its own, and what it prints.
pub(crate) fn plan(program: &str, argv: &[&str]) -> (Plan, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let null = File::open("/dev/null").unwrap();
    let plan = Plan {
        name: name(),
        program: Expected {
            path: program.into(),
            sha256: None,
        },
        argv: argv.iter().map(OsString::from).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/".into(),
        user: Some(User {
            uid: UID,
            gid: UID,
            groups: Vec::new(),
        }),
        stdio: Stdio::Descriptors([null.into(), writer.try_clone().unwrap().into(), writer.into()]),
        files: Vec::new(),
        immutable: true,
        launcher: None,
        isolation: Isolation::Process,
        on_end: OnEnd::Kill,
        harden: Harden::default(),
    };
    (plan, reader)
}

/// A virtual environment; its Python by the path that its users call.
pub(crate) fn virtual_environment(rig: &Rig) -> String {
    let venv = rig.path().join("venv");
    let made = Command::new(PYTHON)
        .args(["-m", "venv", "--without-pip"])
        .arg(&venv)
        .status();
    assert!(made.unwrap().success());
    venv.join("bin/python3").to_str().unwrap().to_owned()
}

/// The node of this host, where every uid can reach one.
pub(crate) fn node() -> Option<String> {
    let paths = ["/usr/bin/node", "/usr/local/bin/node", "/usr/bin/nodejs"];
    paths
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .map(str::to_owned)
}
