//! The virtual environment that a Python was called from, its lock files, and the packages in it. All of it rests on
//! `argv[0]`, which the process writes itself, and on files that may be its own.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};
use vouchsafe_attestors::FileId;

use super::ask::normal;
use crate::digest::{Version, reopen};
use crate::proc_dir::{ProcDir, file_id};
use crate::pyvenv::{MAX_PYVENV_BYTES, PYTHON_LOCKS, Pyvenv, PyvenvError};
use crate::script::{self, Kind, Script};
use crate::text::shown;

const CONFIG: &str = "pyvenv.cfg";

/// Longest environment that is read for `PATH`, in bytes.
const MAX_ENVIRONMENT_BYTES: u64 = 256 * 1024;

/// Most folders of `PATH` that are looked into.
const MAX_PATH_FOLDERS: usize = 64;

/// Most files in a folder of packages.
const MAX_ENTRIES: usize = 16 * 1024;

/// Folders of packages that are remembered.
const REMEMBERED: usize = 64;

/// How old a folder's last change must be, in seconds, before its times are trusted to show the next one.
const SETTLED_AFTER: i64 = 2;

/// A virtual environment.
#[derive(Debug)]
pub(super) struct Venv {
    /// Its folder as the process sees it, links followed.
    pub(super) folder: OsString,
    says: Pyvenv,
}

/// Finds the virtual environment of a Python whose executable is `exe`, if it was called from one: by `argv[0]`, as
/// Python does, which must lead to that executable.
///
/// # Errors
/// The reason, for operators.
pub(super) fn find(dir: &ProcDir<'_>, argv0: &[u8], exe: FileId) -> Result<Option<Venv>, String> {
    let called = called(dir, argv0)?;
    let leads_to = script::look(dir, &called, Kind::File)?;
    let same = leads_to.is_some_and(|file| file_id(&file.fd).is_ok_and(|found| found == exe));
    if !same {
        return Err(format!(
            "{}, by which it says it was called, is not what it executes",
            shown(called.as_os_str())
        ));
    }
    for folder in called.ancestors().skip(1).take(2) {
        let Some(config) = script::look(dir, &folder.join(CONFIG), Kind::File)? else {
            continue;
        };
        let wrong = |why: String| format!("{} {why}", shown(folder.join(CONFIG).as_os_str()));
        let bytes = contents(&config).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        match Pyvenv::parse(&bytes) {
            // Python takes such a folder for none too.
            Err(PyvenvError::NoHome) => {}
            Err(error) => return Err(wrong(format!("makes no virtual environment: {error}"))),
            Ok(says) => {
                let Some(Script { path, .. }) = script::look(dir, folder, Kind::Folder)? else {
                    continue;
                };
                return Ok(Some(Venv { folder: path, says }));
            }
        }
    }
    Ok(None)
}

fn contents(config: &Script) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = MAX_PYVENV_BYTES.saturating_add(1) as u64;
    reopen(&config.fd)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The path by which it says that it was called. A bare name was looked for in the `PATH` that it was started with.
fn called(dir: &ProcDir<'_>, argv0: &[u8]) -> Result<PathBuf, String> {
    if argv0.contains(&b'/') {
        return script::absolute(dir, argv0);
    }
    let environment = dir
        .read(c"environ", MAX_ENVIRONMENT_BYTES)
        .map_err(|error| format!("its environment cannot be read: {error}"))?;
    if environment.len() as u64 > MAX_ENVIRONMENT_BYTES {
        return Err(format!(
            "its environment is over the limit of {MAX_ENVIRONMENT_BYTES} bytes"
        ));
    }
    let path = environment
        .split(|byte| *byte == 0)
        .find_map(|variable| variable.strip_prefix(b"PATH="));
    let folders = std::env::split_paths(OsStr::from_bytes(path.unwrap_or_default()));
    for folder in folders.take(MAX_PATH_FOLDERS) {
        let candidate = folder.join(OsStr::from_bytes(argv0));
        let candidate = script::absolute(dir, candidate.as_os_str().as_bytes())?;
        // What is no file there is passed over, as a shell does.
        if let Ok(Some(_)) = script::look(dir, &candidate, Kind::File) {
            return Ok(candidate);
        }
    }
    Err(format!(
        "{}, by which it says it was called, is in no folder of the PATH that it was started with",
        shown(OsStr::from_bytes(argv0))
    ))
}

impl Venv {
    /// The lock files beside it: the file, or why it cannot be looked at.
    pub(super) fn locks(&self, dir: &ProcDir<'_>) -> Vec<Result<Script, String>> {
        let project = Path::new(&self.folder).parent().unwrap_or(Path::new("/"));
        let look = |name: &&str| script::look(dir, &project.join(name), Kind::File).transpose();
        PYTHON_LOCKS.iter().filter_map(look).collect()
    }

    /// Versions of the installed packages, by normal name. More than one where the folder has more.
    ///
    /// # Errors
    /// The reason, for operators.
    pub(super) fn packages(
        &self,
        dir: &ProcDir<'_>,
        exe_name: &OsStr,
        folders: &Folders,
    ) -> Result<Arc<Packages>, String> {
        let version = self.says.version();
        let version = version.map(|(major, minor)| format!("python{major}.{minor}"));
        let version = version
            .or_else(|| versioned(exe_name))
            .ok_or_else(|| format!("the version of its Python is not known: {CONFIG} does not say it"))?;
        let folder = Path::new(&self.folder)
            .join("lib")
            .join(version)
            .join("site-packages");
        match script::look(dir, &folder, Kind::Folder)? {
            Some(found) => folders.packages(&found),
            None => Err(format!("{} does not exist", shown(folder.as_os_str()))),
        }
    }
}

/// `python3.11` of `python3.11d`.
fn versioned(name: &OsStr) -> Option<String> {
    let name = name.to_str()?.trim_end_matches(['d', 't']);
    let (major, minor) = name.strip_prefix("python")?.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(major) && digits(minor)).then(|| name.to_owned())
}

/// Versions by normal name.
pub(super) type Packages = BTreeMap<String, Vec<String>>;

/// Folders of packages that were read, for as long as they do not change: a package that comes or goes changes its folder.
#[derive(Debug, Default)]
pub(super) struct Folders {
    known: Mutex<HashMap<Version, Arc<Packages>>>,
}

impl Folders {
    fn packages(&self, folder: &Script) -> Result<Arc<Packages>, String> {
        let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", shown(&folder.path));
        let version = || {
            let stat = fstat(&folder.fd).map_err(|errno| unreadable(errno.into()))?;
            Ok::<_, String>(Version::from(&stat))
        };
        let before = version()?;
        // Opened before it is looked up: who may not read a folder learns nothing of it.
        let path = format!("/proc/self/fd/{}", folder.fd.as_raw_fd());
        let entries = std::fs::read_dir(path).map_err(unreadable)?;
        if let Some(known) = self.lock().get(&before) {
            return Ok(Arc::clone(known));
        }
        let mut packages = Packages::new();
        for (count, entry) in entries.enumerate() {
            if count >= MAX_ENTRIES {
                return Err(format!(
                    "{} has more than the limit of {MAX_ENTRIES} files",
                    shown(&folder.path)
                ));
            }
            let name = entry.map_err(unreadable)?.file_name();
            if let Some((package, version)) = name.to_str().and_then(installed) {
                packages.entry(package).or_default().push(version);
            }
        }
        let packages = Arc::new(packages);
        if version()? == before && settled(before) {
            let mut known = self.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(before, Arc::clone(&packages));
        }
        Ok(packages)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, Arc<Packages>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the last change is so old that another one would show in the times.
fn settled(version: Version) -> bool {
    let now = clock_gettime(ClockId::CLOCK_REALTIME_COARSE);
    now.is_ok_and(|now| now.tv_sec() - version.changed_at() >= SETTLED_AFTER)
}

/// Normal name and version of `Foo_Bar-1.0.dist-info`.
fn installed(folder: &str) -> Option<(String, String)> {
    let (name, version) = folder.strip_suffix(".dist-info")?.rsplit_once('-')?;
    let good = !name.is_empty() && !version.is_empty();
    good.then(|| (normal(name), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_give_packages() {
        for (folder, found) in [
            ("PyYAML-6.0.1.dist-info", Some(("pyyaml", "6.0.1"))),
            ("zope.interface-7.0.dist-info", Some(("zope-interface", "7.0"))),
            ("old-name-1.dist-info", Some(("old-name", "1"))),
            ("requests", None),
            ("x.dist-info", None),
            ("-1.dist-info", None),
            ("x-.dist-info", None),
            ("x-1.egg-info", None),
        ] {
            let found = found.map(|(name, version): (&str, &str)| (name.to_owned(), version.to_owned()));
            assert_eq!(installed(folder), found, "{folder}");
        }
    }

    #[test]
    fn only_a_version_of_digits_names_a_library() {
        assert_eq!(
            versioned(OsStr::new("python3.13t")).as_deref(),
            Some("python3.13")
        );
        for name in ["python3", "python", "python3.x", "python../..", "pypy3.1"] {
            assert_eq!(versioned(OsStr::new(name)), None, "{name}");
        }
    }
}
