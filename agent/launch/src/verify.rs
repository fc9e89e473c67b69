//! Whether what runs is what was planned. The facts are looked at while the process is held by a pidfd; what they mean
//! for an identity is for the caller.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vouchsafe_sys::{PidFd, SysError};

/// How long a process without a program may take to be told as ended, in milliseconds.
const ENDS_WITHIN: u16 = 1000;

/// What was found otherwise.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It runs another program.
    #[error("it does not run the program that was measured")]
    Program,
    /// Others of its uid can read its memory.
    #[error("it is dumpable: others of its uid could read its memory")]
    Dumpable,
    /// Somebody traces it, who could read and change everything.
    #[error("process {tracer} traces it")]
    Traced {
        /// Who does.
        tracer: i32,
    },
    /// It is in another control group.
    #[error("it is not in its control group")]
    Cgroup,
    /// It has another user.
    #[error("it runs as uid {found}, not {planned}")]
    User {
        /// What was planned.
        planned: u32,
        /// What the kernel says.
        found: u32,
    },
    /// A fact cannot be read.
    #[error("cannot look at it")]
    Unreadable(#[source] io::Error),
    /// It has ended.
    #[error("it has ended")]
    Ended,
}

/// What a process must be like.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Device and inode of its program.
    pub program: Option<(u64, u64)>,
    /// That others of its uid are shut out.
    pub non_dumpable: bool,
    /// The kernel's number of its control group.
    pub cgroup_id: Option<u64>,
    /// Real, effective and saved uid.
    pub uid: Option<u32>,
}

/// Compares a process with what it must be like. A class without isolation still wants no tracer.
///
/// # Errors
/// The first difference; `Ended` where there is nothing left to look at.
pub fn verify(pidfd: &PidFd, wanted: &Wanted) -> Result<(), VerifyError> {
    let looked = look(pidfd, wanted);
    // A process that ends loses its program a moment before its end is told; one that lives keeps it.
    if matches!(&looked, Err(VerifyError::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound) {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let _asked_again_below = poll(&mut fds, PollTimeout::from(ENDS_WITHIN));
    }
    // What is read of a process that has ended says nothing.
    if pidfd.is_alive() {
        looked
    } else {
        Err(VerifyError::Ended)
    }
}

fn look(pidfd: &PidFd, wanted: &Wanted) -> Result<(), VerifyError> {
    let pid = pidfd.pid().map_err(unreadable)?;

    match pidfd.info() {
        Ok(info) => {
            if let Some(planned) = wanted.uid {
                let all = [info.ruid, info.euid, info.suid];
                if let Some(found) = all.into_iter().find(|found| *found != planned) {
                    return Err(VerifyError::User { planned, found });
                }
            }
            if wanted.cgroup_id.is_some() && info.cgroup_id != wanted.cgroup_id {
                return Err(VerifyError::Cgroup);
            }
        }
        Err(error) => return Err(unreadable(error)),
    }
    if let Some(program) = wanted.program {
        let metadata = fs::metadata(format!("/proc/{pid}/exe")).map_err(VerifyError::Unreadable)?;
        if (metadata.dev(), metadata.ino()) != program {
            return Err(VerifyError::Program);
        }
    }
    if wanted.non_dumpable {
        // The files of a dumpable process belong to its user, those of another to root.
        let owner = fs::metadata(format!("/proc/{pid}/environ"))
            .map_err(VerifyError::Unreadable)?
            .uid();
        if owner != 0 {
            return Err(VerifyError::Dumpable);
        }
    }
    untraced(pid)
}

/// Looks at every thread: each can have a tracer of its own.
fn untraced(pid: i32) -> Result<(), VerifyError> {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).map_err(VerifyError::Unreadable)? {
        let status = thread.map_err(VerifyError::Unreadable)?.path().join("status");
        let text = match fs::read_to_string(status) {
            Ok(text) => text,
            // A thread may end while we look.
            Err(error) if matches!(error.raw_os_error(), Some(2 | 3)) => continue,
            Err(error) => return Err(VerifyError::Unreadable(error)),
        };
        let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        match tracer.and_then(|value| value.trim().parse::<i32>().ok()) {
            Some(0) => {}
            Some(tracer) => return Err(VerifyError::Traced { tracer }),
            None => return Err(VerifyError::Unreadable(io::ErrorKind::InvalidData.into())),
        }
    }
    Ok(())
}

fn unreadable(error: SysError) -> VerifyError {
    match error {
        SysError::Gone => VerifyError::Ended,
        other => VerifyError::Unreadable(io::Error::other(other)),
    }
}
