//! Control groups of runs, in a subtree of the unified hierarchy (v2) that is ours: pure v2, the unified mount of a hybrid
//! host, or a subtree that was delegated. Membership is inherited through fork and cannot be left without write
//! permission, which runs do not have.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How deep groups within a run's are looked into.
const MAX_DEPTH: usize = 16;

/// After how many milliseconds a group is looked at again: of one that is removed as soon as it is empty, the kernel may tell
/// nobody any more that it was.
const LOOK_AGAIN: u16 = 50;

/// Why there is no control group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The host or container shows no unified hierarchy.
    #[error(
        "no cgroup v2 hierarchy is mounted here: mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or give the container one (`--cgroupns=private`)"
    )]
    NoHierarchy,
    /// It is there, and we may not make groups in it.
    #[error(
        "cannot make control groups in `{path}`: run as root, or have a subtree delegated (systemd: `Delegate=yes`, a container: a writable /sys/fs/cgroup)"
    )]
    NotOurs {
        /// Where groups would be made.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Our own group lies outside of what is mounted here.
    #[error(
        "this process's control group `{path}` is not visible in the mounted hierarchy: name a delegated subtree in the configuration"
    )]
    Outside {
        /// As /proc/self/cgroup has it.
        path: String,
    },
    /// A group of that name is there already.
    #[error("the control group `{path}` is there already: names are used once")]
    Exists {
        /// The group.
        path: PathBuf,
    },
    /// Any other failure.
    #[error("cannot use the control group `{path}`")]
    Failed {
        /// The group, or a file of it.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Failed { path, source }
}

/// A subtree in which groups of runs are made.
#[derive(Debug, Clone)]
pub struct CgroupRoot(PathBuf);

impl CgroupRoot {
    /// The subtree of that name beneath this process's own group: another one for each agent of a host.
    ///
    /// # Errors
    /// Where there is no unified hierarchy, or none that we may write to.
    pub fn of_self(name: &str) -> Result<Self, CgroupError> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(failed(Path::new("/proc/self/mountinfo")))?;
        let groups =
            fs::read_to_string("/proc/self/cgroup").map_err(failed(Path::new("/proc/self/cgroup")))?;
        Self::open(&own_folder(&mounts, &groups)?.join(name))
    }

    /// A subtree by its path; it is made where it is missing.
    ///
    /// # Errors
    /// Where it is no part of a unified hierarchy, or we may not write to it.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let not_ours = |source| CgroupError::NotOurs {
            path: path.to_owned(),
            source,
        };
        match DirBuilder::new().mode(0o755).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CgroupError::NoHierarchy),
            Err(error) => return Err(not_ours(error)),
        }
        // Elsewhere than in a unified hierarchy, a new folder is empty.
        if !path.join("cgroup.events").exists() {
            let _made_in_vain = fs::remove_dir(path);
            return Err(CgroupError::NoHierarchy);
        }
        let writable = fs::OpenOptions::new().write(true).open(path.join("cgroup.procs"));
        writable.map_err(not_ours)?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes an empty group.
    ///
    /// # Errors
    /// `Exists` where the name was used, else what the kernel says.
    pub fn create(&self, name: &str) -> Result<Cgroup, CgroupError> {
        let path = self.0.join(name);
        match DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(CgroupError::Exists { path }),
            Err(error) => Err(failed(&path)(error)),
            Ok(()) => Cgroup::open(&path),
        }
    }

    /// The groups that are there.
    ///
    /// # Errors
    /// Where the subtree cannot be read.
    pub fn list(&self) -> Result<Vec<Cgroup>, CgroupError> {
        let mut groups = Vec::new();
        for path in subgroups(&self.0)? {
            match fs::metadata(&path) {
                // Its supervisor removes it just now.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(failed(&path)(error)),
                Ok(metadata) => groups.push(Cgroup {
                    id: metadata.ino(),
                    path,
                }),
            }
        }
        Ok(groups)
    }
}

/// Whether a group was removed: its files fail in another way where they were found before.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// The folder of this process's group, by `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_folder(mounts: &str, groups: &str) -> Result<PathBuf, CgroupError> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.ok_or(CgroupError::NoHierarchy)?;
    let mut outside = false;
    for line in mounts.lines() {
        let Some((front, back)) = line.split_once(" - ") else {
            continue;
        };
        let mut front = front.split(' ').skip(3);
        let (Some(root), Some(at)) = (front.next(), front.next()) else {
            continue;
        };
        if !back.starts_with("cgroup2 ") {
            continue;
        }
        // What is mounted may be a part of the hierarchy; ours must lie within it.
        let within = match root {
            "/" => Some(own),
            _ => own
                .strip_prefix(root)
                .filter(|rest| rest.is_empty() || rest.starts_with('/')),
        };
        match within.filter(|rest| !rest.split('/').any(|part| part == "..")) {
            Some(rest) => return Ok(Path::new(&unescaped(at)).join(rest.trim_start_matches('/'))),
            None => outside = true,
        }
    }
    if outside {
        return Err(CgroupError::Outside { path: own.to_owned() });
    }
    Err(CgroupError::NoHierarchy)
}

/// `mountinfo` writes blanks in octal.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

fn subgroups(path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
    let mut groups = Vec::new();
    for entry in fs::read_dir(path).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            groups.push(entry.path());
        }
    }
    Ok(groups)
}

/// The group of a run.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// One that is there.
    ///
    /// # Errors
    /// Where it is not.
    pub fn open(path: &Path) -> Result<Self, CgroupError> {
        let id = fs::metadata(path).map_err(failed(path))?.ino();
        Ok(Self {
            path: path.to_owned(),
            id,
        })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number of it, as `PidInfo::cgroup_id` has it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its folder, for the kernel to start a process in.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(crate) fn folder(&self) -> Result<File, CgroupError> {
        File::open(&self.path).map_err(failed(&self.path))
    }

    /// Puts the calling process in.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn enter(&self) -> Result<(), CgroupError> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, "0").map_err(failed(&file))
    }

    /// The processes in it and in groups beneath it.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        collect(&self.path, MAX_DEPTH, &mut pids)?;
        Ok(pids)
    }

    /// Kills every process in it and beneath it, however fast they fork.
    ///
    /// # Errors
    /// Where the kernel refuses, or is older than 5.14.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let file = self.path.join("cgroup.kill");
        match fs::write(&file, "1") {
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map_err(failed(&file)),
        }
    }

    /// Whether a process lives in it or beneath it. A group that is gone has none.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn is_populated(&self) -> Result<bool, CgroupError> {
        self.wait_empty_for(PollTimeout::ZERO).map(|empty| !empty)
    }

    /// Waits until it is empty, as long as `patience`; says whether it is.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn wait_empty_for(&self, patience: PollTimeout) -> Result<bool, CgroupError> {
        let path = self.path.join("cgroup.events");
        let mut file = match File::open(&path) {
            Err(error) if is_gone(&error) => return Ok(true),
            other => other.map_err(failed(&path))?,
        };
        let mut left = patience.as_millis();
        loop {
            let mut text = String::new();
            let read = file
                .seek(SeekFrom::Start(0))
                .and_then(|_| file.read_to_string(&mut text));
            match read {
                Err(error) if is_gone(&error) => return Ok(true),
                other => other.map_err(failed(&path))?,
            };
            if text.lines().any(|line| line == "populated 0") {
                return Ok(true);
            }
            let pause = left.map_or(LOOK_AGAIN, |left| {
                left.min(LOOK_AGAIN.into()).try_into().unwrap_or(LOOK_AGAIN)
            });
            // The kernel marks the file's change as an exceptional condition.
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            match poll(&mut fds, PollTimeout::from(pause)) {
                Ok(0) if left.is_some_and(|left| left <= pause.into()) => return Ok(false),
                Ok(0) => left = left.map(|left| left.saturating_sub(pause.into())),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(failed(&path)(errno.into())),
            }
        }
    }

    /// Removes it with the groups beneath it. One that is gone already is no error.
    ///
    /// # Errors
    /// Where a process is still in it.
    pub fn remove(&self) -> Result<(), CgroupError> {
        remove(&self.path, MAX_DEPTH)
    }
}

fn collect(path: &Path, depth: usize, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    let file = path.join("cgroup.procs");
    let text = fs::read_to_string(&file).map_err(failed(&file))?;
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    if depth > 0 {
        for group in subgroups(path)? {
            collect(&group, depth - 1, pids)?;
        }
    }
    Ok(())
}

fn remove(path: &Path, depth: usize) -> Result<(), CgroupError> {
    if depth > 0 {
        match subgroups(path) {
            Err(CgroupError::Failed { source, .. }) if is_gone(&source) => return Ok(()),
            groups => groups?.iter().try_for_each(|group| remove(group, depth - 1))?,
        }
    }
    match fs::remove_dir(path) {
        Err(error) if is_gone(&error) => Ok(()),
        other => other.map_err(failed(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        31 23 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn without_a_unified_hierarchy_the_error_says_what_to_do() {
        let only_v1 = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        let error = own_folder(only_v1, "3:cpu:/x\n0::/\n").unwrap_err();
        assert!(error.to_string().contains("mount -t cgroup2"), "{error}");
        assert!(matches!(
            own_folder(HYBRID, "3:cpu:/x\n"),
            Err(CgroupError::NoHierarchy)
        ));
    }

    #[test]
    fn hybrid_pure_and_delegated_hosts_each_have_a_folder() {
        let folder = |mounts, groups| own_folder(mounts, groups).unwrap();
        assert_eq!(
            folder(HYBRID, "3:cpu:/a\n0::/\n"),
            Path::new("/sys/fs/cgroup/unified")
        );
        let pure = "31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let service = Path::new("/sys/fs/cgroup/system.slice/v.service");
        assert_eq!(folder(pure, "0::/system.slice/v.service\n"), service);
        let part = "31 23 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(
            folder(part, "0::/docker/abc/init\n"),
            Path::new("/sys/fs/cgroup/init")
        );
    }

    #[test]
    fn a_group_that_is_not_in_what_is_mounted_is_named() {
        let part = "31 23 0:27 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        for own in ["0::/docker/abcd\n", "0::/../x\n", "0::/docker/abc/../x\n"] {
            let error = own_folder(part, own).unwrap_err();
            assert!(matches!(error, CgroupError::Outside { .. }), "{own}: {error}");
        }
    }

    #[test]
    fn a_folder_of_another_file_system_is_no_hierarchy_and_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("runs");
        assert!(matches!(CgroupRoot::open(&path), Err(CgroupError::NoHierarchy)));
        assert!(!path.exists());
    }
}
