//! What a process does to itself before it becomes another program, and the size of a terminal.

use std::ffi::CStr;
use std::os::fd::AsFd;

use crate::{PidFd, SysError, raw};

/// Starts a program as a child that is in a control group from its first instruction on, without an environment and with `input`
/// as its standard input; every other descriptor that is not closed on exec it has too. The caller reaps it. Moving a process there
/// later costs some milliseconds: the kernel waits until nobody forks.
///
/// # Errors
/// Where the kernel refuses, or is older than 5.7. Where the program cannot be executed the child exits with 127.
pub fn spawn_in_group(
    group: impl AsFd,
    program: &CStr,
    arguments: &[&CStr],
    input: impl AsFd,
) -> Result<(i32, PidFd), SysError> {
    let spawned = raw::spawn_in_group(group.as_fd(), program, arguments, input.as_fd());
    let (pid, pidfd) = spawned.map_err(|errno| SysError::of_call("clone3", errno))?;
    Ok((pid, PidFd::from_owned(pidfd)))
}

/// Has every descriptor from `first` on closed by the next exec.
///
/// # Errors
/// `Unsupported` before Linux 5.11.
pub fn close_on_exec_from(first: u32) -> Result<(), SysError> {
    raw::close_on_exec_from(first).map_err(|errno| match errno {
        nix::errno::Errno::ENOSYS | nix::errno::Errno::EINVAL => SysError::Unsupported {
            feature: "close_range with CLOSE_RANGE_CLOEXEC",
            kernel: "5.11",
        },
        other => SysError::of_call("close_range", other),
    })
}

/// Gives each signal its default action and blocks none, as a program expects that a shell starts. (A Rust program
/// ignores SIGPIPE, which an exec would hand on.)
///
/// # Errors
/// Where the kernel refuses.
pub fn default_signals() -> Result<(), SysError> {
    raw::default_signals().map_err(|errno| SysError::of_call("sigaction", errno))
}

/// Whether a file or folder has a POSIX access list, which the group bits of its mode then only bound.
///
/// # Errors
/// Where the file system does not say.
pub fn has_access_list(file: impl AsFd) -> Result<bool, SysError> {
    raw::has_attribute(file.as_fd(), c"system.posix_acl_access")
        .map_err(|errno| SysError::of_call("fgetxattr", errno))
}
