//! The fenced module: every unsafe block of the workspace, each a thin wrapper of one system call
//! that neither the standard library nor nix offers; and tokio's registration of a descriptor.
#![expect(
    unsafe_code,
    reason = "system calls that std and nix do not wrap: clone3, pidfd_open, PIDFD_GET_INFO, pidfd_send_signal, close_range, TIOCSWINSZ, NS_GET_USERNS, SCM_PIDFD, NETLINK_CONNECTOR; ownership of passed descriptors; default signal handlers; and tokio's AsyncFd, whose safe constructors are deprecated as unsound"
)]

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, cmsg_space, recvmsg};
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::OneDescriptor;

/// `SCM_PIDFD`: control message type of a sender's pidfd (Linux 6.5).
const SCM_PIDFD: libc::c_int = 4;

/// Most descriptors that one message can carry (the kernel's `SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;

/// Room for the sender's credentials, its pidfd and as many descriptors as a message can carry.
const CONTROL_BYTES: usize = 64 + 64 + SCM_MAX_FD * size_of::<RawFd>();

sockopt_impl!(
    /// Each received message comes with a pidfd of its sender.
    PassPidfd,
    Both,
    libc::SOL_SOCKET,
    libc::SO_PASSPIDFD,
    bool
);

/// `CLONE_INTO_CGROUP` (Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a child exits with that could not become its program, as a shell says it.
const NOT_EXECUTED: libc::c_int = 127;

/// What one `recvmsg` gave.
#[derive(Debug)]
pub(crate) struct RawReceived {
    pub(crate) len: usize,
    pub(crate) control_truncated: bool,
    pub(crate) sender: Option<libc::ucred>,
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// A control buffer aligned as the kernel's message headers are.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; CONTROL_BYTES],
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns or closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn pidfd_open(pid: libc::pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0_u32) })
}

/// Starts a program in a control group, without an environment; `input` is its standard input.
pub(crate) fn spawn_in_group(
    group: BorrowedFd<'_>,
    program: &CStr,
    arguments: &[&CStr],
    input: BorrowedFd<'_>,
) -> Result<(libc::pid_t, OwnedFd), Errno> {
    let mut argv: Vec<*const libc::c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
    argv.push(ptr::null());
    let environment = [ptr::null::<libc::c_char>()];
    let (group, input) = (group.as_raw_fd(), input.as_raw_fd());
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args consists of integers, for which all-zero bytes are a value.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.flags = CLONE_INTO_CGROUP | libc::CLONE_PIDFD as u64;
    how.exit_signal = libc::SIGCHLD as u64;
    how.cgroup = group as u64;
    how.pidfd = (&raw mut pidfd) as u64;
    // SAFETY: without CLONE_VM and a stack this is a fork: the child has a copy of all memory and goes on from here. `how` and
    // `pidfd` live during the call, which writes the latter.
    let pid = Errno::result(unsafe {
        libc::syscall(libc::SYS_clone3, &raw const how, size_of::<libc::clone_args>())
    })?;
    if pid == 0 {
        // SAFETY: the child, which may be of a process with other threads, only makes system calls, on descriptors and texts that
        // were there before; `argv` and `environment` end with a null pointer, and their texts with a NUL.
        unsafe {
            if libc::dup2(input, libc::STDIN_FILENO) == libc::STDIN_FILENO {
                libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr());
            }
            libc::_exit(NOT_EXECUTED)
        }
    }
    let pid = libc::pid_t::try_from(pid).map_err(|_| Errno::ESRCH)?;
    Ok((pid, owned(libc::c_long::from(pidfd))?))
}

pub(crate) fn pidfd_info(fd: BorrowedFd<'_>) -> Result<libc::pidfd_info, Errno> {
    // SAFETY: pidfd_info consists of integers, for which all-zero bytes are a value.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_PID | libc::PIDFD_INFO_CREDS | libc::PIDFD_INFO_CGROUPID);
    // SAFETY: the request's number carries the size of pidfd_info, so the kernel writes no further
    // than `info`, which lives and is borrowed by nobody else during the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    Errno::result(result).map(|_| info)
}

pub(crate) fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: libc::c_int) -> Result<(), Errno> {
    let nothing = ptr::null::<libc::siginfo_t>();
    // SAFETY: with no siginfo the call takes integers only and touches no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            nothing,
            0_u32,
        )
    };
    Errno::result(result).map(drop)
}

pub(crate) fn close_on_exec_from(first: libc::c_uint) -> Result<(), Errno> {
    let flag = libc::c_int::try_from(libc::CLOSE_RANGE_CLOEXEC).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the call closes nothing: it sets a flag of descriptors, which their owners do not see.
    Errno::result(unsafe { libc::close_range(first, libc::c_uint::MAX, flag) }).map(drop)
}

pub(crate) fn has_attribute(file: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    // SAFETY: `name` ends with a NUL; with a length of 0 the kernel writes no value.
    let len = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), ptr::null_mut(), 0) };
    match Errno::result(len) {
        Ok(_) => Ok(true),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives each signal its default action and blocks none.
pub(crate) fn default_signals() -> Result<(), Errno> {
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe {
            sigaction(
                signal,
                &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty()),
            )
        }?;
    }
    SigSet::empty().thread_set_mask()
}

/// One blocking `recvmsg` with the descriptors that came along, at most `most`.
pub(crate) fn receive_descriptors(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    most: usize,
) -> Result<(usize, Vec<OwnedFd>, bool), Errno> {
    let mut control = vec![0; cmsg_space::<RawFd>() * most.max(1)];
    let mut parts = [io::IoSliceMut::new(buf)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut descriptors = Vec::new();
    for header in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(passed) = header {
            // SAFETY: received just now and for us; each is owned here and nowhere else.
            descriptors.extend(passed.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let cut = message.flags.contains(MsgFlags::MSG_CTRUNC);
    Ok((message.bytes, descriptors, cut))
}

pub(crate) fn ns_get_userns(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor.
    owned(libc::c_long::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), libc::NS_GET_USERNS)
    }))
}

pub(crate) fn connector_socket() -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_CONNECTOR) };
    owned(libc::c_long::from(fd))
}

/// Registers a descriptor for readability with tokio's reactor.
pub(crate) fn register_readable<T: OneDescriptor>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: OneDescriptor is sealed; its types own their descriptor and never exchange or close it while
    // they live, and `Watched` gives out shared references only.
    Ok(unsafe { AsyncFd::register_with_interest(inner, Interest::READABLE) }?)
}

/// One non-blocking `recvmsg` with the sender's credentials, its pidfd and the descriptors that it passed along.
pub(crate) fn receive(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<RawReceived> {
    let mut control = Control {
        bytes: [0; CONTROL_BYTES],
    };
    let mut part = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    // SAFETY: msghdr consists of integers and pointers, for which all-zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    let len = loop {
        // SAFETY: `message` points to `part` and `control`, which outlive the call, with their true
        // lengths; `part` covers `buf`, which we hold exclusively.
        match Errno::result(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) }) {
            Ok(len) => break usize::try_from(len).unwrap_or(0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut received = RawReceived {
        len,
        control_truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
        sender: None,
        pidfd: None,
        descriptors: Vec::new(),
    };
    // SAFETY: the kernel has filled `message` and set msg_controllen to what it wrote, so the
    // headers that CMSG_FIRSTHDR and CMSG_NXTHDR find lie within `control`, and each says how many
    // bytes follow it. Descriptors in them were made for us by this call: each is owned once.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            take_control(&mut received, &*header, libc::CMSG_DATA(header));
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(received)
}

/// Takes one control message into `received`.
///
/// # Safety
/// `data` must point to the bytes that `header` announces, and descriptors among them must be owned
/// by nobody else.
unsafe fn take_control(received: &mut RawReceived, header: &libc::cmsghdr, data: *const u8) {
    // SAFETY: CMSG_LEN only computes.
    let head = unsafe { libc::CMSG_LEN(0) } as usize;
    let len = header.cmsg_len.saturating_sub(head);
    if header.cmsg_level != libc::SOL_SOCKET {
        return;
    }
    match header.cmsg_type {
        libc::SCM_CREDENTIALS if len >= size_of::<libc::ucred>() => {
            // SAFETY: at least a ucred's bytes stand at `data`; ucred consists of integers.
            received.sender = Some(unsafe { ptr::read_unaligned(data.cast()) });
        }
        SCM_PIDFD | libc::SCM_RIGHTS => {
            for index in 0..len / size_of::<RawFd>() {
                // SAFETY: `index` stays within the `len` bytes at `data`.
                let fd: RawFd = unsafe { ptr::read_unaligned(data.cast::<RawFd>().add(index)) };
                // A negative value stands where the kernel could make no pidfd.
                if fd < 0 {
                    continue;
                }
                // SAFETY: received just now and for us; owned here and nowhere else.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                if header.cmsg_type == SCM_PIDFD {
                    received.pidfd = Some(fd);
                } else {
                    received.descriptors.push(fd);
                }
            }
        }
        _ => {}
    }
}
