//! SHA-256 of files through descriptors, with a limit and a bounded cache.
//!
//! The cache is keyed by what the kernel changes with every write: device, inode, size, and both times of
//! the last change. Its own user cannot set the second time back.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use vouchsafe_attestors::FileId;

use crate::proc_dir::id_of;

/// Largest file that is hashed unless the config says otherwise, in bytes (512 MiB).
pub const DEFAULT_HASH_LIMIT_BYTES: u64 = 512 * 1024 * 1024;

/// Hashes that are remembered.
const MAX_CACHED: usize = 1024;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 128 * 1024;

/// Why a file has no hash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestError {
    #[error("it has {size} bytes, over the limit of {limit} bytes")]
    TooLarge { size: u64, limit: u64 },
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it changed while it was read")]
    Changed,
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// One state of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    file: FileId,
    size: i64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    /// When it was changed last, in seconds since 1970.
    pub(crate) fn changed_at(&self) -> i64 {
        self.changed.0
    }
}

impl From<&FileStat> for Version {
    fn from(stat: &FileStat) -> Self {
        Self {
            file: id_of(stat),
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

#[derive(Debug, Default)]
struct Cache {
    known: HashMap<Version, String>,
    order: VecDeque<Version>,
}

/// Hashes files; cheap for those that it has seen and that did not change.
#[derive(Debug)]
pub(crate) struct Hasher {
    limit_bytes: u64,
    cache: Mutex<Cache>,
}

impl Hasher {
    pub(crate) fn new(limit_bytes: u64) -> Self {
        Self {
            limit_bytes,
            cache: Mutex::default(),
        }
    }

    /// The hash in hex of the regular file that `fd` refers to; `fd` may be one that cannot be read itself.
    pub(crate) fn sha256(&self, fd: impl AsFd) -> Result<String, DigestError> {
        let stat = fstat(&fd).map_err(io::Error::from)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(DigestError::NotRegular);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > self.limit_bytes {
            return Err(self.too_large(size));
        }
        // Opened before the cache is asked: who may not read a file learns nothing of its hash.
        let mut file = reopen(fd)?;
        let version = Version::from(&stat);
        if let Some(known) = self.lock().known.get(&version) {
            return Ok(known.clone());
        }
        let hash = self.read(&mut file)?;
        let after = fstat(&file).map_err(io::Error::from)?;
        if Version::from(&after) != version {
            return Err(DigestError::Changed);
        }
        self.remember(version, &hash);
        Ok(hash)
    }

    fn read(&self, file: &mut File) -> Result<String, DigestError> {
        let mut context = Context::new(&SHA256);
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let mut total = 0_u64;
        loop {
            let len = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            total = total.saturating_add(len as u64);
            // Only a file that grows gets here.
            if total > self.limit_bytes {
                return Err(self.too_large(total));
            }
            context.update(buffer.get(..len).unwrap_or_default());
        }
        Ok(hex::encode(context.finish()))
    }

    fn remember(&self, version: Version, hash: &str) {
        let mut cache = self.lock();
        if cache.known.insert(version, hash.to_owned()).is_some() {
            return;
        }
        cache.order.push_back(version);
        if cache.order.len() > MAX_CACHED
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.known.remove(&oldest);
        }
    }

    fn too_large(&self, size: u64) -> DigestError {
        DigestError::TooLarge {
            size,
            limit: self.limit_bytes,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A readable descriptor of the very file that `fd` refers to, whatever became of its name.
pub(crate) fn reopen(fd: impl AsFd) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    Ok(open(path.as_str(), flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn cached(hasher: &Hasher) -> usize {
        hasher.lock().known.len()
    }

    #[test]
    fn known_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let hasher = Hasher::new(3);
        fs::write(&path, "").unwrap();
        assert_eq!(hasher.sha256(File::open(&path).unwrap()).unwrap(), EMPTY);
        fs::write(&path, "abc").unwrap();
        assert_eq!(hasher.sha256(File::open(&path).unwrap()).unwrap(), ABC);
    }

    #[test]
    fn a_file_over_the_limit_has_no_hash_and_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = Hasher::new(3).sha256(File::open(&path).unwrap()).unwrap_err();
        assert!(matches!(error, DigestError::TooLarge { limit: 3, .. }), "{error}");
    }

    #[test]
    fn a_changed_file_gets_a_new_hash_though_size_and_mtime_are_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "abc").unwrap();
        let hasher = Hasher::new(100);
        let before = fs::metadata(&path).unwrap();
        let first = hasher.sha256(File::open(&path).unwrap()).unwrap();
        // The kernel stamps files by its tick: wait until one has passed, as no writer can avoid.
        let changed_at = |path| {
            let stat = fstat(File::open(path).unwrap()).unwrap();
            (stat.st_ctime, stat.st_ctime_nsec)
        };
        let old = changed_at(&path);
        while changed_at(&path) == old {
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(b"abd").unwrap();
            file.set_modified(before.modified().unwrap()).unwrap();
        }
        assert_eq!(
            fs::metadata(&path).unwrap().modified().unwrap(),
            before.modified().unwrap()
        );
        assert_ne!(hasher.sha256(File::open(&path).unwrap()).unwrap(), first);
    }

    #[test]
    fn what_is_not_a_regular_file_has_no_hash() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        for path in [pipe.as_path(), folder.path(), std::path::Path::new("/dev/zero")] {
            let fd = open(path, OFlag::O_PATH, Mode::empty()).unwrap();
            let error = Hasher::new(100).sha256(fd).unwrap_err();
            assert!(
                matches!(error, DigestError::NotRegular),
                "{}: {error}",
                path.display()
            );
        }
    }

    #[test]
    fn the_cache_is_used_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let hasher = Hasher::new(100);
        for number in 0..MAX_CACHED + 20 {
            let path = folder.path().join(number.to_string());
            fs::write(&path, number.to_string()).unwrap();
            hasher.sha256(File::open(&path).unwrap()).unwrap();
            hasher.sha256(File::open(&path).unwrap()).unwrap();
        }
        assert_eq!(cached(&hasher), MAX_CACHED);
        assert_eq!(hasher.lock().order.len(), MAX_CACHED);
    }
}
