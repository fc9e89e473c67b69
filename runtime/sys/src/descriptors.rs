//! Descriptors passed over a unix socket beside bytes.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{SysError, raw};

/// Bytes, and the descriptors that came with them.
#[derive(Debug)]
pub struct Message {
    /// How many bytes were written to the buffer; 0 at the end of the stream.
    pub len: usize,
    /// The descriptors, in the sender's order; each is closed on exec.
    pub descriptors: Vec<OwnedFd>,
}

/// Sends `bytes` with `descriptors`; says how many bytes were taken.
///
/// # Errors
/// Where the other end is closed, or `fd` is no unix socket.
pub fn send_descriptors(
    fd: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> Result<usize, SysError> {
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(
            fd.as_fd().as_raw_fd(),
            &parts,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(|errno| SysError::of_call("sendmsg", errno)),
        }
    }
}

/// Receives bytes with at most `most` descriptors.
///
/// # Errors
/// Where more descriptors came than `most`, or `fd` is no unix socket.
pub fn receive_descriptors(fd: impl AsFd, buf: &mut [u8], most: usize) -> Result<Message, SysError> {
    let received = raw::receive_descriptors(fd.as_fd(), buf, most);
    let (len, descriptors, cut) = received.map_err(|errno| SysError::of_call("recvmsg", errno))?;
    if cut || descriptors.len() > most {
        return Err(SysError::of_call("recvmsg", Errno::EMSGSIZE));
    }
    Ok(Message { len, descriptors })
}
