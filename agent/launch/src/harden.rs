//! What a program may not do from its first instruction on: gain privileges, touch other files, use other ports.

use std::fs::File;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use serde::{Deserialize, Serialize};

/// The rules' version: the first that knows TCP ports (Linux 6.7).
const WANTED: ABI = ABI::V4;

/// Limits for one program, which its children inherit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harden {
    /// No program that it starts gains privileges (setuid, file capabilities).
    pub no_new_privs: bool,
    /// Files that it may touch; without it, all.
    pub files: Option<Files>,
    /// TCP ports that it may connect to; without it, all.
    pub connect: Option<Vec<u16>>,
    /// TCP ports that it may listen on; without it, all.
    pub bind: Option<Vec<u16>>,
}

/// Files and folders by path; folders with all that is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// To read and execute.
    pub read: Vec<PathBuf>,
    /// To read, execute, write, make and remove.
    pub write: Vec<PathBuf>,
}

/// Why limits could not be set.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// A path that does not exist or cannot be opened.
    #[error("cannot limit the program to `{path}`: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel does not have Landlock, or an old one.
    #[error(
        "this kernel does not enforce the limits that the class demands (Landlock with TCP ports, Linux 6.7): {reason}"
    )]
    NotEnforced {
        /// What the kernel says.
        reason: String,
    },
    /// The kernel refused to take privileges away.
    #[error("cannot set no_new_privs")]
    NoNewPrivs(#[source] nix::errno::Errno),
}

impl Harden {
    /// Limits the calling thread, and what it becomes. `program` may be executed in any case.
    ///
    /// # Errors
    /// Where the kernel enforces less than was asked: never silently.
    pub fn enforce(&self, program: &Path, opened: &File) -> Result<(), HardenError> {
        let mut ports = BitFlags::<AccessNet>::empty();
        if self.connect.is_some() {
            ports |= AccessNet::ConnectTcp;
        }
        if self.bind.is_some() {
            ports |= AccessNet::BindTcp;
        }
        let limited = self.files.is_some() || !ports.is_empty();
        if self.no_new_privs || limited {
            nix::sys::prctl::set_no_new_privs().map_err(HardenError::NoNewPrivs)?;
        }
        if !limited {
            return Ok(());
        }
        let refused = |error: RulesetError| HardenError::NotEnforced {
            reason: error.to_string(),
        };
        let mut rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        if self.files.is_some() {
            rules = rules.handle_access(AccessFs::from_all(WANTED)).map_err(refused)?;
        }
        if !ports.is_empty() {
            rules = rules.handle_access(ports).map_err(refused)?;
        }
        let mut rules = rules.create().map_err(refused)?;
        if let Some(files) = &self.files {
            let run = PathBeneath::new(opened, AccessFs::Execute | AccessFs::ReadFile);
            rules = rules.add_rule(run).map_err(refused)?;
            let by_path = files.read.iter().map(|path| (path, AccessFs::from_read(WANTED)));
            let by_path = by_path.chain(files.write.iter().map(|path| (path, AccessFs::from_all(WANTED))));
            for (path, access) in by_path {
                let bad = |reason: String| HardenError::Path {
                    path: path.clone(),
                    reason,
                };
                let metadata = std::fs::metadata(path).map_err(|error| bad(error.to_string()))?;
                let access = if metadata.is_dir() {
                    access
                } else {
                    access & AccessFs::from_file(WANTED)
                };
                let descriptor = PathFd::new(path).map_err(|error| bad(error.to_string()))?;
                rules = rules
                    .add_rule(PathBeneath::new(descriptor, access))
                    .map_err(refused)?;
            }
        }
        for (ports, access) in [
            (&self.connect, AccessNet::ConnectTcp),
            (&self.bind, AccessNet::BindTcp),
        ] {
            for port in ports.iter().flatten() {
                rules = rules.add_rule(NetPort::new(*port, access)).map_err(refused)?;
            }
        }
        let status = rules.restrict_self().map_err(refused)?;
        if status.ruleset == RulesetStatus::FullyEnforced {
            return Ok(());
        }
        Err(HardenError::NotEnforced {
            reason: format!("`{}` would run with {:?}", program.display(), status.ruleset),
        })
    }
}
