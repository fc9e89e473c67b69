//! Why a program was not started.

use std::io;
use std::path::PathBuf;

use crate::cgroups::CgroupError;
use crate::copies::CopyError;
use crate::measure::MeasureError;
use crate::verify::VerifyError;

/// Why a program was not started, or was ended at once.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The name cannot be that of a folder.
    #[error("`{name}` names no run: use 1 to 128 of `[A-Za-z0-9._-]`, and no dot first")]
    Name {
        /// As it was given.
        name: String,
    },
    /// A record of that name is there.
    #[error("a run named `{name}` was started already: names are used once")]
    Used {
        /// As it was given.
        name: String,
    },
    /// Only root may become another user and keep copies that others cannot change.
    #[error(
        "{what} needs root: run the agent as root, or let the class say `isolation = \"none\"` and no uid"
    )]
    NeedsRoot {
        /// What was asked for.
        what: &'static str,
    },
    /// Nothing can be shut to root.
    #[error(
        "isolation needs a uid other than 0, which reads everything: give the class a uid or a pool of uids"
    )]
    RootUser,
    /// The host makes such processes dumpable.
    #[error(
        "`fs.suid_dumpable` is {value}, which opens execute-only programs to their own uid: set it to 0 (`sysctl fs.suid_dumpable=0`)"
    )]
    SuidDumpable {
        /// The setting.
        value: String,
    },
    /// There is no subtree for control groups.
    #[error(
        "isolation needs a control group for each run, and there is none: run as root, or have a cgroup v2 subtree delegated"
    )]
    NoCgroup,
    /// An argument or variable holds a NUL.
    #[error("`{text}` holds a NUL byte")]
    Nul {
        /// The text.
        text: String,
    },
    /// A variable's name is empty or holds `=`.
    #[error("`{name}` is no name of a variable")]
    Variable {
        /// As it was given.
        name: String,
    },
    /// No argument vector.
    #[error("a program needs a name: the argument vector is empty")]
    NoArguments,
    /// The program or a file.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The execute-only copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The supervisor cannot be started or does not answer.
    #[error("the supervisor `{path}` does not answer")]
    Supervisor {
        /// Its program.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The supervisor ended without an answer.
    #[error("the supervisor ended before the program was started")]
    SupervisorEnded,
    /// Something that the process needs hangs.
    #[error("the process was not ready in time: does its working directory hang, or that of its program?")]
    Late,
    /// The process could not become the program.
    #[error("cannot start the program: {step}: {error}")]
    Stage {
        /// What was being done.
        step: String,
        /// What went wrong.
        error: String,
    },
    /// What runs is not what was planned; it has been killed.
    #[error("the program was killed at its start: {0}")]
    Verify(#[from] VerifyError),
    /// Standard input is not what it was said to be.
    #[error("standard input is no terminal, and was said to be one")]
    NoTerminal,
    /// A record or a descriptor.
    #[error("{what} failed")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
