//! The children of a run that have ids of their own: which process has which number. It stands on disk as well, so that
//! another life of the agent gives no number to a second process, and a child that lives keeps its own.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vouchsafe_identity::RunIdentity;
use vouchsafe_launch::record::Process;
use vouchsafe_sys::{PidFd, ProcessIdentity};

use super::NotServed;
use super::record::replace;
use super::run::entry;
use crate::entry::Entry;

/// Most children of a run that have ids of their own at a time.
pub const MAX_AT_A_TIME: usize = 1024;

/// What stands on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Noted {
    /// The highest number that was given.
    given: u32,
    /// The children that live.
    living: Vec<(Process, NonZeroU32)>,
}

#[derive(Debug)]
struct Child {
    held: PidFd,
    process: Process,
    number: NonZeroU32,
    entry: Arc<Entry>,
}

/// The children of one run.
#[derive(Debug)]
pub struct Children {
    /// The run itself.
    of: RunIdentity,
    /// Where they are noted.
    file: PathBuf,
    given: u32,
    by_process: HashMap<ProcessIdentity, Child>,
}

impl Children {
    /// Those that an earlier life of the agent noted in `file`; none where it is missing.
    ///
    /// # Errors
    /// Where it cannot be read, for people: who does not know which numbers were given can give none.
    pub fn open(of: RunIdentity, file: PathBuf) -> Result<Self, String> {
        let damaged = |error: &dyn std::fmt::Display| {
            format!("the numbers of its children in `{}`: {error}", file.display())
        };
        let noted: Noted = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| damaged(&error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Noted::default(),
            Err(error) => return Err(damaged(&error)),
        };
        let mut children = Self {
            of,
            file,
            given: noted.given,
            by_process: HashMap::new(),
        };
        for (process, number) in noted.living {
            let Some(held) = process.hold() else {
                continue;
            };
            let identity = held.identity().map_err(|error| error.to_string())?;
            let entry = children.entry(number)?;
            let child = Child {
                held,
                process,
                number,
                entry,
            };
            children.by_process.insert(identity, child);
        }
        Ok(children)
    }

    /// What the SVIDs of a process rest on, which has a number of its own as long as it lives; and of those that have ended.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn child(&mut self, pidfd: &PidFd) -> Result<(Arc<Entry>, Vec<Arc<Entry>>), NotServed> {
        let unknown = |error: &dyn std::fmt::Display| NotServed::Unknown(error.to_string());
        let identity = pidfd.identity().map_err(|error| unknown(&error))?;
        if let Some(child) = self.by_process.get(&identity) {
            return Ok((Arc::clone(&child.entry), Vec::new()));
        }
        let process = Process::held(pidfd).map_err(|error| unknown(&error))?;
        let number = self.next_number()?;
        let held = pidfd.try_clone().map_err(|error| unknown(&error))?;
        let entry = self.entry(number).map_err(|error| unknown(&error))?;
        self.note(process, number).map_err(|error| {
            let text = format!("the number of this child cannot be noted: {error}");
            NotServed::Unknown(text)
        })?;
        self.given = number.get();
        let ended = self.by_process.extract_if(|_, child| !child.held.is_alive());
        let ended = ended.map(|(_, child)| child.entry).collect();
        let child = Child {
            held,
            process,
            number,
            entry: Arc::clone(&entry),
        };
        self.by_process.insert(identity, child);
        Ok((entry, ended))
    }

    /// What the SVIDs of all rest on.
    pub fn entries(&self) -> impl Iterator<Item = Arc<Entry>> + '_ {
        self.by_process.values().map(|child| Arc::clone(&child.entry))
    }

    fn living(&self) -> impl Iterator<Item = &Child> {
        self.by_process.values().filter(|child| child.held.is_alive())
    }

    fn next_number(&self) -> Result<NonZeroU32, NotServed> {
        let run = self.of.run;
        if self.by_process.len() >= MAX_AT_A_TIME && self.living().count() >= MAX_AT_A_TIME {
            let max = MAX_AT_A_TIME;
            return Err(NotServed::TooManyChildren { run, max });
        }
        let max = RunIdentity::MAX_CHILDREN;
        let next = self.given.checked_add(1).filter(|next| *next <= max);
        next.and_then(NonZeroU32::new)
            .ok_or(NotServed::NumbersGiven { run, max })
    }

    /// Before a number is used, it is known to be given.
    fn note(&self, process: Process, number: NonZeroU32) -> io::Result<()> {
        let living = self.living().map(|child| (child.process, child.number));
        let noted = Noted {
            given: number.get(),
            living: living.chain([(process, number)]).collect(),
        };
        replace(&self.file, &serde_json::to_vec(&noted)?)
    }

    fn entry(&self, number: NonZeroU32) -> Result<Arc<Entry>, String> {
        let identity = RunIdentity {
            child: Some(number),
            ..self.of.clone()
        };
        let spiffe_id = identity.spiffe_id().map_err(|error| error.to_string())?;
        let id = format!("{}/{number}", self.of.run);
        Ok(Arc::new(entry(id, spiffe_id, false)))
    }
}

#[cfg(test)]
mod tests;
