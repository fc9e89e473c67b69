//! Which user namespace owns another namespace: the owner's root can forge ids within it.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::{SysError, raw};

/// A namespace, by the inode that `/proc/PID/ns/*` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceId {
    /// Device of the kernel's namespace file system.
    pub dev: u64,
    /// Inode of the namespace.
    pub ino: u64,
}

/// The user namespace that owns `ns`, an open `/proc/PID/ns/pid` (or another kind that has an owner).
///
/// # Errors
/// `NotPermitted` where the owner is not the caller's user namespace or one below it; `Call` where
/// `ns` is no namespace.
pub fn user_namespace_of(ns: impl AsFd) -> Result<NamespaceId, SysError> {
    let owner = raw::ns_get_userns(ns.as_fd()).map_err(|errno| match errno {
        Errno::EPERM => SysError::NotPermitted {
            call: "NS_GET_USERNS",
        },
        other => SysError::of_call("NS_GET_USERNS", other),
    })?;
    let stat = fstat(&owner).map_err(|errno| SysError::of_call("fstat of a namespace", errno))?;
    Ok(NamespaceId {
        dev: stat.st_dev,
        ino: stat.st_ino,
    })
}
