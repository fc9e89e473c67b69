//! One run: what was admitted, what was started, and how it ended.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use vouchsafe_attestors::Reach;
use vouchsafe_identity::{ClassName, RunId, RunIdentity, Selector, SelectorSet, SpiffeId};
use vouchsafe_launch::verify::{Wanted, verify};
use vouchsafe_proto::vouchsafe::run::v1 as proto;
use vouchsafe_sys::{PidFd, ProcessIdentity};

use super::NotServed;
use super::children::Children;
use super::record::RunRecord;
use crate::entry::{Entry, EntryId, EntryVersion};

/// Which of a run's processes have an identity beside the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inherit {
    /// None.
    None,
    /// All, that of the run.
    Children,
    /// All, each one of its own.
    Derived,
}

impl From<proto::Inherit> for Inherit {
    fn from(inherit: proto::Inherit) -> Self {
        match inherit {
            proto::Inherit::Children => Self::Children,
            proto::Inherit::Derived => Self::Derived,
            proto::Inherit::None | proto::Inherit::Unspecified => Self::None,
        }
    }
}

/// Why a run has no identity any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// Its main process has ended.
    #[error("its main process has ended")]
    Over,
    /// Its time was over.
    #[error("its time was over")]
    Expired,
    /// The server no longer has it; why, in its words, if it said so.
    #[error("the server ended it{}{_0}", if _0.is_empty() { "" } else { ": " })]
    Revoked(Arc<str>),
    /// Nobody waits for it.
    #[error("its launcher went away")]
    Abandoned,
    /// It could not be started.
    #[error("it was not started")]
    NotStarted,
}

/// Who asked for a run, to know again who may follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The user.
    pub uid: u32,
    /// The run whose main process it was, if it was one's.
    pub parent: Option<RunId>,
}

/// A run that lives on this node.
#[derive(Debug)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Its class.
    pub class: ClassName,
    /// What its class says of children.
    pub inherit: Inherit,
    /// Who launched it.
    pub launcher: Launcher,
    /// What it works on; may be empty.
    pub task: String,
    /// What its launch measured.
    pub selectors: Vec<Selector>,
    /// When it ends at the latest, in Unix seconds.
    expires_at: AtomicI64,
    /// That the server knows of it; until then it was launched by a lease.
    heard: CancellationToken,
    pub(super) process: ProcessIdentity,
    pub(super) group: Option<String>,
    /// Its uid, where no other run has it meanwhile.
    pub(super) own_uid: Option<u32>,
    pub(super) entry: Arc<Entry>,
    main: PidFd,
    wanted: Wanted,
    children: Mutex<Children>,
    ended: CancellationToken,
    cause: OnceLock<Cause>,
    calls: AtomicU64,
    last_call: AtomicI64,
}

impl Run {
    /// A run whose main process is held, as its record says. The numbers of its children are noted in the file `children`.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn new(record: &RunRecord, main: PidFd, children: PathBuf) -> Result<Self, String> {
        let process = main.identity().map_err(|error| error.to_string())?;
        let identity = RunIdentity::parse(&record.spiffe_id)
            .filter(|identity| identity.run == record.run && identity.child.is_none())
            .ok_or_else(|| format!("`{}` is not the id of run {}", record.spiffe_id, record.run))?;
        let heard = CancellationToken::new();
        if record.unheard.is_none() {
            heard.cancel();
        }
        let entry = entry(record.run.to_string(), record.spiffe_id.clone(), true);
        Ok(Self {
            id: record.run,
            spiffe_id: record.spiffe_id.clone(),
            class: record.class.clone(),
            inherit: record.inherit,
            launcher: record.launcher(),
            task: record.task.clone(),
            selectors: record.selectors.clone(),
            expires_at: AtomicI64::new(record.expires_at),
            heard,
            process,
            group: record.group.as_ref().map(|(_, path)| path.clone()),
            own_uid: record.alone.then_some(record.uid),
            entry: Arc::new(entry),
            main,
            wanted: record.wanted(),
            children: Mutex::new(Children::open(identity, children)?),
            ended: CancellationToken::new(),
            cause: OnceLock::new(),
            calls: AtomicU64::new(0),
            last_call: AtomicI64::new(0),
        })
    }

    /// The main process.
    pub fn main(&self) -> &PidFd {
        &self.main
    }

    /// When it ends at the latest.
    pub fn expires_at(&self) -> OffsetDateTime {
        let at = OffsetDateTime::from_unix_timestamp(self.expires_at.load(Ordering::Relaxed));
        at.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// The server has heard that it was launched; until when it may live, if it may.
    pub(super) fn heard(&self, expires_at: Option<i64>) {
        if let Some(expires_at) = expires_at {
            self.expires_at.store(expires_at, Ordering::Relaxed);
        }
        self.heard.cancel();
    }

    /// Waits until the server knows of it.
    pub(super) async fn known_to_server(&self) {
        self.heard.cancelled().await;
    }

    /// Says that one of its processes was answered.
    pub fn called(&self, now: OffsetDateTime) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.last_call.fetch_max(now.unix_timestamp(), Ordering::Relaxed);
    }

    /// How often its processes were answered, and when last (0: never).
    pub fn calls(&self) -> (u64, i64) {
        (
            self.calls.load(Ordering::Relaxed),
            self.last_call.load(Ordering::Relaxed),
        )
    }

    /// Waits until it has no identity any more; says why.
    pub async fn ended(&self) -> NotServed {
        self.ended.cancelled().await;
        NotServed::Ended {
            run: self.id,
            cause: self.cause().unwrap_or(Cause::Over),
        }
    }

    /// Why it has no identity any more, once that is so.
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().cloned()
    }

    pub(super) fn end(&self, cause: Cause) {
        // The first cause is the one that counts.
        let _known_already = self.cause.set(cause);
        self.ended.cancel();
    }

    /// Whether it has an identity.
    ///
    /// # Errors
    /// [`NotServed::Ended`].
    pub fn alive(&self) -> Result<(), NotServed> {
        let cause = match self.cause() {
            Some(cause) => cause,
            None if self.main.is_alive() => return Ok(()),
            None => Cause::Over,
        };
        Err(NotServed::Ended { run: self.id, cause })
    }

    /// Whether the main process is still what was started: the same program, shut to others, traced by nobody.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn unaltered(&self, reach: &Reach) -> Result<(), NotServed> {
        let altered = |reason: String| NotServed::Altered { run: self.id, reason };
        if let Reach::NamespaceOnly { reason } = reach {
            return Err(altered(reason.clone()));
        }
        verify(&self.main, &self.wanted).map_err(|error| altered(error.to_string()))
    }

    /// What the SVIDs of a child rest on; and of children that have ended.
    pub(super) fn child(&self, pidfd: &PidFd) -> Result<(Arc<Entry>, Vec<Arc<Entry>>), NotServed> {
        self.children().child(pidfd)
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What SVIDs of the run rest on.
    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let children = self.children();
        std::iter::once(Arc::clone(&self.entry))
            .chain(children.entries())
            .collect()
    }
}

/// How what is asked for by an entry's id is asked for of the server: the run, and the child or 0.
pub(super) fn asked_by(id: &EntryId) -> Option<(String, u32)> {
    match id.as_str().split_once('/') {
        None => Some((id.to_string(), 0)),
        Some((run, child)) => Some((run.to_owned(), child.parse().ok()?)),
    }
}

/// A run as what SVIDs rest on. No selector leads to it.
pub(super) fn entry(id: String, spiffe_id: SpiffeId, prefetch: bool) -> Entry {
    Entry {
        id: EntryId::from(id.as_str()),
        version: EntryVersion {
            revision: 0,
            created_at: 0,
        },
        spiffe_id,
        selectors: SelectorSet::new(),
        federates_with: Vec::new(),
        hint: String::new(),
        store_svid: false,
        prefetch,
        single_jwt: false,
    }
}
