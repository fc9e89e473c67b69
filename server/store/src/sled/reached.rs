//! A note beside sled's file of how far it has been acknowledged.
//!
//! sled takes a page of its log that does not read back for the log's end, and goes on without what follows. The note
//! shows that there was more. It is written after each sync and never flushed: older than the log it does no harm, and
//! one that is torn is no note.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const FILE: &str = "reached";
/// The number, and the same with all its bits turned over.
const BYTES: usize = 16;

#[derive(Debug)]
pub(super) struct Reached(File);

impl Reached {
    /// Opens the note, or makes one that says nothing.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(FILE))
            .map(Self)
    }

    /// Notes a number. Where that fails the note stays behind, which does no harm.
    pub(super) fn note(&self, number: u64) {
        let mut note = [0; BYTES];
        for (place, byte) in note
            .iter_mut()
            .zip(number.to_be_bytes().into_iter().chain((!number).to_be_bytes()))
        {
            *place = byte;
        }
        if let Err(error) = self.0.write_all_at(&note, 0) {
            tracing::debug!(%error, "how far the store has come could not be noted");
        }
    }

    /// The number that was noted last, if it is whole.
    pub(super) fn read(&self) -> Option<u64> {
        let mut note = [0; BYTES];
        self.0.read_exact_at(&mut note, 0).ok()?;
        let (number, turned) = note.split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        (*turned == (!number).to_be_bytes()).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let reached = Reached::open(dir.path()).unwrap();
        assert_eq!(reached.read(), None);
        reached.note(7);
        reached.note(u64::MAX);
        assert_eq!(Reached::open(dir.path()).unwrap().read(), Some(u64::MAX));
        reached.0.write_all_at(&[1], 3).unwrap();
        assert_eq!(reached.read(), None);
        reached.0.set_len(5).unwrap();
        assert_eq!(reached.read(), None);
    }
}
