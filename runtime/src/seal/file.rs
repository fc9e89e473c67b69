//! A secret that keys are derived from, read from a file that is ours alone, or from what the service manager hands over.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use vouchsafe_identity::secret::Secret;
use zeroize::Zeroizing;

use super::MIN_SECRET_BYTES;

/// Longest secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;
/// All that a group or others may do.
const OTHERS: u32 = 0o077;
/// Where systemd puts credentials; it keeps others out by the folder.
const CREDENTIALS: &str = "/run/credentials";

/// Why a file gives no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretFileError {
    /// Others may read the file.
    #[error("`{path}` has mode {mode:o}, so that others can read it: run `chmod 600 {path}`")]
    Exposed {
        /// The file.
        path: String,
        /// Its mode.
        mode: u32,
    },
    /// The file is not a plain one of our own.
    #[error("`{path}` is refused as a sealing key: it is {what}")]
    Foreign {
        /// The file.
        path: String,
        /// What it is instead.
        what: &'static str,
    },
    /// It cannot be a secret.
    #[error("`{path}` has {found} bytes: a sealing key has {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES}")]
    Length {
        /// The file.
        path: String,
        /// Its length, as far as it was read.
        found: usize,
    },
    /// The system refused.
    #[error("cannot {action} sealing key `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl SecretFileError {
    /// The system refused.
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.display().to_string(),
            source,
        }
    }

    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a secret from a file that must be ours alone; of a credential the service manager sees to that.
///
/// # Errors
/// [`SecretFileError`] names the file and what to do.
pub fn read_secret(path: &Path) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        .open(path);
    let file = opened.map_err(|source| SecretFileError::io("open", path, source))?;
    if !path.starts_with(CREDENTIALS) {
        check(path, &file)?;
    }
    read(path, file)
}

/// Reads a secret that a service manager hands over as a file.
///
/// # Errors
/// [`SecretFileError`] names the file.
pub fn read_credential(path: &Path) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let file = File::open(path).map_err(|source| SecretFileError::io("open", path, source))?;
    read(path, file)
}

fn check(path: &Path, file: &File) -> Result<(), SecretFileError> {
    let found = file
        .metadata()
        .map_err(|source| SecretFileError::io("look at", path, source))?;
    let foreign = |what| SecretFileError::Foreign {
        path: path.display().to_string(),
        what,
    };
    if !found.is_file() {
        return Err(foreign("not a plain file"));
    }
    if found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(foreign("owned by another user"));
    }
    if found.mode() & OTHERS != 0 {
        return Err(SecretFileError::Exposed {
            path: path.display().to_string(),
            mode: found.mode() & 0o7777,
        });
    }
    Ok(())
}

fn read(path: &Path, file: File) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let room = usize::try_from(MAX_SECRET_BYTES + 1).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| SecretFileError::io("read", path, source))?;
    let too_long = u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_SECRET_BYTES);
    if bytes.len() < MIN_SECRET_BYTES || too_long {
        return Err(SecretFileError::Length {
            path: path.display().to_string(),
            found: bytes.len(),
        });
    }
    Ok(Secret::from(bytes))
}
