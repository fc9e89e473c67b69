//! What launcher, supervisor and stage say to each other.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::harden::Harden;
use crate::{LaunchError, OnEnd, User};

/// A program to start. Beside it come four descriptors: the program, standard input, output and error.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: Option<User>,
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether the stage was started in it.
    pub(crate) in_group: bool,
    /// The record's file.
    pub(crate) record: PathBuf,
    /// Whether standard input is a terminal, to be taken as the session's own.
    pub(crate) terminal: bool,
    /// Where the program stands, for Landlock, which must let it through.
    pub(crate) program: PathBuf,
    /// Whether the stage makes itself non-dumpable before the gate.
    pub(crate) shut: bool,
    pub(crate) on_end: OnEnd,
    pub(crate) harden: Harden,
}

/// What goes down, once the order is given.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The gate is open.
    Go,
}

/// What comes up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The process stands at the gate; from the supervisor its pidfd comes along.
    Ready,
    /// The process is the program now.
    Started,
    /// It could not become the program.
    Failed { step: String, error: String },
}

/// Text as the kernel takes it.
pub(crate) fn c_string(text: &OsStr) -> Result<CString, LaunchError> {
    CString::new(text.as_bytes()).map_err(|_| LaunchError::Nul {
        text: text.to_string_lossy().into_owned(),
    })
}

/// A variable as the kernel takes it.
pub(crate) fn variable(name: &OsStr, value: &OsStr) -> Result<CString, LaunchError> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(LaunchError::Variable {
            name: name.to_string_lossy().into_owned(),
        });
    }
    let mut both = name.to_owned();
    both.push("=");
    both.push(value);
    c_string(&both)
}
