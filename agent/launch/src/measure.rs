//! What a file is, before it runs: opened once, hashed through the descriptor, and looked at from the root down for
//! who could change it. Whether that is enough is for the caller.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use nix::libc;
use vouchsafe_sys::{Ids, writable_on_the_way};

use crate::{Digest, User};

/// How much of a file is read at a time.
const CHUNK_BYTES: usize = 128 * 1024;

/// Files remembered with their hash.
const REMEMBERED: usize = 4096;

/// Why a file was not measured, or is not what was measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// It cannot be opened or read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A folder, device, pipe or socket.
    #[error("`{path}` is no regular file")]
    NotRegular {
        /// What was opened.
        path: PathBuf,
    },
    /// Its bytes are not those that were expected.
    #[error(
        "`{path}` has the SHA-256 {found}, and {expected} was expected: it was changed, or the approval is of another version"
    )]
    WrongHash {
        /// The file.
        path: PathBuf,
        /// What was approved.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// It changed while it was read, or after.
    #[error("`{path}` was changed while it was measured or since: start again once nobody writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Somebody who must not could change the file, or put another in its place.
    #[error(
        "`{path}` could be changed by {by}, because uid {uid} can write to `{writable}`: take that permission away"
    )]
    Writable {
        /// The file that was measured.
        path: PathBuf,
        /// The file or folder to which the user can write.
        writable: PathBuf,
        /// The user.
        uid: u32,
        /// What that user is to the run.
        by: By,
    },
    /// The path is not absolute.
    #[error("`{path}` is not absolute: name files by their whole path")]
    NotAbsolute {
        /// The path.
        path: PathBuf,
    },
}

/// Out of whose reach files must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The run: it would be another program the next time, and measured code could be changed before it is loaded.
    Run,
    /// Who launched it: files are read by the interpreter a moment after they were measured.
    Launcher,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Run => "the run itself",
            Self::Launcher => "its launcher",
        })
    }
}

/// Which version of which file: changes whenever the bytes or the mode do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file as it was when it was read.
#[derive(Debug)]
pub struct Measured {
    path: PathBuf,
    file: File,
    version: Version,
    sha256: Digest,
}

impl Measured {
    /// The path under which it was asked for.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of its bytes.
    #[must_use]
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// The very file that was hashed.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Looks whether the path still leads to this file, and the file is as it was.
    ///
    /// # Errors
    /// `Changed` where not.
    pub fn still(&self) -> Result<(), MeasureError> {
        let now =
            |metadata: io::Result<Metadata>| metadata.is_ok_and(|now| Version::of(&now) == self.version);
        if now(self.file.metadata()) && now(std::fs::metadata(&self.path)) {
            return Ok(());
        }
        Err(MeasureError::Changed {
            path: self.path.clone(),
        })
    }

    /// Whether the hash is the expected one.
    ///
    /// # Errors
    /// `WrongHash` where not.
    pub fn expect(&self, expected: Digest) -> Result<(), MeasureError> {
        if self.sha256 == expected {
            return Ok(());
        }
        Err(MeasureError::WrongHash {
            path: self.path.clone(),
            expected,
            found: self.sha256,
        })
    }

    /// Looks whether a user could change the file or anything on the way to it; of Python's code also what Python keeps of it
    /// beside it (`__pycache__`), which it loads in its place.
    ///
    /// # Errors
    /// `Writable`, with the first file or folder from the root down that the user could write to.
    pub fn out_of_reach_of(&self, user: &User, by: By) -> Result<(), MeasureError> {
        let unreadable = |source| MeasureError::Unreadable {
            path: self.path.clone(),
            source,
        };
        let ids = Ids {
            uid: user.uid,
            gid: user.gid,
            groups: &user.groups,
        };
        let mut looked_at = vec![self.path.clone()];
        looked_at.extend(compiled(&self.path).map_err(unreadable)?);
        for path in looked_at {
            if let Some(writable) = writable_on_the_way(&path, ids).map_err(unreadable)? {
                return Err(MeasureError::Writable {
                    path: self.path.clone(),
                    writable,
                    uid: user.uid,
                    by,
                });
            }
        }
        Ok(())
    }
}

/// What Python may load in place of a module's file: the folder of compiled code beside it, and those files there that are of it.
fn compiled(path: &Path) -> io::Result<Vec<PathBuf>> {
    let stem = path
        .file_stem()
        .filter(|_| path.extension().is_some_and(|extension| extension == "py"));
    let (Some(stem), Some(folder)) = (stem, path.parent()) else {
        return Ok(Vec::new());
    };
    let folder = folder.join("__pycache__");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = vec![folder];
    for entry in entries {
        let entry = entry?;
        // `agent.cpython-312.opt-1.pyc` is of `agent.py`.
        let name = entry.file_name();
        let rest = name.as_bytes().strip_prefix(stem.as_bytes());
        if rest.is_some_and(|rest| rest.starts_with(b".")) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Hashes files, and remembers the hashes of files that do not change.
#[derive(Debug, Default)]
pub struct Measurer {
    known: Mutex<HashMap<Version, Digest>>,
}

impl Measurer {
    /// Opens and hashes the file at `path`.
    ///
    /// # Errors
    /// Where it cannot be read, is no regular file, or changes meanwhile.
    pub fn measure(&self, path: &Path) -> Result<Measured, MeasureError> {
        let path = path.to_owned();
        if !path.is_absolute() {
            return Err(MeasureError::NotAbsolute { path });
        }
        let unreadable = |source| MeasureError::Unreadable {
            path: path.clone(),
            source,
        };
        // Without O_NONBLOCK, a pipe in the file's place would hold us up.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path);
        let file = file.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(MeasureError::NotRegular { path });
        }
        let version = Version::of(&metadata);
        let known = self.lock().get(&version).copied();
        let sha256 = match known {
            Some(sha256) => sha256,
            None => hash(&file).map_err(unreadable)?,
        };
        if Version::of(&file.metadata().map_err(unreadable)?) != version {
            return Err(MeasureError::Changed { path });
        }
        if known.is_none() && settled(version) {
            let mut all = self.lock();
            if all.len() >= REMEMBERED {
                all.clear();
            }
            all.insert(version, sha256);
        }
        Ok(Measured {
            path,
            file,
            version,
            sha256,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, Digest>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How old a file's last change must be, in seconds, before its times are trusted to show the next one.
const SETTLED_AFTER: i64 = 2;

/// Whether the file's last change is so old that another one would show in its times.
fn settled(version: Version) -> bool {
    // Memory-mapped writes need not touch the times at once: files that are open for writing elsewhere are rare, and the
    // copy that runs is made of hashed bytes whatever this cache says.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE);
    now.is_ok_and(|now| now.tv_sec() - version.changed.0 >= SETTLED_AFTER)
}

fn hash(mut file: &File) -> io::Result<Digest> {
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Digest::finish(context)),
            Ok(len) => context.update(chunk.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
