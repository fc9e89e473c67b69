//! Workload attestors: what can be said of a process on this host.

use std::sync::Arc;

use async_trait::async_trait;
use vouchsafe_sys::PidFd;

use crate::{Asked, Evidence};

/// How much of a process may be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reach {
    /// Everything.
    Full,
    /// Only uid, gid and container: its PID namespace belongs to a user namespace other than the
    /// agent's, where another process can be named as the sender of bytes.
    NamespaceOnly {
        /// Told to operators by `explain`.
        reason: String,
    },
}

/// A file, whatever its names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

/// A process that is held by its pidfd while it is measured.
#[derive(Debug, Clone)]
pub struct Process {
    /// Refers to this very process, never to a later one with the same number.
    pub pidfd: Arc<PidFd>,
    /// Its number in the agent's PID namespace.
    pub pid: i32,
    /// Effective user id, as the kernel gave it for the peer (`SO_PEERCRED`). Attestors compare it with
    /// the one that the process has when it is measured, and refuse where they differ.
    pub uid: u32,
    /// Effective group id, likewise.
    pub gid: u32,
    /// What may be measured.
    pub reach: Reach,
    /// The file that it executed, where that was seen before: attestors tell of no other, for a process can become another
    /// program and itself again while it is measured.
    pub program: Option<FileId>,
}

/// Why a process could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadAttestError {
    /// It ended while it was being measured.
    #[error("process {pid} has ended")]
    Gone {
        /// The process's number.
        pid: i32,
    },
    /// Something about it cannot be read.
    #[error("cannot read {what} of process {pid}")]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// The process's number.
        pid: i32,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Its user or group is not the one that the kernel gave when it connected: it has changed its
    /// credentials since, or it is not the process that was meant.
    #[error(
        "process {pid} connected with {what} {given} and now has {found}: connect after changing credentials"
    )]
    CredentialsDiffer {
        /// The process's number.
        pid: i32,
        /// `uid` or `gid`.
        what: &'static str,
        /// The id that came with the process.
        given: u32,
        /// The effective id that it has now.
        found: u32,
    },
    /// It became another program, or changed its credentials, while it was being measured.
    #[error("process {pid} executed another program or changed its credentials while it was measured")]
    Changed {
        /// The process's number.
        pid: i32,
    },
    /// The files or the memory of the process did not answer in time; a process can arrange that.
    #[error("{what} of process {pid} took longer than {limit}")]
    TimedOut {
        /// What was measured.
        what: &'static str,
        /// The process's number.
        pid: i32,
        /// The limit with its unit.
        limit: String,
    },
    /// A limit was passed, such as the size of an executable to hash.
    #[error("{what} of process {pid} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The process's number.
        pid: i32,
        /// The limit with its unit.
        limit: String,
    },
}

/// Finds selectors of one type for a process.
///
/// The caller holds the process by pidfd and checks before and after that it still lives; an
/// attestor reads `/proc/<pid>` between those checks.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync {
    /// The selector type that it gives, such as `unix`.
    fn name(&self) -> &'static str;

    /// Measures the process. What is dear to find is looked for only where `asked` has it.
    ///
    /// # Errors
    /// [`WorkloadAttestError`]: then nothing of this attestor may be used, and the call is refused.
    async fn attest(&self, process: &Process, asked: &Asked) -> Result<Evidence, WorkloadAttestError>;

    /// The same by blocking reads of the process alone, for a caller on a thread that may block: several such
    /// attestors then cost one change of threads. `None` of an attestor that has to ask others than the kernel.
    fn attest_blocking(
        &self,
        _process: &Process,
        _asked: &Asked,
    ) -> Option<Result<Evidence, WorkloadAttestError>> {
        None
    }
}
