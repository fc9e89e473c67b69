//! `vouchsafe-server restore`: a data directory from a backup, for a server that does not run.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::Bundle;
use vouchsafe_runtime::KeyError;
use vouchsafe_runtime::keys::DiskKeys;
use vouchsafe_runtime::seal::SealKeys;
use vouchsafe_runtime::seal::file::{SecretFileError, read_secret};
use vouchsafe_store::backup::{RestoreError, restore};
use vouchsafe_store::{
    BackupEnd, BundleReader, ChangeKind, Commit, CommitError, JournalReader, JournalRow, Record, RestoreMark,
    SledConfig, SledStore, Store, StoreError,
};

use crate::app::{AppError, make_data_dir};
use crate::sealed_backup::{self, Keys, UnsealError};

/// Why a data directory was not restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoringError {
    /// The place is not free.
    #[error("`{0}` is not empty: name an empty folder, and make it the `data_dir` of the server")]
    NotEmpty(String),
    /// A file or folder.
    #[error("cannot {action} `{path}`")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file is sealed.
    #[error("`{0}` is sealed: name the file of its sealing key with `--seal-key`")]
    Sealed(String),
    /// The file is not sealed.
    #[error(
        "`{0}` is not a sealed backup, so that anybody may have made it: to restore it all the same, without private \
             keys, leave `--seal-key` away"
    )]
    NotSealed(String),
    /// The sealing key.
    #[error(transparent)]
    SealKey(#[from] SecretFileError),
    /// The seal.
    #[error("`{path}` was not restored")]
    Unseal {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: UnsealError,
    },
    /// The backup.
    #[error("`{path}` was not restored")]
    Backup {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: RestoreError,
    },
    /// The folder.
    #[error(transparent)]
    DataDir(#[from] AppError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The restored store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says of itself.
    pub end: BackupEnd,
    /// How many private keys were in it.
    pub keys: usize,
}

/// Makes `into` the data directory that `backup` holds; a sealed one is opened with the key of a file. Where this fails,
/// `into` is empty.
///
/// # Errors
/// [`RestoringError`] names what is in the way.
pub async fn into_data_dir(
    backup: &Path,
    into: &Path,
    seal_key: Option<&Path>,
    now: OffsetDateTime,
) -> Result<Restored, RestoringError> {
    check_empty(into)?;
    let mut opened = File::open(backup).map_err(|e| failed("read", backup, e))?;
    let sealed = is_sealed(&mut opened).map_err(|e| failed("read", backup, e))?;
    let seal = match (sealed, seal_key) {
        (true, None) => return Err(RestoringError::Sealed(backup.display().to_string())),
        (false, Some(_)) => return Err(RestoringError::NotSealed(backup.display().to_string())),
        (_, path) => path.map(read_seal_key).transpose()?,
    };
    make_data_dir(into)?;
    let unsealed = match seal {
        None => (opened, Keys::new()),
        Some(seal) => unseal(backup, opened, &seal, into)?,
    };
    make(backup, unsealed, into, now).await
}

/// Removes a folder that was made here, unless all goes well.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _the_first_error_counts = fs::remove_dir_all(path);
        }
    }
}

/// Makes keys and store, and notes in the store what happened.
async fn make(
    backup: &Path,
    (plain, keys): (File, Keys),
    into: &Path,
    now: OffsetDateTime,
) -> Result<Restored, RestoringError> {
    // Keys first: a journal must not name keys that are not there.
    let key_folder = into.join("keys");
    let mut private = fs::DirBuilder::new();
    let private = private.mode(0o700).create(&key_folder);
    private.map_err(|e| failed("create", &key_folder, e))?;
    let made_keys = Unfinished(Some(key_folder.clone()));
    let folder = DiskKeys::open(&key_folder)?;
    for (id, key) in &keys {
        folder.import(id, key)?;
    }
    let dir = into.join("store");
    let restored = restore(plain, &dir, now).map_err(|source| RestoringError::Backup {
        path: backup.display().to_string(),
        source,
    })?;
    let made_store = Unfinished(Some(dir.clone()));
    let store = SledStore::open(&dir, &SledConfig::default())?;
    let mut commit = Commit::default().audit(record(&restored.end, restored.revision.0, now));
    let leap = store.restored().map(RestoreMark::leap).unwrap_or_default();
    let journal = store.journal(store.server_id()).await?;
    for bundle in store.bundles().await? {
        let mut bundle = bundle.value;
        if journal.iter().any(|row| signs_for(&row.value, &bundle)) {
            // Others take a bundle for newer by its number, and may have seen later ones of the lost server.
            bundle.sequence = bundle.sequence.saturating_add(1).max(leap);
            commit = commit
                .change(ChangeKind::Bundle(bundle.trust_domain.clone()))
                .put(Record::Bundle(bundle));
        }
    }
    match store.commit(commit).await {
        Ok(_) => {
            made_keys.keep();
            made_store.keep();
            Ok(Restored {
                end: restored.end,
                keys: keys.len(),
            })
        }
        Err(CommitError::Store(error)) => Err(error.into()),
        Err(conflict) => Err(StoreError::Io(conflict.to_string()).into()),
    }
}

/// Whether a bundle is the one of the trust domain that this authority signs for.
fn signs_for(row: &JournalRow, bundle: &Bundle) -> bool {
    let x509 = || {
        let mut known = bundle.x509_authorities.iter();
        known.any(|authority| authority.certificate == row.certificate)
    };
    let jwt = || {
        let mut known = bundle.jwt_authorities.iter();
        known.any(|authority| authority.key_id == row.authority_id && authority.public_key == row.public_key)
    };
    x509() || jwt()
}

fn read_seal_key(path: &Path) -> Result<SealKeys, RestoringError> {
    let secret = read_secret(path)?;
    // It is long enough, or it would not have been read.
    SealKeys::derive(&secret).map_err(|e| failed("use", path, io::Error::other(e)))
}

fn is_sealed(file: &mut File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    let most = u64::try_from(sealed_backup::beginning_bytes()).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut beginning)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(sealed_backup::is_sealed(&beginning))
}

/// Opens the whole file before anything of it is used: the store's copy into a file without a name, which is gone with the
/// process, and the keys into memory.
fn unseal(backup: &Path, sealed: File, seal: &SealKeys, into: &Path) -> Result<(File, Keys), RestoringError> {
    let path = into.join("unsealed");
    let unwritable = |e| failed("write", &path, e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(unwritable)?;
    fs::remove_file(&path).map_err(unwritable)?;
    let keys =
        sealed_backup::open(BufReader::new(sealed), seal, BufWriter::new(&file)).map_err(|source| {
            RestoringError::Unseal {
                path: backup.display().to_string(),
                source,
            }
        })?;
    (&file).seek(SeekFrom::Start(0)).map_err(unwritable)?;
    Ok((file, keys))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RestoringError {
    RestoringError::File {
        action,
        path: path.display().to_string(),
        source,
    }
}

fn check_empty(into: &Path) -> Result<(), RestoringError> {
    match fs::read_dir(into).map(|mut names| names.next()) {
        Ok(Some(_)) => Err(RestoringError::NotEmpty(into.display().to_string())),
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("look into", into, e)),
        _ => Ok(()),
    }
}

fn record(end: &BackupEnd, revision: u64, at: OffsetDateTime) -> Draft {
    Draft {
        at,
        request_id: Uuid::now_v7().to_string(),
        traceparent: None,
        principal: Principal::System {
            component: "restore".to_owned(),
        },
        scope: "system".into(),
        action: "store.restore".into(),
        outcome: Outcome::Done,
        code: None,
        reason: None,
        facts: BTreeMap::from([
            ("of_revision".into(), end.revision.0.to_string()),
            ("revision".into(), revision.to_string()),
        ]),
    }
}
