//! What a command can fail with, and the exit code of each.

use std::path::PathBuf;

use tonic::Code;
use vouchsafe_launch::measure::MeasureError;
use vouchsafe_runtime::seal::file::SecretFileError;

use crate::launch::NotAdmitted;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The async runtime did not start.
    #[error("cannot start")]
    Runtime(#[source] std::io::Error),
    /// A socket cannot be reached.
    #[error("cannot reach `{}`: {reason}; is the {what} running, and does {flag} name its socket?", path.display())]
    Unreachable {
        /// What should listen there.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
        /// The system's answer.
        reason: String,
    },
    /// No socket is there that could be asked.
    #[error("{0}")]
    NothingThere(String),
    /// The socket is there, and not for this user.
    #[error("permission denied: `{}` is not open to this user; run as the user of the {what}, or name another socket with {flag}", path.display())]
    Forbidden {
        /// What listens there.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The flag that names it.
        flag: &'static str,
    },
    /// Standard output took no more.
    #[error("the output could not be written")]
    Output(#[source] std::io::Error),
    /// The other side answered with an error.
    #[error("{}{}", status.message(), next_step(status, what))]
    Call {
        /// Who answered.
        what: &'static str,
        /// Its answer.
        status: Box<tonic::Status>,
    },
    /// No answer in time.
    #[error("no answer within {0}: raise --timeout, or look at the other side's log")]
    Timeout(String),
    /// The input is not valid.
    #[error("{0}")]
    Invalid(String),
    /// Some or all items were refused; what they were is printed already.
    #[error("{failed} of {all} failed")]
    Partly {
        /// How many failed.
        failed: usize,
        /// How many there were.
        all: usize,
    },
    /// The other side is not well; what is wrong is printed already.
    #[error("{0}")]
    Unwell(String),
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file of a sealing key gives none.
    #[error(transparent)]
    SealKey(#[from] SecretFileError),
    /// A file cannot be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The answer is not what the protocol says.
    #[error("the {what} sent an answer that cannot be read: {reason}")]
    Answer {
        /// Who sent it.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The command line says two things that exclude each other.
    #[error("{0}")]
    Usage(String),
    /// The command of a run is not to be found, or cannot be executed.
    #[error("{}", no_command(name, *found))]
    Command {
        /// As it was given.
        name: String,
        /// Whether there is a file of that name.
        found: bool,
    },
    /// The server did not admit a run.
    #[error(transparent)]
    NotAdmitted(NotAdmitted),
    /// The run's end was not heard of.
    #[error(
        "how run `{run}` ended is not known: {reason}; `vouchsafe run show {run}` tells an operator what became of it"
    )]
    Lost {
        /// Its id.
        run: String,
        /// Why it was not heard of.
        reason: String,
    },
    /// What a run is to be lent cannot be had.
    #[error("{what} cannot be had")]
    Stdio {
        /// What it is.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A daemon inside `vouchsafe dev` failed.
    #[error("{0}")]
    Daemon(String),
}

fn no_command(name: &str, found: bool) -> String {
    match (found, name.contains('/')) {
        (true, _) => format!("`{name}` cannot be executed: it is a folder, or nobody may execute it"),
        (false, true) => format!("there is no `{name}`"),
        (false, false) => format!("there is no `{name}` in any folder that PATH names"),
    }
}

fn next_step(status: &tonic::Status, what: &'static str) -> &'static str {
    match (status.code(), what) {
        // The agent names the next step itself where there is one.
        _ if status.message().contains("vouchsafe explain") => "",
        (Code::PermissionDenied, "agent") => {
            "; `vouchsafe explain PID`, run by the operator, shows what is missing"
        }
        (Code::Unimplemented, _) => "; the other side does not have this method",
        _ => "",
    }
}

impl CliError {
    /// What the other side says of one item of a batch, as if it had been the whole call.
    pub(crate) fn item(what: &'static str, code: i32, text: String) -> Self {
        let status = Box::new(tonic::Status::new(Code::from(code), text));
        Self::Call { what, status }
    }

    /// The exit code, as listed in the help.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(_)
            | Self::Output(_)
            | Self::Partly { .. }
            | Self::Answer { .. }
            | Self::Stdio { .. }
            | Self::Daemon(_) => 1,
            Self::Usage(_) => 64,
            Self::Command { found, .. } => match found {
                true => 126,
                false => 127,
            },
            Self::NotAdmitted(refused) if refused.is_temporary() => 75,
            Self::NotAdmitted(_) => 77,
            Self::Unreachable { .. } | Self::NothingThere(_) | Self::Lost { .. } => 69,
            Self::Forbidden { .. }
            | Self::SealKey(SecretFileError::Exposed { .. } | SecretFileError::Foreign { .. }) => 77,
            Self::Timeout(_) | Self::Unwell(_) => 75,
            Self::Invalid(_) | Self::SealKey(_) => 65,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => 77,
            Self::File { .. } => 1,
            Self::Measure(MeasureError::Unreadable { source, .. }) => match source.kind() {
                std::io::ErrorKind::PermissionDenied => 77,
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => 65,
                _ => 1,
            },
            Self::Measure(MeasureError::Changed { .. }) => 75,
            Self::Measure(_) => 65,
            Self::Call { status, .. } => match status.code() {
                Code::NotFound | Code::InvalidArgument | Code::AlreadyExists => 65,
                Code::PermissionDenied | Code::Unauthenticated => 77,
                Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted => 75,
                _ => 1,
            },
        }
    }

    /// A stable word for programs.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Runtime(_) => "runtime",
            Self::Output(_) => "output",
            Self::Unreachable { .. } | Self::NothingThere(_) => "unreachable",
            Self::Forbidden { .. } => "forbidden",
            Self::Call { .. } => "call",
            Self::Timeout(_) => "timeout",
            Self::Invalid(_) | Self::SealKey(_) => "invalid",
            Self::Partly { .. } => "partly",
            Self::Unwell(_) => "unwell",
            Self::File { .. }
            | Self::Measure(MeasureError::Unreadable { .. } | MeasureError::Changed { .. }) => "file",
            Self::Measure(_) => "invalid",
            Self::Answer { .. } => "answer",
            Self::Usage(_) => "usage",
            Self::Command { .. } => "command",
            Self::NotAdmitted(_) => "refused",
            Self::Lost { .. } => "lost",
            Self::Stdio { .. } => "stdio",
            Self::Daemon(_) => "daemon",
        }
    }
}
