//! Why a run does not begin, and what its launcher is told.

use std::io;

use tonic::{Code, Status};
use vouchsafe_identity::ClassName;
use vouchsafe_launch::LaunchError;

use crate::runs::command::CommandError;
use crate::runs::leases::NoLease;
use crate::upstream::UpstreamError;

/// Why a run did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchingError {
    /// The command is not the class's.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// All uids are taken.
    #[error(
        "every uid of the pool {first} to {last} of class `{class}` has a run on this node: end some first"
    )]
    PoolEmpty {
        /// The class.
        class: ClassName,
        /// The pool's first uid.
        first: u32,
        /// The last.
        last: u32,
    },
    /// The uid is that of a run of a pool.
    #[error(
        "uid {uid} is at present that of a run whose class has it of a pool, and so nobody else's: take another uid, or a \
         pool without it"
    )]
    UidOfAnother {
        /// The uid.
        uid: u32,
    },
    /// The agent is not root, and so becomes nobody else.
    #[error(
        "this agent runs as uid {own}, which is not root, and launches nothing for uid {uid}: ask as uid {own}, or run \
         the agent as root"
    )]
    OtherUser {
        /// The agent's.
        own: u32,
        /// The launcher's.
        uid: u32,
    },
    /// The server did not admit it, or could not be asked.
    #[error("{0}")]
    Admission(#[from] UpstreamError),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] LaunchError),
    /// The agent's own files.
    #[error("{what} failed: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The server is away, and there is no lease to launch by.
    #[error("the run was not admitted, for the server is away ({away}), and {none}")]
    NoLease {
        /// Why the server was not asked.
        away: String,
        /// Why there is no lease.
        none: NoLease,
    },
    /// The server admitted whom the class as it is known here does not name; the run of that number must be ended.
    #[error("who may launch the class has changed just now: ask again")]
    AdmittedUnasked(String),
    /// What the server sent cannot be used.
    #[error("the server's answer cannot be used: {0}")]
    Nonsense(String),
    /// The launcher is not what it was any more.
    #[error("{}", .0.message())]
    Caller(Status),
}

impl LaunchingError {
    /// Whether the class is another by now than the one that the command was held against.
    pub fn is_class_changed(&self) -> bool {
        use vouchsafe_proto::vouchsafe::run::v1::admission_refused::Reason;
        matches!(
            self,
            Self::Admission(UpstreamError::NotAdmitted {
                reason: Reason::ClassChanged,
                ..
            })
        )
    }
}

impl From<LaunchingError> for Status {
    fn from(error: LaunchingError) -> Self {
        let code = match &error {
            LaunchingError::Command(CommandError::Class(_)) | LaunchingError::Nonsense(_) => Code::Internal,
            LaunchingError::Command(_) => Code::InvalidArgument,
            LaunchingError::PoolEmpty { .. } => Code::ResourceExhausted,
            LaunchingError::Admission(UpstreamError::NotAdmitted { status, .. }) => {
                return (**status).clone();
            }
            LaunchingError::Caller(status) => return status.clone(),
            LaunchingError::NoLease { .. } | LaunchingError::AdmittedUnasked(_) => Code::Unavailable,
            LaunchingError::Admission(error) if error.is_temporary() => Code::Unavailable,
            LaunchingError::OtherUser { .. }
            | LaunchingError::UidOfAnother { .. }
            | LaunchingError::Admission(_)
            | LaunchingError::Start(_) => Code::FailedPrecondition,
            LaunchingError::Io { .. } => Code::Internal,
        };
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            let next = source.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = source.source();
        }
        Self::new(code, text)
    }
}
