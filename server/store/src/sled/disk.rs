//! What sled leaves to us: the directory, the lock and the sync.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::disk_error;
use crate::StoreError;

const LOCK_FILE: &str = "lock";
/// The one file in which sled keeps its log, and so its data.
pub(super) const DB_FILE: &str = "db";
/// The file in which sled keeps the parameters that a store was made with.
const PARAMETERS_FILE: &str = "conf";
/// A folder for a store of which only the parameters are wanted, and a copy of these that is not whole yet.
const SCRATCH: &str = "new";
const PARAMETERS_COPY: &str = "conf.new";
/// How often, and how long apart, to look whether a store is closed: five seconds.
const CLOSE_LOOKS: u32 = 1000;
const CLOSE_NAP: Duration = Duration::from_millis(5);

/// Makes the disk keep what has been written to sled's file.
pub(super) trait DataSync: Debug + Send + Sync {
    /// Returns when it is kept.
    fn sync(&self) -> io::Result<()>;
}

/// fdatasync.
#[derive(Debug)]
pub(super) struct FileSync(File);

impl FileSync {
    /// The sync of sled's file in `dir`.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        File::open(dir.join(DB_FILE)).map(Self)
    }

    /// Number of the file that is synced.
    #[cfg(test)]
    pub(super) fn inode(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.0.metadata().map_or(0, |file| file.ino())
    }
}

impl DataSync for FileSync {
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// The lock of a data directory. It is given back by name and not by closing the file alone: a child that was forked
/// a moment ago and has not executed its program yet still holds a copy of the descriptor.
#[derive(Debug)]
pub(super) struct DirLock(File);

impl Drop for DirLock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the lock of the store could not be given back");
        }
    }
}

/// Makes the directory if it is not there, and takes its lock until that is dropped.
pub(super) fn prepare(dir: &Path) -> Result<DirLock, StoreError> {
    let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK_FILE))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(DirLock(lock)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
            path: dir.display().to_string(),
        }),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

/// Takes away what the end of a process or a loss of power left unfinished, and sees to it that sled finds its parameters
/// whole. sled would otherwise not open: it takes a snapshot that was being written for the newest one, and it writes its
/// parameters without a sync. `make_store` makes a store in a folder and closes it.
pub(super) fn tidy(
    dir: &Path,
    make_store: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
    remove_unfinished_snapshots(dir).map_err(failed)?;
    let (scratch, parameters) = (dir.join(SCRATCH), dir.join(PARAMETERS_FILE));
    if scratch.exists() {
        fs::remove_dir_all(&scratch).map_err(failed)?;
    }
    if parameters.exists() {
        return Ok(());
    }
    make_store(&scratch)?;
    let copy = dir.join(PARAMETERS_COPY);
    let put = || {
        fs::copy(scratch.join(PARAMETERS_FILE), &copy)?;
        File::open(&copy)?.sync_all()?;
        fs::rename(&copy, &parameters)?;
        File::open(dir)?.sync_all()?;
        fs::remove_dir_all(&scratch)
    };
    put().map_err(failed)
}

/// A snapshot gets its name when it is whole and synced; until then its name ends this way.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().is_some_and(|end| end == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Waits until a store that this process has just closed is closed: a thread of sled's may hold the file a
/// moment longer than its `Db` lives. The caller has the lock, so nobody else can be at work on it.
pub(super) fn wait_closed(dir: &Path) -> Result<(), StoreError> {
    let failed = |e: io::Error| disk_error(&format!("`{}`", dir.display()), &e);
    let file = match File::open(dir.join(DB_FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for _ in 0..CLOSE_LOOKS {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(CLOSE_NAP),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    Err(StoreError::Locked {
        path: dir.display().to_string(),
    })
}

/// Syncs the files of a store that has just been made or mended, its directory, and the directory's own name.
pub(super) fn sync_tree(dir: &Path) -> io::Result<()> {
    for file in fs::read_dir(dir)? {
        File::open(file?.path())?.sync_all()?;
    }
    File::open(dir)?.sync_all()?;
    match dir.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Lets the kernel forget what it holds of sled's file, so that what is read is what the disk has: after a sync that
/// failed, in this process or one before it, the two may differ.
pub(super) fn forget_cached(dir: &Path) -> io::Result<()> {
    let file = match File::open(dir.join(DB_FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    // What is not written yet is not forgotten.
    file.sync_data()?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

/// Space that is left for us on the file system of `dir`, in bytes.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    let found = statvfs(dir).map_err(|e| disk_error(&format!("`{}`", dir.display()), &e.into()))?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Err(StoreError::ReadOnly(format!(
            "`{}` is mounted read-only: look why in the kernel's log, then mount it for writing again",
            dir.display()
        )));
    }
    Ok(found.blocks_available().saturating_mul(found.fragment_size()))
}
