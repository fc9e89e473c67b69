//! The programs that a process descends from, as they are now.

use std::ffi::OsString;
use std::sync::Arc;

use vouchsafe_attestors::{Evidence, Process, Reach, Trust};
use vouchsafe_identity::Selector;
use vouchsafe_sys::{PidFd, SysError};

use super::NAME;
use super::ask::ANCESTOR;
use crate::proc_dir::ProcDir;
use crate::text::add;
use crate::unix::path_here;

/// How far up it is looked.
const MAX_ANCESTORS: usize = 32;

/// The executables of the parents, up to the first process. A parent may execute another program after its child was
/// forked, and one that ends is replaced by another, so they are asserted.
pub(super) fn ancestors(evidence: &mut Evidence, process: &Process) {
    let mut child = Arc::clone(&process.pidfd);
    for _ in 0..MAX_ANCESTORS {
        let parent = match parent_of(&child) {
            Ok(Some(parent)) => parent,
            Ok(None) => return,
            Err(reason) => return evidence.withhold(ANCESTOR, reason),
        };
        match program_of(&parent) {
            Ok(path) => add(evidence, Trust::Asserted, NAME, "ancestor", &path),
            Err(reason) => evidence.withhold(ANCESTOR, format!("process {}: {reason}", parent.pid)),
        }
        child = parent.pidfd;
    }
    let reason = format!("more than {MAX_ANCESTORS} processes are above it: the rest is not looked at");
    evidence.withhold(ANCESTOR, reason);
}

/// The programs of a process and of those above it, itself first, as far as they can be told: for the record of what
/// was launched by it. A gap is a program that is not the agent's file too.
pub fn lineage(process: &Process) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut above = Some(process.clone());
    for _ in 0..=MAX_ANCESTORS {
        let Some(looked_at) = above else { break };
        let path = program_of(&looked_at).ok();
        let value = path.as_ref().and_then(|path| path.to_str());
        let plain = value.filter(|value| !value.chars().any(char::is_control));
        found.extend(plain.and_then(|path| Selector::new(NAME, &format!("ancestor:{path}")).ok()));
        above = parent_of(&looked_at.pidfd).ok().flatten();
    }
    found
}

/// The parent, held; `None` where there is none that this agent could see.
fn parent_of(child: &PidFd) -> Result<Option<Process>, String> {
    let unreadable = |error: SysError| format!("its parents cannot be read: {error}");
    let ppid = child.info().map_err(unreadable)?.ppid;
    if ppid <= 0 {
        return Ok(None);
    }
    let pidfd = PidFd::open(ppid).map_err(unreadable)?;
    let info = pidfd.info().map_err(unreadable)?;
    // Still its child: so the number was the parent's when it was opened.
    if child.info().map_err(unreadable)?.ppid != ppid {
        return Err("its parents change while they are looked at".to_owned());
    }
    Ok(Some(Process {
        pid: ppid,
        pidfd: Arc::new(pidfd),
        uid: info.ruid,
        gid: info.rgid,
        reach: Reach::Full,
        program: None,
    }))
}

fn program_of(parent: &Process) -> Result<OsString, String> {
    let dir = ProcDir::open(parent).map_err(|error| error.to_string())?;
    let executable = dir.executable().map_err(|error| error.to_string())?;
    let executable = executable.map_err(|error| format!("its executable cannot be opened: {error}"))?;
    let path = path_here(&dir, &executable)?;
    dir.still_alive().map_err(|error| error.to_string())?;
    Ok(path)
}
