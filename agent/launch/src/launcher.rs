//! The way in: `Launcher::prepare` brings a process as far as the gate, `Prepared::release` lets it run once the caller
//! has registered it. A `Prepared` that is dropped, or whose process is killed, leaves nothing behind.

mod launched;
mod prepared;

use std::fs;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::geteuid;

use self::launched::readable;
use self::prepared::{Made, Supervisor};
use crate::cgroups::{Cgroup, CgroupRoot};
use crate::copies::CopyStore;
use crate::measure::{By, Measured, Measurer};
use crate::order::{Order, c_string, variable};
use crate::record::{Outcome, Record, boot_id, clear};
use crate::verify::{Wanted, verify};
use crate::{Isolation, LaunchError, Plan, Stdio, User, doors};

pub use self::launched::Launched;
pub use self::prepared::Prepared;

/// The longest name of a run.
const MAX_NAME_BYTES: usize = 128;

/// Where a launcher works.
#[derive(Debug)]
pub struct Config {
    /// The program `vouchsafe-supervisor`.
    pub supervisor: PathBuf,
    /// The folder of execute-only copies: everybody must be able to pass through it and its parents.
    pub copies: PathBuf,
    /// The folder of records: nobody else's.
    pub records: PathBuf,
    /// Where control groups are made; without it only programs without isolation can be started.
    pub cgroups: Option<CgroupRoot>,
    /// How long a process may take to the gate: it enters a folder that the launcher names, which may hang.
    pub patience: Duration,
}

/// How long that is in most cases.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Starts programs.
#[derive(Debug)]
pub struct Launcher {
    config: Config,
    copies: Option<CopyStore>,
    measurer: Measurer,
    boot_id: String,
}

/// What shields a run from others of its uid. What is false is weaker than a class may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// It runs from an execute-only copy and is not dumpable.
    pub execute_only: bool,
    /// It has another uid than its launcher.
    pub other_uid: bool,
    /// It has a control group of its own.
    pub cgroup: bool,
}

impl Launcher {
    /// Opens the folders; makes them where they are missing.
    ///
    /// # Errors
    /// Where they cannot be used, or where others could change the copies.
    pub fn new(config: Config) -> Result<Self, LaunchError> {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&config.records);
        made.map_err(LaunchError::io("making the folder of records"))?;
        let copies = geteuid()
            .is_root()
            .then(|| CopyStore::open(&config.copies))
            .transpose()?;
        Ok(Self {
            config,
            copies,
            measurer: Measurer::default(),
            boot_id: boot_id().map_err(LaunchError::io("reading the boot id"))?,
        })
    }

    /// Measures a program and its files, and brings a process as far as the gate.
    ///
    /// # Errors
    /// Where a file is not what was approved, or what was asked for is not to be had here. Nothing is left behind.
    pub fn prepare(&self, plan: Plan) -> Result<Prepared, LaunchError> {
        let record = self.record(&plan.name)?;
        self.possible(&plan)?;
        let (program, files) = self.measure(&plan)?;
        let mut argv = plan.argv;
        let copy = match (plan.isolation, &self.copies) {
            (Isolation::Process, Some(copies)) => {
                doors::shut(program.path(), &mut argv);
                Some(copies.copy_of(&program)?)
            }
            _ => None,
        };
        let group = self
            .config
            .cgroups
            .as_ref()
            .map(|root| root.create(&plan.name))
            .transpose()?;
        let group = Made(group);
        let (stdio, terminal) = stdio(plan.stdio)?;
        let opened = copy.as_ref().map_or(program.file(), |copy| copy.file());
        let path = copy.as_ref().map_or(program.path(), |copy| copy.path());
        let order = Order {
            argv: argv.iter().map(|text| c_string(text)).collect::<Result<_, _>>()?,
            env: plan
                .env
                .iter()
                .map(|(name, value)| variable(name, value))
                .collect::<Result<_, _>>()?,
            cwd: plan.cwd,
            user: plan.user.clone(),
            cgroup: group.path(),
            in_group: false,
            record: record.clone(),
            terminal,
            program: path.to_owned(),
            shut: plan.isolation == Isolation::Process,
            on_end: plan.on_end,
            harden: plan.harden,
        };
        let metadata = opened
            .metadata()
            .map_err(LaunchError::io("looking at the program"))?;
        let wanted = Wanted {
            program: Some((metadata.dev(), metadata.ino())),
            non_dumpable: copy.is_some(),
            cgroup_id: group.0.as_ref().map(Cgroup::id),
            uid: plan.user.as_ref().map(|user| user.uid),
        };
        let [input, output, error] = &stdio;
        let descriptors = [opened.as_fd(), input.as_fd(), output.as_fd(), error.as_fd()];
        let mut supervisor = Supervisor::start(&self.config.supervisor, self.config.patience)?;
        let main = supervisor.order(&order, &descriptors)?;
        // At the gate it is not the program yet; all else holds already.
        let at_gate = Wanted {
            program: None,
            ..wanted
        };
        verify(&main, &at_gate)?;
        let in_force = InForce {
            execute_only: copy.is_some(),
            other_uid: plan.user.is_some_and(|user| user.uid != geteuid().as_raw()),
            cgroup: group.0.is_some(),
        };
        Ok(Prepared {
            supervisor,
            main,
            group,
            program,
            files,
            wanted,
            in_force,
            record,
            boot_id: self.boot_id.clone(),
        })
    }

    /// What is left of an earlier life of this process: each run that lives, and how each other one ended.
    ///
    /// # Errors
    /// Where the records cannot be read.
    pub fn recover(&self) -> Result<Vec<(String, Recovered)>, LaunchError> {
        let mut found = Vec::new();
        let entries = fs::read_dir(&self.config.records).map_err(LaunchError::io("reading the records"))?;
        for entry in entries {
            let path = entry.map_err(LaunchError::io("reading the records"))?.path();
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_owned();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let Ok(record) = Record::read(&path) else {
                // As after a loss of power. Its group, should there be one, is cleared below.
                fs::remove_file(&path).map_err(LaunchError::io("removing a record that cannot be read"))?;
                continue;
            };
            let here = record.boot_id == self.boot_id;
            let supervisor = here.then(|| record.supervisor.hold()).flatten();
            let recovered = match (supervisor, record.main.hold()) {
                (Some(supervisor), Some(main)) if record.outcome.is_none() => Recovered::Living(Launched {
                    child: None,
                    supervisor,
                    main,
                    record: path,
                    boot_id: self.boot_id.clone(),
                    cgroup_id: record.cgroup.map(|(_, id)| id),
                    in_force: None,
                }),
                // It is being wound up.
                (Some(supervisor), _) => {
                    readable(&supervisor)?;
                    let record = Record::read(&path).map_err(LaunchError::io("reading a record"))?;
                    Recovered::Ended(record.settle(&self.boot_id))
                }
                (None, _) => Recovered::Ended(record.settle(&self.boot_id)),
            };
            found.push((name, recovered));
        }
        self.clear_unrecorded(&found)?;
        Ok(found)
    }

    /// Whether processes of a run are left. Where it has no control group, nobody knows of any.
    #[must_use]
    pub fn is_populated(&self, name: &str) -> bool {
        let record = Record::read(&self.config.records.join(format!("{name}.json")));
        let group = record.ok().filter(|record| record.boot_id == self.boot_id);
        let group = group.and_then(|record| record.group());
        group.is_some_and(|group| group.is_populated().unwrap_or(false))
    }

    /// Forgets a run that has ended, once its end is told.
    ///
    /// # Errors
    /// Where the record cannot be removed.
    pub fn forget(&self, name: &str) -> Result<(), LaunchError> {
        match fs::remove_file(self.config.records.join(format!("{name}.json"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(LaunchError::io("removing a record")),
        }
    }

    /// Groups of programs that never passed the gate.
    fn clear_unrecorded(&self, found: &[(String, Recovered)]) -> Result<(), LaunchError> {
        let Some(root) = &self.config.cgroups else {
            return Ok(());
        };
        for group in root.list()? {
            let name = group
                .path()
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if !found.iter().any(|(known, _)| known == name) {
                clear(&group)?;
            }
        }
        Ok(())
    }

    fn record(&self, name: &str) -> Result<PathBuf, LaunchError> {
        let letters = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !letters || name.is_empty() || name.starts_with('.') || name.len() > MAX_NAME_BYTES {
            return Err(LaunchError::Name {
                name: name.to_owned(),
            });
        }
        let record = self.config.records.join(format!("{name}.json"));
        if record.exists() {
            return Err(LaunchError::Used {
                name: name.to_owned(),
            });
        }
        Ok(record)
    }

    /// Whether what is asked for is to be had here.
    fn possible(&self, plan: &Plan) -> Result<(), LaunchError> {
        if plan.argv.is_empty() {
            return Err(LaunchError::NoArguments);
        }
        let what = "another uid for the program";
        if plan.user.is_some() && !geteuid().is_root() {
            return Err(LaunchError::NeedsRoot { what });
        }
        if plan.isolation == Isolation::None {
            return Ok(());
        }
        if !geteuid().is_root() {
            let what = "isolation of the program";
            return Err(LaunchError::NeedsRoot { what });
        }
        if plan.user.as_ref().is_none_or(|user| user.uid == 0) {
            return Err(LaunchError::RootUser);
        }
        if self.config.cgroups.is_none() {
            return Err(LaunchError::NoCgroup);
        }
        let value = fs::read_to_string("/proc/sys/fs/suid_dumpable");
        let value = value
            .map_err(LaunchError::io("reading fs.suid_dumpable"))?
            .trim()
            .to_owned();
        if value == "1" {
            return Err(LaunchError::SuidDumpable { value });
        }
        Ok(())
    }

    fn measure(&self, plan: &Plan) -> Result<(Measured, Vec<Measured>), LaunchError> {
        let user = plan.user.clone().unwrap_or_else(|| User {
            uid: geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            groups: Vec::new(),
        });
        let launcher = plan.launcher.as_ref();
        let launcher = launcher.filter(|launcher| launcher.uid != 0 && **launcher != user);
        let mut all = Vec::new();
        for expected in std::iter::once(&plan.program).chain(&plan.files) {
            let measured = self.measurer.measure(&expected.path)?;
            if let Some(sha256) = expected.sha256 {
                measured.expect(sha256)?;
            }
            if plan.immutable {
                measured.out_of_reach_of(&user, By::Run)?;
                if let Some(launcher) = launcher {
                    measured.out_of_reach_of(launcher, By::Launcher)?;
                }
            }
            all.push(measured);
        }
        let program = all.remove(0);
        Ok((program, all))
    }
}

/// What became of a run that an earlier life of the agent started.
#[derive(Debug)]
pub enum Recovered {
    /// It runs.
    Living(Launched),
    /// It has ended; what was left of it has been cleared away.
    Ended(Outcome),
}

/// The descriptors, and whether the first is a terminal to be taken.
fn stdio(stdio: Stdio) -> Result<([OwnedFd; 3], bool), LaunchError> {
    match stdio {
        Stdio::Descriptors(descriptors) => Ok((descriptors, false)),
        Stdio::Terminal(descriptors) => {
            let [input, _, _] = &descriptors;
            match input.is_terminal() {
                true => Ok((descriptors, true)),
                false => Err(LaunchError::NoTerminal),
            }
        }
    }
}
