//! Files as a class has them, measured by the launcher's code, and who could change them.

use std::io::{Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User as Account};
use serde::Serialize;
use vouchsafe_launch::User;
use vouchsafe_launch::measure::{By, MeasureError, Measured, Measurer};

use crate::commands::class::MeasuredFile;
use crate::error::CliError;

/// A file that runs could change.
#[derive(Debug, Serialize)]
pub(super) struct Mutable {
    /// The file that was measured.
    pub(super) path: String,
    /// It, or the folder on the way to it that the user can write to.
    pub(super) writable: String,
    /// Who owns that.
    pub(super) owner_uid: u32,
    /// The owner's name, where it has one.
    pub(super) owner: Option<String>,
}

/// The files of one class.
#[derive(Debug)]
pub(super) struct Files {
    measurer: Measurer,
    user: Option<User>,
    listed: Vec<MeasuredFile>,
    mutable: Vec<Mutable>,
}

impl Files {
    pub(super) fn new(user: Option<User>) -> Self {
        Self {
            measurer: Measurer::default(),
            user,
            listed: Vec::new(),
            mutable: Vec::new(),
        }
    }

    /// Measures a file without listing it, to read it.
    pub(super) fn open(&self, path: &Path) -> Result<Measured, CliError> {
        Ok(self.measurer.measure(path)?)
    }

    /// Measures a file of the class under this very path.
    pub(super) fn take(&mut self, path: &Path) -> Result<MeasuredFile, CliError> {
        let measured = self.open(path)?;
        self.look(&measured)?;
        Ok(MeasuredFile {
            path: text(path)?,
            sha256: measured.sha256().to_string(),
            role: None,
        })
    }

    /// Measures a file and lists it once, by its path without links.
    pub(super) fn add(&mut self, path: &Path, role: &str) -> Result<(), CliError> {
        let path = real(path)?;
        let named = text(&path)?;
        if let Some(known) = self.listed.iter().find(|known| known.path == named) {
            return match known.role.as_deref() {
                Some(before) if before != role => Err(CliError::Invalid(format!(
                    "`{named}` is named twice, as {before} and as {role}: a class lists a file once"
                ))),
                _ => Ok(()),
            };
        }
        let mut file = self.take(&path)?;
        file.role = Some(role.to_owned());
        self.listed.push(file);
        Ok(())
    }

    /// What was listed, and what of all that was taken the user could change.
    pub(super) fn done(self) -> (Vec<MeasuredFile>, Vec<Mutable>) {
        (self.listed, self.mutable)
    }

    /// Notes a file that the user could change; whether it is one.
    pub(super) fn look(&mut self, measured: &Measured) -> Result<bool, CliError> {
        let Some(user) = &self.user else { return Ok(false) };
        let (path, writable) = match measured.out_of_reach_of(user, By::Run) {
            Ok(()) => return Ok(false),
            Err(MeasureError::Writable { path, writable, .. }) => (path, writable),
            Err(other) => return Err(other.into()),
        };
        let owner_uid = writable.symlink_metadata().map_err(unreadable(&writable))?.uid();
        let account = Account::from_uid(Uid::from_raw(owner_uid));
        self.mutable.push(Mutable {
            path: text(&path)?,
            writable: text(&writable)?,
            owner_uid,
            owner: account.ok().flatten().map(|account| account.name),
        });
        Ok(true)
    }
}

/// The path without links.
pub(super) fn real(path: &Path) -> Result<PathBuf, CliError> {
    Ok(path.canonicalize().map_err(unreadable(path))?)
}

/// The beginning of a measured file, up to `limit` bytes.
pub(super) fn head(measured: &Measured, limit: usize) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let mut file = measured.file();
    let read = file
        .rewind()
        .and_then(|()| file.take(limit as u64).read_to_end(&mut bytes));
    read.map_err(unreadable(measured.path()))?;
    // So that the bytes are those of the hash.
    measured.still()?;
    Ok(bytes)
}

/// A path as a class can name it.
pub(super) fn text(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let text = text.map(str::to_owned);
    text.ok_or_else(|| {
        let shown = path.to_string_lossy().into_owned();
        CliError::Invalid(format!(
            "`{shown}` has a name that is not UTF-8 or has control characters, which a class cannot say: rename it"
        ))
    })
}

pub(super) fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> MeasureError {
    let path = path.to_owned();
    |source| MeasureError::Unreadable { path, source }
}
