//! Where a process stands: its working directory, who could change what it runs, and whether others may look into it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use vouchsafe_attestors::{Evidence, Process, Trust, WorkloadAttestError};
use vouchsafe_sys::{Ids, writable_on_the_way};

use super::NAME;
use super::ask::{CWD, IMMUTABLE, NON_DUMPABLE};
use crate::proc_dir::{Powers, ProcDir, file_id};
use crate::script::{self, Script};
use crate::text::{add, shown};
use crate::unix::path_here;

/// The working directory. A process chooses it, so it is asserted.
pub(super) fn cwd(evidence: &mut Evidence, dir: &ProcDir<'_>) {
    match script::cwd(dir) {
        Ok(path) => add(evidence, Trust::Asserted, NAME, "cwd", &path),
        Err(reason) => evidence.withhold(CWD, reason),
    }
}

/// Whether others of its user are kept from its memory. The kernel gives the files of such a process to root.
pub(super) fn non_dumpable(evidence: &mut Evidence, dir: &ProcDir<'_>, process: &Process) {
    if process.uid == 0 {
        let reason = "a process of root can be looked into by root whatever it is";
        return evidence.withhold(NON_DUMPABLE, reason);
    }
    match dir.owner_of(c"environ") {
        Ok(0) => add(
            evidence,
            Trust::Measured,
            NAME,
            "non_dumpable",
            OsStr::new("true"),
        ),
        Ok(_) => evidence.withhold(NON_DUMPABLE, "others of its user may look into the process"),
        Err(error) => evidence.withhold(
            NON_DUMPABLE,
            format!("the owner of its files cannot be read: {error}"),
        ),
    }
}

/// Whether what it executes, and the script that it says it runs, are out of its user's reach to change.
pub(super) fn immutable(
    evidence: &mut Evidence,
    dir: &ProcDir<'_>,
    exe: &OwnedFd,
    script: Option<&Script>,
) -> Result<(), WorkloadAttestError> {
    let powers = dir.powers()?;
    if let Err(reason) = plain(&powers) {
        evidence.withhold(IMMUTABLE, reason);
        return Ok(());
    }
    let program = path_here(dir, exe).and_then(|path| out_of_reach(Path::new(&path), &powers));
    let of_script = script.map(|script| {
        let path = Path::new(&script.path);
        is_here(path, script)?;
        out_of_reach(path, &powers)
    });
    let program = (Trust::Measured, "program", Some(program));
    for (trust, of, found) in [program, (Trust::Asserted, "script", of_script)] {
        match found {
            Some(Ok(())) => add(evidence, trust, NAME, "immutable", OsStr::new(of)),
            Some(Err(reason)) => evidence.withhold(&format!("{IMMUTABLE}:{of}"), reason),
            None => {}
        }
    }
    Ok(())
}

/// Whether owners and modes bind the process.
pub(super) fn plain(powers: &Powers) -> Result<(), String> {
    let first = powers.uids.first();
    if powers.uids.contains(&0) {
        return Err("root can change every file".to_owned());
    }
    if powers.uids.iter().any(|uid| Some(uid) != first) {
        return Err("it has several user ids".to_owned());
    }
    if powers.capabilities != 0 {
        return Err(format!(
            "it has capabilities ({:#x}), by which it might change any file",
            powers.capabilities
        ));
    }
    Ok(())
}

/// Whether nothing on the way to a path can be changed with these powers.
pub(super) fn out_of_reach(path: &Path, powers: &Powers) -> Result<(), String> {
    let (Some(uid), Some((gid, groups))) = (powers.uids.first(), powers.gids.split_first()) else {
        return Err("its user is not known".to_owned());
    };
    let ids = Ids {
        uid: *uid,
        gid: *gid,
        groups,
    };
    match writable_on_the_way(path, ids) {
        Ok(None) => Ok(()),
        Ok(Some(writable)) => Err(format!(
            "uid {uid} can write to {}, and so change {}",
            shown(writable.as_os_str()),
            shown(path.as_os_str())
        )),
        Err(error) => Err(format!(
            "{} cannot be looked at: {error}",
            shown(path.as_os_str())
        )),
    }
}

/// Whether a path is that file in the agent's own mount namespace too, which alone the agent can look at from the root down.
fn is_here(path: &Path, file: &Script) -> Result<(), String> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let here = openat2(AT_FDCWD, path, how).map_err(io::Error::from);
    let same = here.and_then(|here| Ok(file_id(here.as_fd())? == file_id(&file.fd)?));
    match same {
        Ok(true) => Ok(()),
        _ => Err(format!(
            "{} is not that file in the agent's mount namespace",
            shown(path.as_os_str())
        )),
    }
}
