//! A disk that remembers: a small FUSE file system which keeps everything in memory, logs what is written and what is
//! flushed in the order in which the kernel asked for it, and can be told to fail.
//!
//! It stands beneath the file system interface, so it sees what a program really hands to the disk, whatever library
//! it goes through. [`Recording::after_power_loss`] makes of the log the folders that a loss of power could leave.

mod fs;
mod power;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use fuser::{BackgroundSession, MountOption};
use tempfile::TempDir;

pub use power::{Loss, Numbers, Recording};

/// Number of a file or folder; the root's is 1.
pub(crate) type Inode = u64;

/// One thing that was asked of the disk, or a mark that a test set.
#[derive(Debug, Clone)]
pub enum Op<M> {
    /// Bytes of a file.
    Write {
        /// The file.
        ino: Inode,
        /// Where they begin.
        offset: usize,
        /// The bytes.
        data: Vec<u8>,
    },
    /// A file's size.
    Size {
        /// The file.
        ino: Inode,
        /// Its new size.
        size: usize,
    },
    /// A name in a folder.
    Name {
        /// The folder.
        dir: Inode,
        /// The name.
        name: OsString,
        /// What it names now, or nothing.
        to: Option<Inode>,
        /// The name of the same folder that went away in the same step.
        from: Option<OsString>,
    },
    /// fsync or fdatasync of a file, or fsync of a folder.
    Flush {
        /// The file or folder.
        ino: Inode,
    },
    /// Set by the test.
    Mark(M),
}

/// What the disk is to do from now on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every write fails, with "no space left on device".
    pub full: bool,
    /// Every write that makes a file longer than this fails so, though the disk says that it has room (a quota).
    pub largest_file: Option<usize>,
    /// Every write fails, with "read-only file system", as after an error that the kernel found.
    pub read_only: bool,
    /// Every flush fails, with "input/output error".
    pub flushes_fail: bool,
    /// The bytes that it says it has left; plenty unless told.
    pub free_bytes: Option<u64>,
}

/// A mounted disk. It is gone when this is dropped.
pub struct Disk<M: Send + 'static> {
    shared: Arc<Shared<M>>,
    session: Option<BackgroundSession>,
    folder: TempDir,
}

pub(crate) struct Shared<M>(Mutex<fs::State<M>>);

impl<M> Shared<M> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, fs::State<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Send + 'static> std::fmt::Debug for Disk<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Disk({})", self.folder.path().display())
    }
}

impl<M: Clone + Send + 'static> Disk<M> {
    /// Mounts an empty disk.
    ///
    /// # Errors
    /// When FUSE is not to be had.
    pub fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vouchsafe-disk-").tempdir()?;
        let shared = Arc::new(Shared(Mutex::new(fs::State::default())));
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            MountOption::FSName("vouchsafe-test".to_owned()),
            MountOption::DefaultPermissions,
        ];
        let recorder = fs::Recorder(Arc::clone(&shared));
        let session = fuser::spawn_mount(recorder, folder.path(), &config).context("cannot mount by FUSE")?;
        Ok(Self {
            shared,
            session: Some(session),
            folder,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path on it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Sets a mark behind all that was asked so far.
    pub fn mark(&self, mark: M) {
        self.shared.lock().log.push(Op::Mark(mark));
    }

    /// How much stands in the log.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// What was asked of it so far.
    #[must_use]
    pub fn recording(&self) -> Recording<M> {
        let state = self.shared.lock();
        Recording::new(state.log.clone(), state.modes())
    }

    /// Tells it how to fail from now on, or not to.
    pub fn fail(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Turns over a byte in the middle of a file, as a failing disk would: nobody is told.
    ///
    /// # Errors
    /// When there is no such file, or it is too short.
    pub fn rot(&self, path: &[&str], offset: usize) -> anyhow::Result<()> {
        self.shared
            .lock()
            .rot(path, offset)
            .with_context(|| format!("{path:?} has no byte {offset}"))
    }
}

impl<M: Send + 'static> Drop for Disk<M> {
    fn drop(&mut self) {
        // Lazily, so that a process that is still ending there does not keep the mount for ever.
        let _gone_already = nix::mount::umount2(self.folder.path(), nix::mount::MntFlags::MNT_DETACH);
        drop(self.session.take());
    }
}

#[cfg(test)]
mod tests;
