//! What outlives the process: the agent's own SVID and the bundle of its trust domain, in files that are replaced as a
//! whole, so that a kill at any moment leaves the old one or the new one. Keys are the key manager's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use vouchsafe_identity::x509::{self, LeafInfo, SvidError};
use vouchsafe_identity::{Bundle, BundleError, SpiffeId, TrustDomain};

/// Version of `agent-svid.json` that is written, and the newest that is read.
const VERSION: u32 = 1;
const SVID_FILE: &str = "agent-svid.json";
const BUNDLE_FILE: &str = "bundle.json";
const LOCK_FILE: &str = "lock";
/// Folder of the key manager.
const KEYS_FOLDER: &str = "keys";

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another process holds the folder.
    #[error("data_dir `{0}` is held by another agent: stop it, or give this one a folder of its own")]
    Held(String),
    /// A file is not what it should be.
    #[error("`{path}` is damaged ({reason}): remove it and start the agent with a new join token")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file was written by a newer program.
    #[error("`{path}` has version {found}, and this program knows {VERSION} at most: use the newer program")]
    TooNew {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// The stored SVID is one of another trust domain.
    #[error("the SVID `{id}` is not of trust domain `{trust_domain}`: use another data_dir")]
    ForeignSvid {
        /// The stored identity.
        id: SpiffeId,
        /// What is configured.
        trust_domain: TrustDomain,
    },
    /// The stored certificate is not an SVID.
    #[error("the stored SVID cannot be used: remove `{SVID_FILE}` and start the agent with a new join token")]
    NoSvid(#[source] SvidError),
    /// The bundle cannot be written as text.
    #[error("the bundle cannot be stored")]
    Bundle(#[from] BundleError),
    /// The system refused.
    #[error("cannot {action} `{path}`")]
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

/// The agent's own SVID as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSvid {
    version: u32,
    /// DER certificates, leaf first; Base64 in the file.
    #[serde(with = "certificates")]
    pub chain: Vec<Vec<u8>>,
    /// The key's id in the key manager.
    pub key_id: String,
    /// Whether the node may prove itself the same way again.
    pub reattestable: bool,
}

impl StoredSvid {
    /// An SVID whose key has that id.
    pub fn new(chain: Vec<Vec<u8>>, key_id: &str, reattestable: bool) -> Self {
        Self {
            version: VERSION,
            chain,
            key_id: key_id.to_owned(),
            reattestable,
        }
    }

    /// The place for the next key: the one that is not in use.
    pub fn other_slot(&self, slots: &[&'static str; 2]) -> &'static str {
        let [first, second] = *slots;
        if self.key_id == first { second } else { first }
    }

    /// What the leaf says.
    ///
    /// # Errors
    /// [`StateError::NoSvid`] when it is not an SVID.
    pub fn leaf(&self) -> Result<LeafInfo, StateError> {
        let leaf = self.chain.first().map(Vec::as_slice).unwrap_or_default();
        x509::parse_leaf(leaf).map_err(StateError::NoSvid)
    }
}

mod certificates {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Engine, STANDARD};

    pub(super) fn serialize<S: Serializer>(chain: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(chain.iter().map(|der| STANDARD.encode(der)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| STANDARD.decode(text).map_err(D::Error::custom))
            .collect()
    }
}

/// The folder of the agent's state, held by this process alone. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StateDir(Arc<Held>);

#[derive(Debug)]
struct Held {
    path: PathBuf,
    /// The lock goes when the file is closed, also by a kill.
    lock: File,
}

impl Drop for Held {
    /// By name: a child that was forked a moment ago and has not executed its program yet still holds a copy of the
    /// descriptor, and the lock with it.
    fn drop(&mut self) {
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the lock of the state folder could not be given back");
        }
    }
}

impl StateDir {
    /// Takes hold of the folder; makes it where it is missing.
    ///
    /// # Errors
    /// [`StateError::Held`] when another process holds it, [`StateError::Io`] when the system refuses.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|source| failed("make folder", path, source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|source| failed("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateError::Held(path.display().to_string())),
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &lock_path, source)),
        }
        Ok(Self(Arc::new(Held {
            path: path.to_owned(),
            lock,
        })))
    }

    /// Where the key manager keeps its keys.
    pub fn keys_folder(&self) -> PathBuf {
        self.0.path.join(KEYS_FOLDER)
    }

    /// The stored SVID, if there is one.
    ///
    /// # Errors
    /// [`StateError`] names the file and what to do.
    pub fn load_svid(&self) -> Result<Option<StoredSvid>, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }

        let path = self.0.path.join(SVID_FILE);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let damaged = |error: serde_json::Error| StateError::Damaged {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let found = serde_json::from_slice::<Versioned>(&bytes)
            .map_err(damaged)?
            .version;
        if found > VERSION {
            return Err(StateError::TooNew {
                path: path.display().to_string(),
                found,
            });
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Stores the SVID; durable when it returns.
    ///
    /// # Errors
    /// [`StateError::Io`]; what was stored before is still there then.
    pub async fn save_svid(&self, svid: &StoredSvid) -> Result<(), StateError> {
        let path = self.0.path.join(SVID_FILE);
        let bytes = serde_json::to_vec_pretty(svid).map_err(|e| failed("write", &path, e.into()))?;
        replace(path, bytes).await
    }

    /// Forgets the SVID.
    ///
    /// # Errors
    /// [`StateError::Io`] when it could not be removed.
    pub async fn forget_svid(&self) -> Result<(), StateError> {
        let path = self.0.path.join(SVID_FILE);
        match tokio::fs::remove_file(&path).await {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, source)),
            _ => Ok(()),
        }
    }

    /// The stored bundle, if there is one.
    ///
    /// # Errors
    /// [`StateError`] names the file and what to do.
    pub fn load_bundle(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, StateError> {
        let path = self.0.path.join(BUNDLE_FILE);
        let Some(bytes) = read(&path)? else {
            return Ok(None);
        };
        let bundle = Bundle::from_jwks(trust_domain.clone(), &bytes);
        bundle.map(Some).map_err(|error| StateError::Damaged {
            path: path.display().to_string(),
            reason: error.to_string(),
        })
    }

    /// Stores the bundle; durable when it returns.
    ///
    /// # Errors
    /// [`StateError`]; what was stored before is still there then.
    pub async fn save_bundle(&self, bundle: &Bundle) -> Result<(), StateError> {
        replace(self.0.path.join(BUNDLE_FILE), bundle.to_jwks()?).await
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Writes beside the file's place, syncs, renames, and syncs the folder.
async fn replace(path: PathBuf, bytes: Vec<u8>) -> Result<(), StateError> {
    let name = path.clone();
    let written = tokio::task::spawn_blocking(move || replace_blocking(&path, &bytes)).await;
    written
        .map_err(io::Error::other)
        .and_then(|written| written)
        .map_err(|source| failed("write", &name, source))
}

fn replace_blocking(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().ok_or(io::ErrorKind::NotFound)?;
    File::open(folder)?.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::new("example.org").unwrap()
    }

    #[test]
    fn a_folder_that_another_holds_is_refused_and_free_after_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let held = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::Held(_))));
        drop(held);
        assert!(StateDir::open(dir.path()).is_ok());
    }

    #[tokio::test]
    async fn what_is_damaged_or_newer_is_named_and_never_overlooked() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.load_svid().unwrap(), None);
        fs::write(dir.path().join(SVID_FILE), "{\"version\":1,\"chain\":[").unwrap();
        let refused = state.load_svid().unwrap_err().to_string();
        assert!(
            refused.contains(SVID_FILE) && refused.contains("join token"),
            "{refused}"
        );
        fs::write(dir.path().join(SVID_FILE), "{\"version\":2}").unwrap();
        assert!(matches!(
            state.load_svid(),
            Err(StateError::TooNew { found: 2, .. })
        ));
        fs::write(dir.path().join(BUNDLE_FILE), "[]").unwrap();
        assert!(matches!(
            state.load_bundle(&domain()),
            Err(StateError::Damaged { .. })
        ));
    }

    #[tokio::test]
    async fn a_kill_between_write_and_rename_leaves_the_old_svid() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = StoredSvid::new(vec![vec![1]], "agent-svid-a", false);
        state.save_svid(&first).await.unwrap();
        let unfinished = dir.path().join("agent-svid.tmp");
        fs::write(&unfinished, "half").unwrap();
        assert_eq!(state.load_svid().unwrap(), Some(first));
        let second = StoredSvid::new(vec![vec![2], vec![3]], "agent-svid-b", true);
        state.save_svid(&second).await.unwrap();
        assert_eq!(state.load_svid().unwrap(), Some(second));
        assert!(!unfinished.exists());
        let mode = fs::metadata(dir.path().join(SVID_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        state.forget_svid().await.unwrap();
        assert_eq!(state.load_svid().unwrap(), None);
        state.forget_svid().await.unwrap();
    }

    #[tokio::test]
    async fn a_bundle_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let bundle = crate::testing::authority().bundle();
        state.save_bundle(&bundle).await.unwrap();
        let read = state.load_bundle(&domain()).unwrap().unwrap();
        assert_eq!(read.x509_der_concat(), bundle.x509_der_concat());
    }
}
