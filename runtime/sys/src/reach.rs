//! By which files and folders a user could change what a path leads to, or put something else in its place: as the kernel
//! would decide by owners, modes and access lists. Privileges of the user (root, capabilities) are not looked at.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use crate::has_access_list;

/// Mode bits: others may write; the group may write; only owners may rename and remove.
const OTHERS_WRITE: u32 = 0o002;
const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// The most links on the way to a file (the kernel's own bound).
const MAX_LINKS: usize = 40;

/// A user with its groups, by number.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// The uid.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: &'a [u32],
}

/// The first file or folder, from the root down, by which the user could change the file at an absolute path, or what the
/// path leads to; each link on the way counts with the folders that it stands in.
///
/// # Errors
/// Where something on the way cannot be looked at.
pub fn writable_on_the_way(path: &Path, user: Ids<'_>) -> io::Result<Option<PathBuf>> {
    let mut paths = link_chain(path)?;
    // The kernel's own path comes last.
    paths.push(path.canonicalize()?);
    for path in paths {
        let mut parts: Vec<&Path> = path.ancestors().collect();
        parts.reverse();
        for (place, part) in parts.iter().enumerate() {
            if writable(part, parts.get(place + 1).copied(), user)? {
                return Ok(Some((*part).to_owned()));
            }
        }
    }
    Ok(None)
}

/// Every path that links make of this one on the way to its file.
fn link_chain(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut chain = vec![path.to_owned()];
    let mut at = path.to_owned();
    'links: for _ in 0..MAX_LINKS {
        let mut so_far = PathBuf::new();
        let parts: Vec<_> = at.components().collect();
        for (place, part) in parts.iter().enumerate() {
            so_far.push(part);
            if !so_far.symlink_metadata()?.is_symlink() {
                continue;
            }
            let target = so_far.read_link()?;
            so_far.pop();
            so_far.push(target);
            so_far.extend(parts.iter().skip(place + 1));
            chain.push(so_far.clone());
            at = so_far;
            continue 'links;
        }
        return Ok(chain);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// Whether the user can change this file, or what stands in this folder under the name of `next`.
fn writable(path: &Path, next: Option<&Path>, user: Ids<'_>) -> io::Result<bool> {
    let metadata = path.symlink_metadata()?;
    // Nobody can write to a link; its folder has been looked at.
    if metadata.is_symlink() {
        return Ok(metadata.uid() == user.uid);
    }
    // An owner can give itself the permission.
    if metadata.uid() == user.uid {
        return Ok(true);
    }
    let mode = metadata.mode();
    let by_group = mode & GROUP_WRITES != 0
        && (user.gid == metadata.gid() || user.groups.contains(&metadata.gid()) || access_list(path)?);
    if !by_group && mode & OTHERS_WRITE == 0 {
        return Ok(false);
    }
    // In a sticky folder only its owner and the file's own can rename or remove.
    match next {
        Some(next) if mode & STICKY != 0 => Ok(next.symlink_metadata()?.uid() == user.uid),
        _ => Ok(true),
    }
}

fn access_list(path: &Path) -> io::Result<bool> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    has_access_list(&file).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A user that owns nothing, in no group of the test's own.
    const STRANGER: Ids<'static> = Ids {
        uid: 61_234,
        gid: 61_234,
        groups: &[],
    };

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_file_a_folder_and_a_link_on_the_way_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        mode(&at, 0o755);
        fs::create_dir(at.join("a")).unwrap();
        let file = at.join("a/file");
        fs::write(&file, "").unwrap();
        mode(&file, 0o644);
        mode(&at.join("a"), 0o755);
        let found = |path: &Path| writable_on_the_way(path, STRANGER).unwrap();
        assert_eq!(found(&file), None);
        mode(&file, 0o646);
        assert_eq!(found(&file), Some(file.clone()));
        mode(&file, 0o644);
        mode(&at.join("a"), 0o757);
        assert_eq!(found(&file), Some(at.join("a")));
        // In a sticky folder the file is its owner's, who is not this user.
        mode(&at.join("a"), 0o1757);
        assert_eq!(found(&file), None);
        mode(&at.join("a"), 0o755);
        // A link in a folder that it can write to leads wherever it likes.
        fs::create_dir(at.join("b")).unwrap();
        symlink(&file, at.join("b/link")).unwrap();
        mode(&at.join("b"), 0o757);
        assert_eq!(found(&at.join("b/link")), Some(at.join("b")));
        mode(&at.join("b"), 0o755);
        assert_eq!(found(&at.join("b/link")), None);
    }

    #[test]
    fn groups_count_and_owners_always_can() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        mode(&at, 0o755);
        let file = at.join("file");
        fs::write(&file, "").unwrap();
        mode(&file, 0o464);
        let metadata = file.metadata().unwrap();
        let groups = [metadata.gid()];
        let member = Ids {
            groups: &groups,
            ..STRANGER
        };
        assert_eq!(writable_on_the_way(&file, STRANGER).unwrap(), None);
        assert_eq!(writable_on_the_way(&file, member).unwrap(), Some(file.clone()));
        let owner = Ids {
            uid: metadata.uid(),
            ..STRANGER
        };
        assert!(writable_on_the_way(&file, owner).unwrap().is_some());
    }

    #[test]
    fn links_in_a_circle_and_missing_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let one = folder.path().join("one");
        symlink(&one, &one).unwrap();
        assert!(writable_on_the_way(&one, STRANGER).is_err());
        assert!(writable_on_the_way(&folder.path().join("none"), STRANGER).is_err());
    }
}
