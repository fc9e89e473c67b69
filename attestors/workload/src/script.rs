//! Finds the file that an interpreter was told to run, as the process itself sees the file system.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlink};
use nix::sys::stat::{SFlag, fstat};

use crate::proc_dir::{ProcDir, file_id};
use crate::text::shown;

/// A file or folder, with the path by which the process reaches it when all links are followed.
#[derive(Debug)]
pub(crate) struct Script {
    /// Refers to the file; it cannot be read by this descriptor.
    pub(crate) fd: OwnedFd,
    pub(crate) path: OsString,
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
}

/// Finds the regular file `name`, from the process's working directory and root.
///
/// # Errors
/// The reason, for operators.
pub(crate) fn find(dir: &ProcDir<'_>, name: &[u8]) -> Result<Script, String> {
    let missing = |absolute: &Path| format!("{} does not exist", shown(absolute.as_os_str()));
    let absolute = absolute(dir, name)?;
    look(dir, &absolute, Kind::File)?.ok_or_else(|| missing(&absolute))
}

/// `name` as an absolute path of the process, links and all.
///
/// # Errors
/// The reason, for operators.
pub(crate) fn absolute(dir: &ProcDir<'_>, name: &[u8]) -> Result<PathBuf, String> {
    let text = OsStr::from_bytes(name);
    if name.is_empty() {
        return Err("its name is empty".to_owned());
    }
    if name.starts_with(b"/") {
        return Ok(PathBuf::from(text));
    }
    let (root, root_text) = root(dir, text)?;
    Ok(working_directory(dir, &root, &root_text)?.join(text))
}

/// The process's working directory, as it sees it.
///
/// # Errors
/// The reason, for operators.
pub(crate) fn cwd(dir: &ProcDir<'_>) -> Result<OsString, String> {
    let (root, root_text) = root(dir, OsStr::new("."))?;
    Ok(working_directory(dir, &root, &root_text)?.into_os_string())
}

/// Looks for an absolute path of the process; `None` where there is nothing.
///
/// # Errors
/// The reason, for operators.
pub(crate) fn look(dir: &ProcDir<'_>, absolute: &Path, kind: Kind) -> Result<Option<Script>, String> {
    let name = absolute.as_os_str();
    let (root, root_text) = root(dir, name)?;
    let fd = match open_in(&root, name, ResolveFlag::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(format!("{} cannot be opened: {}", shown(name), errno.desc())),
    };
    let stat = fstat(&fd).map_err(|errno| unfound(name, errno.into()))?;
    let (wanted, what) = match kind {
        Kind::File => (SFlag::S_IFREG, "a regular file"),
        Kind::Folder => (SFlag::S_IFDIR, "a folder"),
    };
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != wanted {
        return Err(format!("{} is not {what}", shown(name)));
    }
    let path = canonical(&root, &root_text, &fd)?;
    Ok(Some(Script { fd, path }))
}

/// The process's root, and its path as the kernel prints it for us.
fn root(dir: &ProcDir<'_>, name: &OsStr) -> Result<(OwnedFd, OsString), String> {
    let text = dir.read_link(c"root").map_err(|error| unfound(name, error))?;
    let root = dir
        .open_link(c"root", OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(|error| unfound(name, error))?;
    Ok((root, text))
}

fn unfound(name: &OsStr, error: io::Error) -> String {
    format!("{} cannot be found by the process's root: {error}", shown(name))
}

/// The working directory as a path from the process's root.
fn working_directory(dir: &ProcDir<'_>, root: &OwnedFd, root_text: &OsStr) -> Result<PathBuf, String> {
    let said = |error: io::Error| format!("the process's working directory cannot be found: {error}");
    let text = dir.read_link(c"cwd").map_err(said)?;
    let cwd = dir
        .open_link(c"cwd", OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(said)?;
    within(root_text, &text)
        .filter(|path| is_file(root, path.as_os_str(), &cwd))
        .ok_or_else(|| {
            format!(
                "the working directory {} is not below the process's root",
                shown(&text)
            )
        })
}

/// The path of `fd` from the root, checked by opening it again.
fn canonical(root: &OwnedFd, root_text: &OsStr, fd: &OwnedFd) -> Result<OsString, String> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let text =
        readlink(link.as_str()).map_err(|errno| format!("its path cannot be read: {}", errno.desc()))?;
    match within(root_text, &text) {
        Some(path) if is_file(root, path.as_os_str(), fd) => Ok(path.into_os_string()),
        _ => Err(format!("{} is no longer that file", shown(&text))),
    }
}

/// `path` as seen from `root`; both as the kernel prints them for us.
fn within(root: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new("/").join(below))
}

/// Whether a path without links names the file of `fd`.
fn is_file(root: &OwnedFd, path: &OsStr, fd: &OwnedFd) -> bool {
    let Ok(found) = open_in(root, path, ResolveFlag::RESOLVE_NO_SYMLINKS) else {
        return false;
    };
    matches!((file_id(&found), file_id(fd)), (Ok(found), Ok(meant)) if found == meant)
}

fn open_in(root: &OwnedFd, path: &OsStr, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | resolve);
    openat2(root.as_fd(), path, how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_that_the_process_sees() {
        for (root, path, seen) in [
            ("/", "/a/b", Some("/a/b")),
            ("/srv/jail", "/srv/jail/a", Some("/a")),
            ("/srv/jail", "/srv/jail", Some("/")),
            ("/srv/jail", "/srv/jailed/a", None),
            ("/srv/jail", "/a", None),
        ] {
            let found = within(OsStr::new(root), OsStr::new(path));
            assert_eq!(found.as_deref(), seen.map(Path::new), "{path} below {root}");
        }
    }
}
