//! What the agent keeps on disk of a run that lives, beside what the launcher keeps of its processes.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use prost::Message;
use serde::{Deserialize, Serialize};
use vouchsafe_identity::{ClassName, RunId, Selector, SpiffeId};
use vouchsafe_launch::verify::Wanted;
use vouchsafe_proto::vouchsafe::run::v1::LeasedStart;

use super::run::{Inherit, Launcher};

/// A run on disk. Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its number.
    pub run: RunId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its class.
    pub class: ClassName,
    /// What its class says of children.
    pub inherit: Inherit,
    /// The user that launched it.
    pub launcher_uid: u32,
    /// The run that launched it, if one did.
    pub parent: Option<RunId>,
    /// What it works on.
    pub task: String,
    /// What its launch measured.
    #[serde(default)]
    pub selectors: Vec<Selector>,
    /// Until when it may live.
    pub expires_at: i64,
    /// The user that it has.
    pub uid: u32,
    /// Whether that is of a pool.
    #[serde(default)]
    pub alone: bool,
    /// Device and inode of its program.
    pub program: Option<(u64, u64)>,
    /// Whether others of its user are shut out.
    pub non_dumpable: bool,
    /// Its control group, by the kernel's number and by its path.
    pub group: Option<(u64, String)>,
    /// Whether the agent keeps what it says.
    pub output: bool,
    /// How it was launched, if that was by a lease and the server has not heard of it: a message in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<String>,
}

impl RunRecord {
    /// Who launched it.
    pub fn launcher(&self) -> Launcher {
        Launcher {
            uid: self.launcher_uid,
            parent: self.parent,
        }
    }

    /// How it was launched by a lease, if the server has not heard of it.
    pub fn unheard(&self) -> Option<LeasedStart> {
        let bytes = hex::decode(self.unheard.as_ref()?).unwrap_or_default();
        // What cannot be read the server refuses, and the run ends.
        Some(LeasedStart::decode(bytes.as_slice()).unwrap_or_default())
    }

    /// What its main process must be like.
    pub fn wanted(&self) -> Wanted {
        Wanted {
            program: self.program,
            non_dumpable: self.non_dumpable,
            cgroup_id: self.group.as_ref().map(|(id, _)| *id),
            uid: Some(self.uid),
        }
    }
}

/// How the files of a run are called: its record, and the numbers of its children.
const RECORD: &str = "json";
const CHILDREN: &str = "children";

/// Writes a file in one step, for nobody else to read.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_added_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file: File = options.open(&new)?;
    file.write_all(bytes)?;
    fs::rename(&new, path)
}

/// The folder of the records.
#[derive(Debug, Clone)]
pub struct Records(PathBuf);

impl Records {
    /// Opens the folder, which nobody else may look into; it is made where it is missing.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        Ok(Self(folder.to_owned()))
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.0.join(format!("{run}.{RECORD}"))
    }

    /// Writes a record, in one step.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put(&self, record: &RunRecord) -> io::Result<()> {
        replace(&self.path(record.run), &serde_json::to_vec(record)?)
    }

    /// Where the numbers of a run's children are noted.
    pub fn children(&self, run: RunId) -> PathBuf {
        self.0.join(format!("{run}.{CHILDREN}"))
    }

    /// The record of a run, if there is one that can be read.
    pub fn get(&self, run: RunId) -> Option<RunRecord> {
        let text = fs::read(self.path(run)).ok()?;
        let record: RunRecord = serde_json::from_slice(&text).ok()?;
        (record.run == run).then_some(record)
    }

    /// Forgets a run.
    pub fn remove(&self, run: RunId) {
        // What is left is found and removed at the next start.
        let _gone_already = fs::remove_file(self.path(run));
        let _had_none = fs::remove_file(self.children(run));
    }

    /// Forgets every run that is not one of these.
    pub fn keep_only(&self, known: impl Fn(RunId) -> bool) {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path
                .file_stem()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            let run = RunId::new(name).ok().filter(|run| known(*run));
            let ours = |extension: &OsStr| extension == RECORD || extension == CHILDREN;
            if run.is_none() || !path.extension().is_some_and(ours) {
                let _gone_already = fs::remove_file(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(run: RunId) -> RunRecord {
        RunRecord {
            run,
            spiffe_id: SpiffeId::new(&format!("spiffe://example.org/a/run/{run}")).unwrap(),
            class: ClassName::new("a").unwrap(),
            inherit: Inherit::Derived,
            launcher_uid: 5,
            parent: None,
            task: "t".to_owned(),
            selectors: vec![Selector::new("ai", "model:m").unwrap()],
            expires_at: 7,
            uid: 6,
            alone: true,
            program: Some((1, 2)),
            non_dumpable: true,
            group: Some((9, "/a/b".to_owned())),
            output: false,
            unheard: Some(hex::encode(LeasedStart::default().encode_to_vec())),
        }
    }

    #[test]
    fn a_record_comes_back_and_what_is_damaged_or_another_runs_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(&folder.path().join("runs")).unwrap();
        let (one, other) = (RunId::made(1, 1), RunId::made(2, 2));
        records.put(&record(one)).unwrap();
        assert_eq!(records.get(one), Some(record(one)));
        assert_eq!(records.get(other), None);
        fs::copy(records.path(one), records.path(other)).unwrap();
        assert_eq!(records.get(other), None, "it is of another run");
        fs::write(records.path(one), "{").unwrap();
        assert_eq!(records.get(one), None);
    }

    #[test]
    fn what_nobody_knows_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let (one, other) = (RunId::made(1, 1), RunId::made(2, 2));
        records.put(&record(one)).unwrap();
        records.put(&record(other)).unwrap();
        for run in [one, other] {
            fs::write(records.children(run), "").unwrap();
        }
        fs::write(folder.path().join("torn.new"), "").unwrap();
        fs::write(records.children(other).with_added_extension("new"), "").unwrap();
        records.keep_only(|run| run == other);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 2);
        assert!(records.get(other).is_some() && records.children(other).exists());
        records.remove(other);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
