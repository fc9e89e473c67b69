//! Who owns subordinate uids (subuid(5)): to bound what one user may keep, all the uids that it can take count as its own.
//!
//! Only the file is read: ids that a directory gives (`subid: sss` in nsswitch.conf) are not seen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::User;
use tokio::time::Instant;

/// Where a host keeps its subordinate uids.
pub const SUBORDINATE_UIDS: &str = "/etc/subuid";

/// The shortest time between two looks whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is read of the file, in bytes: some 100,000 users.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// A user that has subordinate uids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Uid(u32),
    /// A name that no user has, or of which it could not be asked.
    Name(Arc<str>),
}

/// The owners that a file tells of, as it is now or was a moment ago.
#[derive(Debug)]
pub(crate) struct Owners {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    table: Arc<Table>,
    version: Option<Version>,
    /// When it was looked, or begun to be looked, whether the file has changed.
    looked: Instant,
    looking: bool,
}

/// One state of the file: device, inode, size, and the times of the last changes of contents and inode.
type Version = (u64, u64, u64, (i64, i64), (i64, i64));

impl Owners {
    /// Those of a file, read now. Of one that cannot be read, nobody has subordinate uids.
    pub(crate) fn of_file(path: &Path) -> Arc<Self> {
        let state = State {
            table: Arc::default(),
            version: None,
            looked: Instant::now(),
            looking: false,
        };
        let this = Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        };
        this.look();
        Arc::new(this)
    }

    /// Whose uid it is, where it is subordinate or has subordinates. Now and then it has a thread look at the file,
    /// and does not wait for that.
    pub(crate) fn of(self: &Arc<Self>, uid: u32) -> Option<Owner> {
        let mut state = self.lock();
        let now = Instant::now();
        if !state.looking && now.duration_since(state.looked) >= LOOK_EVERY {
            state.looking = true;
            state.looked = now;
            let this = Arc::clone(self);
            drop(tokio::task::spawn_blocking(move || this.look()));
        }
        let table = Arc::clone(&state.table);
        drop(state);
        table.owner_of(uid)
    }

    /// Reads the file where it has changed. Names may be asked of a directory, which can take long.
    fn look(&self) {
        let version = version(&self.path);
        let changed = version != self.lock().version;
        let table = changed.then(|| Arc::new(self.load()));
        let mut state = self.lock();
        state.looking = false;
        if let Some(table) = table {
            state.version = version;
            state.table = table;
        }
    }

    fn load(&self) -> Table {
        let path = self.path.display();
        let (table, skipped) = match read(&self.path) {
            Ok(bytes) => Table::parse(&bytes, uid_of),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%path, %error, "subordinate uids cannot be read: each uid counts for itself");
                }
                return Table::default();
            }
        };
        if skipped > 0 {
            tracing::warn!(%path, skipped, "lines of the subordinate uids are malformed and do not count");
        }
        table
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn version(path: &Path) -> Option<Version> {
    let found = fs::metadata(path).ok()?;
    let (modified, changed) = (
        (found.mtime(), found.mtime_nsec()),
        (found.ctime(), found.ctime_nsec()),
    );
    Some((found.dev(), found.ino(), found.len(), modified, changed))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("it is over the limit of {MAX_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn uid_of(name: &str) -> Option<u32> {
    let user = User::from_name(name).ok().flatten()?;
    Some(user.uid.as_raw())
}

/// Ranges of uids that do not overlap, and who owns them.
#[derive(Debug, Default)]
struct Table {
    /// By the first uid: the last, and the owner.
    ranges: BTreeMap<u32, (u32, Owner)>,
    /// Users that have a range.
    owners: HashSet<u32>,
}

impl Table {
    /// Reads lines of `name-or-uid:start:count`, and says how many are none. A uid that several lines give belongs to
    /// the first.
    fn parse(bytes: &[u8], uid_of: impl Fn(&str) -> Option<u32>) -> (Self, usize) {
        let text = String::from_utf8_lossy(bytes);
        let (mut table, mut skipped) = (Self::default(), 0);
        let mut known: HashMap<&str, Owner> = HashMap::new();
        let lines = text.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let Some((name, start, count)) = fields(line) else {
                skipped += 1;
                continue;
            };
            let Some(more) = count.checked_sub(1) else {
                continue;
            };
            let owner = known.entry(name).or_insert_with(|| {
                let uid = name.parse().ok().or_else(|| uid_of(name));
                uid.map_or_else(|| Owner::Name(Arc::from(name)), Owner::Uid)
            });
            if let Owner::Uid(uid) = owner {
                table.owners.insert(*uid);
            }
            let last = start.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            table.give(start, last, owner);
        }
        (table, skipped)
    }

    /// Gives an owner what nobody has yet of the uids from `first` to `last`.
    fn give(&mut self, first: u32, last: u32, owner: &Owner) {
        let before = self.ranges.range(..first).next_back();
        let mut free = match before {
            Some((_, (end, _))) if *end >= first => end.checked_add(1),
            _ => Some(first),
        };
        let taken: Vec<(u32, u32)> = self
            .ranges
            .range(first..=last)
            .map(|(start, (end, _))| (*start, *end))
            .collect();
        for (start, end) in taken {
            if let Some(from) = free
                && let Some(to) = start.checked_sub(1)
                && from <= to
            {
                self.ranges.insert(from, (to, owner.clone()));
            }
            free = end.checked_add(1);
        }
        if let Some(from) = free
            && from <= last
        {
            self.ranges.insert(from, (last, owner.clone()));
        }
    }

    fn owner_of(&self, uid: u32) -> Option<Owner> {
        match self.ranges.range(..=uid).next_back() {
            Some((_, (last, owner))) if uid <= *last => Some(owner.clone()),
            _ => self.owners.contains(&uid).then_some(Owner::Uid(uid)),
        }
    }
}

fn fields(line: &str) -> Option<(&str, u32, u64)> {
    let mut fields = line.split(':');
    let (name, start, count) = (fields.next()?, fields.next()?, fields.next()?);
    if name.is_empty() || fields.next().is_some() {
        return None;
    }
    Some((name, start.parse().ok()?, count.parse().ok()?))
}

#[cfg(test)]
mod tests;
