//! Which leases were launched by, on disk: what was sealed a moment before the agent was killed may call them unused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use time::OffsetDateTime;
use vouchsafe_identity::RunId;

/// A folder with a file for each lease that was used and has not ended.
#[derive(Debug, Clone)]
pub struct Marks(PathBuf);

impl Marks {
    /// Opens the folder; it is made where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        Ok(Self(folder.to_owned()))
    }

    /// Notes durably that a lease is used, which ends at that time.
    ///
    /// # Errors
    /// Where it cannot be written; the lease is not to be used then.
    pub fn put(&self, run: RunId, expires_at: OffsetDateTime) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.0.join(run.to_string()))?;
        file.write_all(expires_at.unix_timestamp().to_string().as_bytes())?;
        file.sync_all()?;
        File::open(&self.0)?.sync_all()
    }

    /// The leases that were used; those that have ended, by which nobody launches any more, are forgotten. One of which it
    /// cannot be read when it ends was used.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn all(&self, now: OffsetDateTime) -> io::Result<Vec<RunId>> {
        let mut used = Vec::new();
        for file in fs::read_dir(&self.0)? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(run) = name.and_then(|name| RunId::new(name).ok()) else {
                continue;
            };
            let text = fs::read_to_string(&path).unwrap_or_default();
            match text.parse::<i64>() {
                Ok(expires_at) if expires_at <= now.unix_timestamp() => fs::remove_file(&path)?,
                _ => used.push(run),
            }
        }
        Ok(used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    #[test]
    fn what_was_used_is_known_until_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let marks = Marks::open(&folder.path().join("leases")).unwrap();
        let ids = [1, 2, 3].map(|number| RunId::made(number, 0));
        marks.put(ids[0], at(10)).unwrap();
        marks.put(ids[1], at(20)).unwrap();
        marks.put(ids[2], at(10)).unwrap();
        fs::write(folder.path().join("leases").join(ids[2].to_string()), "").unwrap();
        fs::write(folder.path().join("leases/other"), "").unwrap();
        let known = |now| {
            let mut known = marks.all(at(now)).unwrap();
            known.sort_unstable();
            known
        };
        assert_eq!(known(9), ids);
        assert_eq!(known(10), ids[1..]);
        assert_eq!(known(0), ids[1..], "it is forgotten for good");
    }
}
