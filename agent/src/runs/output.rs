//! What runs say that were started without descriptors: a file each, of which the end is kept.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use vouchsafe_identity::RunId;

/// How much is kept of what a run says, at least.
pub const KEPT_BYTES: u64 = 8 * 1024 * 1024;
/// Space is given back in pieces of this size.
const PIECE_BYTES: u64 = 1024 * 1024;
/// How many runs' output is kept, of those that have ended.
pub const KEPT_RUNS: usize = 256;

/// The folder of these files.
#[derive(Debug, Clone)]
pub struct Outputs(PathBuf);

impl Outputs {
    /// Opens the folder, which nobody else may look into; it is made where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        Ok(Self(folder.to_owned()))
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.0.join(format!("{run}.log"))
    }

    /// A new file, to be written at its end. The oldest ones go, where there are too many; not those of runs that live.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn create(&self, run: RunId, lives: impl Fn(RunId) -> bool) -> io::Result<File> {
        self.make_room(lives);
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(self.path(run))
    }

    /// What is kept, from the first byte that is.
    ///
    /// # Errors
    /// Where there is none.
    pub fn read(&self, run: RunId) -> io::Result<File> {
        let mut file = File::open(self.path(run))?;
        let from = given_back(file.metadata()?.len());
        file.seek(SeekFrom::Start(from))?;
        Ok(file)
    }

    /// Gives back the space of what is too long ago; how much the run has said by now, in bytes.
    pub fn trim(&self, run: RunId) -> u64 {
        let Ok(file) = OpenOptions::new().write(true).open(self.path(run)) else {
            return 0;
        };
        let len = file.metadata().map_or(0, |metadata| metadata.len());
        if let Ok(until @ 1..) = i64::try_from(given_back(len)) {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            if let Err(errno) = fallocate(&file, flags, 0, until) {
                tracing::warn!(run_id = %run, error = %errno, "the output of a run cannot be shortened");
            }
        }
        len
    }

    /// Forgets what a run said.
    pub fn remove(&self, run: RunId) {
        // There may be none.
        let _gone_already = fs::remove_file(self.path(run));
    }

    fn make_room(&self, lives: impl Fn(RunId) -> bool) {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let ended = |path: &PathBuf| {
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            !RunId::new(name).is_ok_and(&lives)
        };
        // Names are in the order of admission.
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(ended).collect();
        if paths.len() < KEPT_RUNS {
            return;
        }
        paths.sort_unstable();
        for path in paths.iter().take(paths.len().saturating_sub(KEPT_RUNS - 1)) {
            let _gone_already = fs::remove_file(path);
        }
    }
}

/// How many of the first bytes of so many are not kept.
fn given_back(len: u64) -> u64 {
    len.saturating_sub(KEPT_BYTES) / PIECE_BYTES * PIECE_BYTES
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn of_what_a_run_says_the_end_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let outputs = Outputs::open(folder.path()).unwrap();
        let run = RunId::made(1, 1);
        let mut file = outputs.create(run, |_| false).unwrap();
        let piece = vec![b'a'; 1024 * 1024];
        for _ in 0..20 {
            file.write_all(&piece).unwrap();
        }
        file.write_all(b"the end").unwrap();
        outputs.trim(run);
        let metadata = file.metadata().unwrap();
        assert!(
            metadata.blocks() * 512 < 10 * 1024 * 1024,
            "{} blocks",
            metadata.blocks()
        );
        let mut text = Vec::new();
        outputs.read(run).unwrap().read_to_end(&mut text).unwrap();
        assert!(text.ends_with(b"athe end"));
        assert!(text.starts_with(b"a"), "nothing of what was given back");
        assert!(text.len() as u64 >= KEPT_BYTES);
    }

    #[test]
    fn the_oldest_output_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let outputs = Outputs::open(folder.path()).unwrap();
        let run = |n: u64| RunId::made(n, 0);
        for n in 0..KEPT_RUNS as u64 + 3 {
            outputs.create(run(n), |id| id == run(1)).unwrap();
        }
        assert!(outputs.read(run(0)).is_err());
        assert!(outputs.read(run(1)).is_ok(), "it lives");
        assert!(outputs.read(run(2)).is_err());
        assert!(outputs.read(run(3)).is_ok());
        assert!(
            outputs.create(run(200), |_| false).is_err(),
            "names are used once"
        );
    }
}
