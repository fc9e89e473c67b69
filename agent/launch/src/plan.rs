//! What is to be started, and how.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Digest;
use crate::harden::Harden;

/// A user with its groups, by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The uid that the program gets, real, effective and saved.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

/// Whether the program's memory, environment and files are shut to others of its uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// Started from an execute-only copy, which makes it non-dumpable. Demands root, and a user other than root.
    #[default]
    Process,
    /// Started as it is: its children can read its memory.
    None,
}

/// What becomes of the cgroup's other processes when the main one ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEnd {
    /// They are killed, and the cgroup is removed.
    #[default]
    Kill,
    /// They go on.
    Leave,
}

/// A file and what must be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Absolute.
    pub path: PathBuf,
    /// Of its bytes; without one it is measured and compared with nothing.
    pub sha256: Option<Digest>,
}

/// Where the program's standard input, output and error lead.
#[derive(Debug)]
pub enum Stdio {
    /// To these descriptors, in this order.
    Descriptors([OwnedFd; 3]),
    /// The same; the first is a terminal, which becomes that of the program's session.
    Terminal([OwnedFd; 3]),
}

/// A program to start.
#[derive(Debug)]
pub struct Plan {
    /// Names the cgroup and the record: 1 to 128 of `[A-Za-z0-9._-]`, not beginning with a dot, and not used before.
    pub name: String,
    /// The program: an ELF file. Of a script, its interpreter.
    pub program: Expected,
    /// The whole argument vector. Its first says how the program was called: virtual environments rest on it.
    pub argv: Vec<OsString>,
    /// The whole environment. `environment::filtered` takes the loader variables out.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory.
    pub cwd: PathBuf,
    /// The user to become; without one the program keeps the caller's.
    pub user: Option<User>,
    /// Input, output, error.
    pub stdio: Stdio,
    /// Files that are measured before the program may run: script, lock file, prompts.
    pub files: Vec<Expected>,
    /// Whether the program and the files must be out of reach to change, of the user and of the launcher.
    pub immutable: bool,
    /// Who asked for it, where that is another than the user. Root could change anything: it is not looked at.
    pub launcher: Option<User>,
    /// Whether others of the uid are shut out.
    pub isolation: Isolation,
    /// What becomes of its children.
    pub on_end: OnEnd,
    /// What the program may not do.
    pub harden: Harden,
}
