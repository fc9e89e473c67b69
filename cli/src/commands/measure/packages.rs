//! What stands for the packages of a program: lock files, which say what was asked for, and the records of installers, which
//! say what was put there, native extensions among it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use vouchsafe_workload_attestors::PYTHON_LOCKS;

use super::PackagesBy;
use super::command::{Code, Start};
use super::files::{self, Files};
use super::installed::{self, Altered};
use super::python::Python;
use crate::error::CliError;

/// Names of lock files of node's tools, beside `package.json`.
const NODE_LOCKS: [&str; 6] = [
    "bun.lock",
    "bun.lockb",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
];
/// What npm says it has installed.
const NODE_RECORD: &str = "node_modules/.package-lock.json";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Packages {
    /// Whether the program is one that has packages.
    known: bool,
    locks: Vec<PathBuf>,
    records: Vec<PathBuf>,
}

/// What is to be said of what was taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Files that are not what a RECORD says.
    pub(super) altered: Vec<Altered>,
    /// More, for people.
    pub(super) notes: Vec<String>,
}

impl Packages {
    /// Looks where the packages of this program's language are.
    pub(super) fn of(start: &Start, python: Option<&Python>) -> Result<Self, CliError> {
        if let Some(python) = python {
            let locks = match python.project() {
                Some(folder) => locks(folder, is_python_lock)?,
                None => Vec::new(),
            };
            return Ok(Self {
                known: python.project().is_some(),
                locks,
                records: python.records()?,
            });
        }
        let is_node = start
            .interpreter
            .as_ref()
            .is_some_and(|interpreter| interpreter.name() == "node");
        let (true, Code::Script(script)) = (is_node, &start.code) else {
            return Ok(Self::default());
        };
        let project = script
            .ancestors()
            .skip(1)
            .find(|folder| folder.join("package.json").is_file());
        let Some(project) = project else {
            return Ok(Self::default());
        };
        let record = project.join(NODE_RECORD);
        Ok(Self {
            known: true,
            locks: locks(project, |name| NODE_LOCKS.contains(&name))?,
            records: record
                .symlink_metadata()
                .is_ok()
                .then_some(record)
                .into_iter()
                .collect(),
        })
    }

    /// Takes what was asked for; says what an operator should know of it.
    pub(super) fn take(
        self,
        by: Option<PackagesBy>,
        given: &[PathBuf],
        folder: &Path,
        files: &mut Files,
    ) -> Result<Taken, CliError> {
        let mut locks = self.locks;
        locks.extend(given.iter().map(|lock| folder.join(lock)));
        let (by_lock, by_record) = match by {
            Some(PackagesBy::None) => (!given.is_empty(), false),
            Some(PackagesBy::Both) => (true, true),
            Some(PackagesBy::Lock) => (true, false),
            Some(PackagesBy::Record) => (!given.is_empty(), true),
            None => (true, locks.is_empty() && self.known),
        };
        let demanded = |kind| by == Some(kind) || by == Some(PackagesBy::Both);
        if demanded(PackagesBy::Lock) && locks.is_empty() {
            let text =
                "there is no lock file beside the virtual environment or `package.json`: name it with --lock";
            return Err(CliError::Invalid(text.to_owned()));
        }
        if demanded(PackagesBy::Record) && self.records.is_empty() {
            let text = "there is no RECORD of an installed package: let a lock file stand for them (--lock)";
            return Err(CliError::Invalid(text.to_owned()));
        }
        let mut taken = Taken::default();
        if by_lock {
            for lock in &locks {
                files.add(lock, "lock")?;
            }
        }
        if by_record {
            for record in &self.records {
                files.add(record, "record")?;
                if record.ends_with("RECORD") {
                    taken.altered.extend(installed::check(record, files)?);
                }
            }
        }
        let any = (by_lock && !locks.is_empty()) || (by_record && !self.records.is_empty());
        if self.known && !any && by != Some(PackagesBy::None) {
            let note = "nothing stands for the installed packages: name a lock file with --lock";
            taken.notes.push(note.to_owned());
        }
        Ok(taken)
    }
}

/// `requirements*.txt` and `pylock.*.toml` are files of many names.
fn is_python_lock(name: &str) -> bool {
    let between = |start: &str, end: &str| name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end));
    PYTHON_LOCKS.contains(&name) || between("requirements", ".txt") || between("pylock.", ".toml")
}

/// The lock files in a folder, in order.
fn locks(folder: &Path, is_lock: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, CliError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(files::unreadable(folder)(error).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(files::unreadable(folder))?;
        if entry.file_name().to_str().is_some_and(&is_lock) {
            found.push(entry.path());
        }
    }
    found.sort_unstable();
    Ok(found)
}
