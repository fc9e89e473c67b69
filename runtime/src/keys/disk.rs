//! Keys on disk: one PKCS#8 file a key in a folder of our own, readable by us alone from its creation.
//!
//! A new key is written beside its place, synced and renamed, so that a crash leaves the old key or the new one.
//! What others can read, links, and files of other users are refused, never mended in silence. Where sealing keys are
//! given, the keys are sealed in their files; a plain one of before is used until its place gets a new key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use nix::libc::{O_CLOEXEC, O_NOFOLLOW, O_NONBLOCK};
use vouchsafe_identity::secret::Secret;
use vouchsafe_identity::{KeyAlgorithm, LocalKey, Signer};
use zeroize::Zeroizing;

use super::{KeyError, KeyManager, check_id, is_key_id};
use crate::seal::{Purpose, SealKeys};

/// Longest key file in bytes; a P-256 key takes about 140, an RSA key of 4,096 bits about 2,400.
const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// All that a group or others may do.
const OTHERS: u32 = 0o077;
const SUFFIX: &str = ".key";
/// Of a key that is sealed in its file.
const SEALED: &str = ".sealed";
const UNFINISHED: &str = ".tmp";

/// Keeps keys in a folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DiskKeys {
    folder: Arc<Folder>,
}

/// A key in the clear, with its file.
type Found = (PathBuf, Zeroizing<Vec<u8>>);

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    seal: Option<Arc<SealKeys>>,
    writing: Mutex<()>,
}

impl DiskKeys {
    /// Opens the folder, makes it where it is missing, and removes what a crash left unfinished.
    ///
    /// One process at a time may hold a folder; who opens it sees to that.
    ///
    /// # Errors
    /// [`KeyError`] when the folder is not ours alone, or cannot be made or read.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        Self::open_sealed(folder, None)
    }

    /// The same, where `seal` seals each key in its file.
    ///
    /// # Errors
    /// As [`DiskKeys::open`].
    pub fn open_sealed(folder: &Path, seal: Option<Arc<SealKeys>>) -> Result<Self, KeyError> {
        let folder = Folder {
            path: folder.to_owned(),
            seal,
            writing: Mutex::new(()),
        };
        folder.prepare()?;
        Ok(Self {
            folder: Arc::new(folder),
        })
    }

    /// Takes a key that was exported; durable when it returns. Blocks on the disk.
    ///
    /// # Errors
    /// [`KeyError`] when it is no key, or cannot be written.
    pub fn import(&self, key_id: &str, pkcs8: &Secret<Vec<u8>>) -> Result<(), KeyError> {
        check_id(key_id)?;
        let path = self.folder.file(key_id, SUFFIX);
        signer(key_id, &path, pkcs8.expose())?;
        self.folder.write(key_id, pkcs8.expose())
    }

    /// Runs what may wait for the disk on a thread that may wait.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, KeyError> + Send + 'static,
    ) -> Result<T, KeyError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(&folder))
            .await
            .map_err(|e| failed("wait for", &self.folder.path, io::Error::other(e)))?
    }
}

#[async_trait]
impl KeyManager for DiskKeys {
    async fn generate(&self, key_id: &str, algorithm: KeyAlgorithm) -> Result<Arc<dyn Signer>, KeyError> {
        check_id(key_id)?;
        let key = LocalKey::generate(key_id, algorithm).map_err(|e| KeyError::Crypto(e.to_string()))?;
        let (id, pkcs8) = (key_id.to_owned(), key.to_pkcs8());
        self.on_disk(move |folder| folder.write(&id, &pkcs8)).await?;
        Ok(Arc::new(key))
    }

    async fn get(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        check_id(key_id)?;
        let id = key_id.to_owned();
        self.on_disk(move |folder| folder.read(&id)).await
    }

    async fn export(&self, key_id: &str) -> Result<Option<Secret<Vec<u8>>>, KeyError> {
        check_id(key_id)?;
        let id = key_id.to_owned();
        self.on_disk(move |folder| folder.export(&id)).await
    }

    async fn list(&self) -> Result<Vec<String>, KeyError> {
        self.on_disk(Folder::list).await
    }

    async fn remove(&self, key_id: &str) -> Result<(), KeyError> {
        check_id(key_id)?;
        let id = key_id.to_owned();
        self.on_disk(move |folder| folder.remove(&id)).await
    }
}

impl Folder {
    fn file(&self, key_id: &str, suffix: &str) -> PathBuf {
        self.path.join(format!("{key_id}{suffix}"))
    }

    fn prepare(&self) -> Result<(), KeyError> {
        let made = fs::DirBuilder::new().mode(FOLDER_MODE).create(&self.path);
        match made {
            Ok(()) => sync_parent(&self.path)?,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed("create", &self.path, e)),
        }
        let found = fs::symlink_metadata(&self.path).map_err(|e| failed("look at", &self.path, e))?;
        if !found.is_dir() {
            return Err(foreign(&self.path, "not a folder"));
        }
        check_owner(&self.path, &found, FOLDER_MODE)?;
        self.clean()
    }

    /// Removes keys that were never finished: nobody was told of them.
    fn clean(&self) -> Result<(), KeyError> {
        for name in self.names()? {
            if name.strip_suffix(UNFINISHED).is_some_and(is_key_id) {
                let path = self.path.join(&name);
                tracing::info!(path = %path.display(), "removing a key file that was never finished");
                fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, KeyError> {
        let unreadable = |e| failed("list", &self.path, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unreadable)? {
            if let Ok(name) = entry.map_err(unreadable)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn list(&self) -> Result<Vec<String>, KeyError> {
        let mut ids: Vec<String> = self
            .names()?
            .iter()
            .filter_map(|name| name.strip_suffix(SUFFIX).or_else(|| name.strip_suffix(SEALED)))
            .filter(|id| is_key_id(id))
            .map(str::to_owned)
            .collect();
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn write(&self, key_id: &str, pkcs8: &[u8]) -> Result<(), KeyError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (unfinished, plain) = (self.file(key_id, UNFINISHED), self.file(key_id, SUFFIX));
        let sealed = self
            .seal
            .as_ref()
            .map(|seal| seal.seal(Purpose::OwnKey, key_id.as_bytes(), pkcs8));
        let sealed = sealed.transpose().map_err(|e| KeyError::Crypto(e.to_string()))?;
        let (place, other, bytes) = match &sealed {
            Some(sealed) => (self.file(key_id, SEALED), plain, sealed.as_slice()),
            None => (plain, self.file(key_id, SEALED), pkcs8),
        };
        forget(&unfinished)?;
        let written = write_new(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, &place));
        if let Err(e) = written {
            let _the_first_error_counts = forget(&unfinished);
            return Err(failed("write", &place, e));
        }
        self.sync()?;
        forget(&other)
    }

    fn read(&self, key_id: &str) -> Result<Option<Arc<dyn Signer>>, KeyError> {
        let found = self.pkcs8(key_id)?;
        found.map_or(Ok(None), |(path, pkcs8)| signer(key_id, &path, &pkcs8).map(Some))
    }

    fn export(&self, key_id: &str) -> Result<Option<Secret<Vec<u8>>>, KeyError> {
        Ok(self.pkcs8(key_id)?.map(|(_, pkcs8)| Secret::from(pkcs8)))
    }

    /// A key in the clear, with the file that it is from.
    fn pkcs8(&self, key_id: &str) -> Result<Option<Found>, KeyError> {
        let path = self.file(key_id, SEALED);
        let Some(mut sealed) = Self::read_file(&path)? else {
            let path = self.file(key_id, SUFFIX);
            return Ok(Self::read_file(&path)?.map(|pkcs8| (path, pkcs8)));
        };
        let seal = self.seal.as_ref();
        let seal =
            seal.ok_or_else(|| damaged(&path, "it is sealed, and no sealing key is configured".to_owned()))?;
        let pkcs8 = seal
            .open(Purpose::OwnKey, key_id.as_bytes(), &mut sealed)
            .map_err(|e| damaged(&path, e.to_string()))?;
        let pkcs8 = Zeroizing::new(pkcs8.to_vec());
        Ok(Some((path, pkcs8)))
    }

    fn read_file(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
                return Err(foreign(path, "a symbolic link"));
            }
            Err(e) => return Err(failed("open", path, e)),
        };
        read_checked(file, path).map(Some)
    }

    fn remove(&self, key_id: &str) -> Result<(), KeyError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&self.file(key_id, SUFFIX))?;
        forget(&self.file(key_id, SEALED))?;
        self.sync()
    }

    /// Makes renames and removals durable.
    fn sync(&self) -> Result<(), KeyError> {
        sync_folder(&self.path)
    }
}

fn signer(key_id: &str, path: &Path, pkcs8: &[u8]) -> Result<Arc<dyn Signer>, KeyError> {
    let key = LocalKey::from_pkcs8(key_id, pkcs8).map_err(|e| damaged(path, e.to_string()))?;
    Ok(Arc::new(key))
}

/// Writes a file that must not exist yet, with its mode from the start, down to the disk.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read_checked(file: File, path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let found = file.metadata().map_err(|e| failed("look at", path, e))?;
    if !found.is_file() {
        return Err(foreign(path, "not a plain file"));
    }
    check_owner(path, &found, FILE_MODE)?;
    if found.len() > MAX_KEY_FILE_BYTES {
        return Err(damaged(
            path,
            format!("it is longer than {MAX_KEY_FILE_BYTES} bytes"),
        ));
    }
    // Room for all of it from the start: a buffer that grows leaves copies of the key behind.
    let room = usize::try_from(MAX_KEY_FILE_BYTES).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|e| failed("read", path, e))?;
    Ok(bytes)
}

fn check_owner(path: &Path, found: &fs::Metadata, needed: u32) -> Result<(), KeyError> {
    let us = nix::unistd::geteuid().as_raw();
    if found.uid() != us {
        return Err(foreign(
            path,
            &format!("owned by uid {}, not by ours, {us}", found.uid()),
        ));
    }
    if found.mode() & OTHERS != 0 {
        return Err(KeyError::Exposed {
            path: path.display().to_string(),
            mode: found.mode() & 0o7777,
            needed,
        });
    }
    Ok(())
}

fn forget(path: &Path) -> Result<(), KeyError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(failed("remove", path, e)),
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), KeyError> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_folder(parent),
        None => sync_folder(Path::new(".")),
    }
}

fn sync_folder(path: &Path) -> Result<(), KeyError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| failed("sync", path, e))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> KeyError {
    KeyError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

fn foreign(path: &Path, what: &str) -> KeyError {
    KeyError::Foreign {
        path: path.display().to_string(),
        what: what.to_owned(),
    }
}

fn damaged(path: &Path, reason: String) -> KeyError {
    KeyError::Damaged {
        path: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests;
