//! The secret that the sealing keys come from: a file in data_dir that is made at the first start, or a credential that
//! the service manager hands over, so that it need not lie on the same disk.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_CLOEXEC, O_NOFOLLOW};
use serde::Deserialize;
use vouchsafe_identity::secret::Secret;
use zeroize::Zeroizing;

use super::disk;
use vouchsafe_runtime::seal::file::{SecretFileError, read_credential, read_secret};

/// The file in data_dir.
const KEY_FILE: &str = "seal.key";
/// Length of a secret that is made here, in bytes.
const SECRET_BYTES: usize = 32;

/// Where the secret is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum SealKeySource {
    /// In a file of data_dir.
    #[default]
    File,
    /// In the credential of this name.
    Credential(String),
    /// Nowhere: nothing is sealed.
    None,
}

/// Why a text is not the place of a secret.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is none of `file`, `credential:NAME` and `none`")]
pub struct BadSource(String);

impl TryFrom<String> for SealKeySource {
    type Error = BadSource;

    fn try_from(text: String) -> Result<Self, BadSource> {
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        match text.strip_prefix("credential:") {
            Some(name) if is_name(name) => Ok(Self::Credential(name.to_owned())),
            None if text == "file" => Ok(Self::File),
            None if text == "none" => Ok(Self::None),
            _ => Err(BadSource(text)),
        }
    }
}

impl fmt::Display for SealKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Credential(name) => write!(f, "credential:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealKeyError {
    /// A credential is configured, and the service manager hands over none.
    #[error(
        "`seal_key` names credential `{0}`, and no credentials were handed over: start the agent as a systemd service \
         with `LoadCredential=` or `LoadCredentialEncrypted=`, or set `seal_key = \"file\"`"
    )]
    NoCredentials(String),
    /// The library gives no random numbers.
    #[error("no sealing key could be made: the system has no random numbers")]
    NoRandomness,
    /// The file.
    #[error(transparent)]
    File(#[from] SecretFileError),
}

impl SealKeySource {
    /// The file that can be removed with what was sealed by it.
    pub(super) fn file(&self, data_dir: &Path) -> Option<PathBuf> {
        matches!(self, Self::File).then(|| data_dir.join(KEY_FILE))
    }

    /// Reads the secret; makes the file where it is missing. `credentials` is the folder that the service manager
    /// names. Gives nothing where nothing is sealed.
    ///
    /// # Errors
    /// [`SealKeyError`] names the file and what to do.
    pub fn secret(
        &self,
        data_dir: &Path,
        credentials: Option<&Path>,
    ) -> Result<Option<Secret<Vec<u8>>>, SealKeyError> {
        match self {
            Self::None => Ok(None),
            Self::File => {
                let path = data_dir.join(KEY_FILE);
                match read_secret(&path) {
                    Err(error) if error.is_missing() => make(&path).map(Some),
                    read => Ok(Some(read?)),
                }
            }
            Self::Credential(name) => {
                let folder = credentials.ok_or_else(|| SealKeyError::NoCredentials(name.clone()))?;
                Ok(Some(read_credential(&folder.join(name))?))
            }
        }
    }
}

fn make(path: &Path) -> Result<Secret<Vec<u8>>, SealKeyError> {
    let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES]);
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_unspecified| SealKeyError::NoRandomness)?;
    disk::replace(path, &bytes).map_err(|source| SecretFileError::io("write", path, source))?;
    Ok(Secret::from(bytes))
}

/// Wipes the secret from the file, and removes it.
pub(super) fn destroy(path: &Path) -> io::Result<()> {
    let overwritten = OpenOptions::new()
        .write(true)
        .custom_flags(O_NOFOLLOW | O_CLOEXEC)
        .open(path)
        .and_then(|mut file| {
            io::Write::write_all(&mut file, &[0; SECRET_BYTES])?;
            file.sync_all()
        });
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // Where the file system writes elsewhere, nothing more can be done than to remove it.
        _ => overwritten.or(Ok(())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn source(text: &str) -> Result<SealKeySource, BadSource> {
        text.to_owned().try_into()
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "",
            "disk",
            "credential:",
            "credential:../x",
            "credential:a/b",
            "credential:..",
            "File",
        ] {
            assert!(source(text).is_err(), "{text}");
        }
        for text in ["file", "credential:seal", "none"] {
            assert_eq!(source(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_file_is_made_once_private_and_never_taken_when_others_could_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let secret = || SealKeySource::File.secret(dir.path(), None);
        let made = secret().unwrap().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(made.expose().len(), SECRET_BYTES);
        assert_eq!(secret().unwrap().unwrap().expose(), made.expose());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            secret(),
            Err(SealKeyError::File(SecretFileError::Exposed { mode: 0o640, .. }))
        ));
        destroy(&path).unwrap();
        assert!(!path.exists());
        assert_ne!(secret().unwrap().unwrap().expose(), made.expose());
    }

    #[test]
    fn a_link_or_a_short_file_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let secret = || SealKeySource::File.secret(dir.path(), None);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(matches!(
            secret(),
            Err(SealKeyError::File(SecretFileError::Io { .. }))
        ));
        fs::remove_file(&path).unwrap();
        disk::replace(&path, b"short").unwrap();
        assert!(matches!(
            secret(),
            Err(SealKeyError::File(SecretFileError::Length { found: 5, .. }))
        ));
    }

    #[test]
    fn a_credential_must_be_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let source = source("credential:seal").unwrap();
        assert!(matches!(
            source.secret(dir.path(), None),
            Err(SealKeyError::NoCredentials(_))
        ));
        assert!(matches!(
            source.secret(dir.path(), Some(dir.path())),
            Err(SealKeyError::File(SecretFileError::Io { .. }))
        ));
        fs::write(dir.path().join("seal"), [7; 40]).unwrap();
        let secret = source.secret(dir.path(), Some(dir.path())).unwrap().unwrap();
        assert_eq!(secret.expose(), &[7; 40]);
        assert!(!dir.path().join(KEY_FILE).exists());
        assert!(SealKeySource::None.secret(dir.path(), None).unwrap().is_none());
    }
}
