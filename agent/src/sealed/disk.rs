//! The files of the sealed state: `head`, and the log that it names. A log grows by frames; when most of it is past, or
//! something went wrong, a new log is written whole and the head is turned to it, so that at any moment of a kill or a
//! power cut the head names a log that is there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use zeroize::Zeroizing;

use super::log::{self, BadSeal, HEADER_BYTES, Head, LogId, MAX_HEAD_BYTES, MAX_LOG_BYTES};
use super::record::{Batch, Change, Contents, Reader};
use vouchsafe_runtime::seal::SealKeys;

const FOLDER: &str = "sealed";
const HEAD_FILE: &str = "head";
const LOG_SUFFIX: &str = ".log";
/// Changes that go into one frame, in bytes; a single larger one has a frame of its own.
const FRAME_BYTES: usize = 256 * 1024;
/// A log is written anew when it is longer than twice what was needed the last time, and this.
const SLACK_BYTES: u64 = 1024 * 1024;

/// Why the state could not be sealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The system refused.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The library refused, or something is too large to be sealed.
    #[error("cannot seal: {0}")]
    Seal(#[from] BadSeal),
    /// Changes were to go to a log that is not open.
    #[error("cannot seal: there is no log to go on with")]
    NoLog,
    /// The library gives no random numbers.
    #[error("cannot seal: the system has no random numbers")]
    NoRandomness,
}

/// Why what is on disk is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The system refused.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// Which file.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("`{path}` is refused: {reason}")]
    Refused {
        /// Which file.
        path: String,
        /// Why.
        reason: BadSeal,
    },
}

/// What was read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// What it says.
    pub(super) contents: Contents,
    /// When it was sealed, in Unix seconds.
    pub(super) sealed_at: i64,
    /// Whether an unfinished frame at its end was left out.
    pub(super) torn: bool,
}

/// The files. One process at a time may have them; who holds data_dir sees to that.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    keys: Arc<SealKeys>,
    /// The log that this process writes. What an earlier one wrote is only read.
    open: Option<OpenLog>,
}

#[derive(Debug)]
struct OpenLog {
    agent: String,
    id: LogId,
    file: File,
    frames: u64,
    bytes: u64,
    /// Its length when it was written whole.
    base: u64,
}

impl Files {
    /// The files in this data_dir; the folder is made where it is missing.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn open(data_dir: &Path, keys: Arc<SealKeys>) -> io::Result<Self> {
        let folder = data_dir.join(FOLDER);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(Self {
            folder,
            keys,
            open: None,
        })
    }

    fn head(&self) -> PathBuf {
        self.folder.join(HEAD_FILE)
    }

    fn log(&self, id: &LogId) -> PathBuf {
        self.folder.join(format!("{}{LOG_SUFFIX}", hex::encode(id)))
    }

    /// What was sealed for this agent; nothing where nothing was.
    ///
    /// # Errors
    /// [`LoadError`]: nothing of it may be used.
    pub(super) fn load(&self, agent: &str) -> Result<Option<Loaded>, LoadError> {
        let path = self.head();
        let Some(mut bytes) = read(&path, MAX_HEAD_BYTES)? else {
            return Ok(None);
        };
        let head = Head::open(&self.keys, agent, &mut bytes).map_err(|reason| refused(&path, reason))?;
        let path = self.log(&head.log);
        let mut bytes = read(&path, MAX_LOG_BYTES)?.ok_or_else(|| refused(&path, BadSeal::CutOff))?;
        let mut reader = Reader::default();
        let read = log::read(&self.keys, agent, &head, &mut bytes, |text| reader.take(text));
        let contents = read.and_then(|read| Ok((read, reader.finish()?)));
        let (read, contents) = contents.map_err(|reason| refused(&path, reason))?;
        Ok(Some(Loaded {
            contents,
            sealed_at: head.sealed_at,
            torn: read.torn,
        }))
    }

    /// Whether the next changes for this agent go to the end of the log; else everything must be written.
    pub(super) fn can_append(&self, agent: &str) -> bool {
        self.open.as_ref().is_some_and(|log| {
            log.agent == agent && log.bytes <= log.base.saturating_mul(2).saturating_add(SLACK_BYTES)
        })
    }

    /// Adds changes to the log; durable when it returns.
    ///
    /// # Errors
    /// [`SealError`]; what was sealed before still counts.
    pub(super) fn append(&mut self, changes: Vec<Change>, now: i64) -> Result<(), SealError> {
        let mut log = self.open.take().ok_or(SealError::NoLog)?;
        let path = self.log(&log.id);
        let mut frames = log.frames;
        let bytes = seal(&self.keys, &log.agent, &log.id, &mut frames, changes)?;
        if let Err(source) = log.file.write_all(&bytes) {
            // The disk may be full: what was there before stays, and the next changes go where these should have.
            let end = io::SeekFrom::Start(log.bytes);
            let undone = log.file.set_len(log.bytes).and_then(|()| log.file.seek(end));
            self.open = undone.is_ok().then_some(log);
            return Err(failed("write", &path, source));
        }
        // After a sync that failed nobody knows what is on disk: the log is not gone on with.
        log.file
            .sync_data()
            .map_err(|source| failed("sync", &path, source))?;
        log.frames = frames;
        log.bytes += length(&bytes);
        let turned = self.turn(&log.id, &log.agent, log.frames, now);
        self.open = Some(log);
        turned
    }

    /// Writes everything into a new log; durable when it returns.
    ///
    /// # Errors
    /// [`SealError`]; what was sealed before still counts.
    pub(super) fn rewrite(&mut self, agent: &str, all: Vec<Change>, now: i64) -> Result<(), SealError> {
        let old = self.open.take();
        let mut id = LogId::default();
        aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| SealError::NoRandomness)?;
        let path = self.log(&id);
        let mut frames = 0;
        let sealed = seal(&self.keys, agent, &id, &mut frames, all)?;
        let written = create(&path).and_then(|mut file| {
            file.write_all(&log::header(&id))?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            sync_folder(&self.folder)?;
            Ok(file)
        });
        let turned = match written {
            Ok(file) => self.turn(&id, agent, frames, now).map(|()| file),
            Err(source) => Err(failed("write", &path, source)),
        };
        let file = match turned {
            Ok(file) => file,
            Err(error) => {
                let _the_first_error_counts = fs::remove_file(&path);
                self.open = old;
                return Err(error);
            }
        };
        let bytes = HEADER_BYTES as u64 + length(&sealed);
        self.open = Some(OpenLog {
            agent: agent.to_owned(),
            id,
            file,
            frames,
            bytes,
            base: bytes,
        });
        self.sweep(Some(&path));
        Ok(())
    }

    /// Makes the head name this log, up to this frame.
    fn turn(&self, log: &LogId, agent: &str, frames: u64, now: i64) -> Result<(), SealError> {
        let head = Head {
            log: *log,
            frames,
            sealed_at: now,
        };
        let sealed = head.seal(&self.keys, agent)?;
        let path = self.head();
        replace(&path, &sealed).map_err(|source| failed("write", &path, source))
    }

    /// Removes logs that no head names any more.
    fn sweep(&self, kept: Option<&Path>) {
        let Ok(found) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in found.flatten().map(|entry| entry.path()) {
            let is_log = path.extension().is_some_and(|end| end == "log");
            if is_log && Some(path.as_path()) != kept {
                let _swept_the_next_time = fs::remove_file(&path);
            }
        }
    }

    /// Removes everything that was sealed.
    ///
    /// # Errors
    /// [`SealError`] when something may still be there.
    pub(super) fn wipe(&mut self) -> Result<(), SealError> {
        self.open = None;
        let unlisted = |source| failed("list", &self.folder, source);
        // The head first: without it nothing of the rest is used.
        let head = self.head();
        let logs = fs::read_dir(&self.folder).map_err(unlisted)?.flatten();
        let rest: Vec<PathBuf> = logs
            .map(|entry| entry.path())
            .filter(|path| *path != head)
            .collect();
        for path in std::iter::once(head).chain(rest) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path, source));
                }
                _ => {}
            }
        }
        sync_folder(&self.folder).map_err(|source| failed("sync", &self.folder, source))
    }
}

/// Changes as frames, the first of which has the number `frames`.
fn seal(
    keys: &SealKeys,
    agent: &str,
    id: &LogId,
    frames: &mut u64,
    changes: Vec<Change>,
) -> Result<Vec<u8>, BadSeal> {
    let mut sealed = Vec::new();
    let mut changes = changes.into_iter().peekable();
    loop {
        let mut batch = Batch::default();
        let mut size = 0;
        while size < FRAME_BYTES
            && let Some(change) = changes.next()
        {
            size += change.encoded_len();
            batch.changes.push(change);
        }
        batch.last = changes.peek().is_none();
        let last = batch.last;
        sealed.extend(log::frame(keys, agent, id, *frames, &batch.to_bytes())?);
        *frames += 1;
        if last {
            return Ok(sealed);
        }
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A file's bytes, which will hold keys when they are opened.
fn read(path: &Path, limit: u64) -> Result<Option<Zeroizing<Vec<u8>>>, LoadError> {
    let failed = |source| LoadError::Io {
        path: path.display().to_string(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    let found = file.metadata().map_err(failed)?.len();
    if found > limit {
        return Err(refused(path, BadSeal::TooLong { limit }));
    }
    let room = usize::try_from(found).unwrap_or_default().saturating_add(1);
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(found).read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// Writes beside the file's place, syncs, renames, and syncs the folder.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // On a full disk each byte counts.
        let _the_first_error_counts = fs::remove_file(&beside);
        return written;
    }
    sync_folder(path.parent().ok_or(io::ErrorKind::NotFound)?)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> SealError {
    SealError::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}

fn refused(path: &Path, reason: BadSeal) -> LoadError {
    LoadError::Refused {
        path: path.display().to_string(),
        reason,
    }
}

#[cfg(test)]
mod tests;
