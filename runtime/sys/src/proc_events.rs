//! The kernel's process connector: tells of every exec, exit and change of ids on the machine.
//! Works in the initial PID namespace only; elsewhere the kernel stays silent and `listen` says so.
//! Facts: `linux/cn_proc.h`, `linux/connector.h`, `linux/netlink.h`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, recvfrom, sendto, setsockopt, sockopt};

use crate::raw;

/// Netlink header, then connector header, then the payload.
const NLMSG_HEADER_BYTES: usize = 16;
const CN_MSG_HEADER_BYTES: usize = 20;
const PAYLOAD_AT: usize = NLMSG_HEADER_BYTES + CN_MSG_HEADER_BYTES;

/// Within an event: what, cpu, timestamp, then the event's own fields.
const EVENT_FIELDS_AT: usize = PAYLOAD_AT + 16;

/// The operation, one word, and a request that holds it.
const OPERATION_BYTES: u16 = 4;
const REQUEST_BYTES: u32 = 16 + 20 + 4;

const NLMSG_DONE: u16 = 3;

/// Longest message of the connector, with room for later growth.
const MESSAGE_BYTES: usize = 512;

/// Events that may queue before the kernel begins to drop them (each takes under 1 KiB of kernel memory).
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How long `listen` waits for the kernel's answer, which it gives within the call that asks.
pub const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(500);

/// Why process events cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProcEventsError {
    /// The kernel did not answer: the caller is not in the initial PID and user namespace.
    #[error(
        "the kernel did not acknowledge the listener within {} ms; it does so in the initial PID namespace only",
        ACKNOWLEDGE_WITHIN.as_millis()
    )]
    NotAcknowledged,
    /// The kernel answered with a refusal.
    #[error("listening to process events is not permitted; it needs CAP_NET_ADMIN")]
    NotPermitted,
    /// Events were dropped because they were not read in time: whatever was watched must be looked at again.
    #[error("process events were lost")]
    Lost,
    /// Any other failure of a system call.
    #[error("{call} failed")]
    Call {
        /// What was asked of the kernel.
        call: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

/// Something that happened to a process. Numbers are those of the initial PID namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcEvent {
    /// The process runs another program image now.
    Exec {
        /// Its process id.
        pid: i32,
    },
    /// A thread of the process has another user or group id now.
    Credentials {
        /// Its process id.
        pid: i32,
    },
    /// The process's first thread has ended.
    Exit {
        /// Its process id.
        pid: i32,
    },
    /// Anything else: forks, threads, changes of names.
    Other,
}

/// A listener to process events. Non-blocking: wait for readability of `as_fd`, then drain `next`.
#[derive(Debug)]
pub struct ProcEvents {
    socket: OwnedFd,
}

impl ProcEvents {
    /// Subscribes, and waits for the kernel to acknowledge (at most `ACKNOWLEDGE_WITHIN`).
    ///
    /// # Errors
    /// `NotAcknowledged` outside the initial PID namespace, `NotPermitted` without the privilege.
    pub fn listen() -> Result<Self, ProcEventsError> {
        let socket = raw::connector_socket().map_err(|errno| call("socket", errno))?;
        // More than the default needs a privilege; without it the default must do.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)
                .map_err(|errno| call("SO_RCVBUF", errno))?;
        }
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, libc::CN_IDX_PROC))
            .map_err(|errno| call("bind", errno))?;
        let events = Self { socket };
        let token = next_token();
        let request = listen_request(token);
        sendto(
            events.socket.as_raw_fd(),
            &request,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )
        .map_err(|errno| call("sendto", errno))?;
        events.wait_for_acknowledgement(token)?;
        Ok(events)
    }

    /// The next event, or `None` where there is none yet. Does not wait.
    ///
    /// # Errors
    /// `Lost` where the kernel dropped events; listening goes on.
    pub fn next(&self) -> Result<Option<ProcEvent>, ProcEventsError> {
        Ok(self.next_message()?.map(|message| message.event()))
    }

    fn next_message(&self) -> Result<Option<Message>, ProcEventsError> {
        loop {
            let mut bytes = [0_u8; MESSAGE_BYTES];
            match recvfrom::<NetlinkAddr>(self.socket.as_raw_fd(), &mut bytes) {
                // Only the kernel has port 0; a process cannot pass for it.
                Ok((len, Some(from))) if from.pid() == 0 => {
                    if let Some(message) = bytes.get(..len).and_then(Message::parse) {
                        return Ok(Some(message));
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ENOBUFS) => return Err(ProcEventsError::Lost),
                Err(errno) => return Err(call("recvfrom", errno)),
            }
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a bounded wait for the kernel's answer; no timer runs and no date is read"
    )]
    fn wait_for_acknowledgement(&self, token: u32) -> Result<(), ProcEventsError> {
        let deadline = Instant::now() + ACKNOWLEDGE_WITHIN;
        loop {
            match self.next_message() {
                Ok(Some(message)) => match message.acknowledges(token) {
                    Some(0) => return Ok(()),
                    Some(error) if error == libc::EPERM.cast_unsigned() => {
                        return Err(ProcEventsError::NotPermitted);
                    }
                    Some(error) => {
                        let errno = Errno::from_raw(error.cast_signed());
                        return Err(call("PROC_CN_MCAST_LISTEN", errno));
                    }
                    None => continue,
                },
                Ok(None) => {}
                // A busy machine may overrun us before we are told that we listen.
                Err(ProcEventsError::Lost) => continue,
                Err(error) => return Err(error),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ProcEventsError::NotAcknowledged);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(call("poll", errno)),
            }
        }
    }
}

impl AsFd for ProcEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ProcEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// The fields that we read of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    /// In an answer: the asker's own number plus one. In an event: zero.
    acknowledged: u32,
    what: u32,
    /// First two words of the event's own fields: an error, or a thread and its process.
    first: u32,
    second: u32,
}

impl Message {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let u16_at = |at| Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let u32_at = |at| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let ours = u32_at(0)? as usize <= bytes.len()
            && u16_at(4)? == NLMSG_DONE
            && u32_at(NLMSG_HEADER_BYTES)? == libc::CN_IDX_PROC
            && u32_at(NLMSG_HEADER_BYTES + 4)? == libc::CN_VAL_PROC;
        if !ours {
            return None;
        }
        Some(Self {
            acknowledged: u32_at(NLMSG_HEADER_BYTES + 12)?,
            what: u32_at(PAYLOAD_AT)?,
            first: u32_at(EVENT_FIELDS_AT)?,
            second: u32_at(EVENT_FIELDS_AT + 4)?,
        })
    }

    /// The error (0 for none) of the answer to our request, if this is that answer.
    fn acknowledges(&self, token: u32) -> Option<u32> {
        let ours = self.acknowledged == token.wrapping_add(1);
        (self.what == libc::PROC_EVENT_NONE && ours).then_some(self.first)
    }

    fn event(&self) -> ProcEvent {
        let pid = self.second.cast_signed();
        match self.what {
            libc::PROC_EVENT_EXEC => ProcEvent::Exec { pid },
            libc::PROC_EVENT_UID | libc::PROC_EVENT_GID => ProcEvent::Credentials { pid },
            libc::PROC_EVENT_EXIT if self.first == self.second => ProcEvent::Exit { pid },
            _ => ProcEvent::Other,
        }
    }
}

/// A request to listen: netlink header, connector header, the operation.
fn listen_request(token: u32) -> Vec<u8> {
    let operation = libc::PROC_CN_MCAST_LISTEN.to_ne_bytes();
    let own_pid = nix::unistd::getpid().as_raw().cast_unsigned();
    let mut bytes = Vec::with_capacity(REQUEST_BYTES as usize);
    let mut put = |field: &[u8]| bytes.extend_from_slice(field);
    // Netlink: length, type, flags, sequence, port.
    put(&REQUEST_BYTES.to_ne_bytes());
    put(&NLMSG_DONE.to_ne_bytes());
    put(&0_u16.to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    put(&own_pid.to_ne_bytes());
    // Connector: id, sequence, acknowledgement, payload length, flags.
    put(&libc::CN_IDX_PROC.to_ne_bytes());
    put(&libc::CN_VAL_PROC.to_ne_bytes());
    put(&0_u32.to_ne_bytes());
    put(&token.to_ne_bytes());
    put(&OPERATION_BYTES.to_ne_bytes());
    put(&0_u16.to_ne_bytes());
    put(&operation);
    bytes
}

/// A number of our own, so that the answer to another listener (which reaches us too) is not taken for ours.
fn next_token() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    nix::unistd::getpid().as_raw().cast_unsigned().rotate_left(12) ^ count
}

fn call(call: &'static str, errno: Errno) -> ProcEventsError {
    match errno {
        Errno::EPERM | Errno::EACCES => ProcEventsError::NotPermitted,
        other => ProcEventsError::Call {
            call,
            source: other.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(what: u32, first: u32, second: u32) -> Vec<u8> {
        let mut bytes = vec![0_u8; EVENT_FIELDS_AT + 24];
        let len = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&NLMSG_DONE.to_ne_bytes());
        for (at, value) in [
            (NLMSG_HEADER_BYTES, libc::CN_IDX_PROC),
            (NLMSG_HEADER_BYTES + 4, libc::CN_VAL_PROC),
            (NLMSG_HEADER_BYTES + 12, 78),
            (PAYLOAD_AT, what),
            (EVENT_FIELDS_AT, first),
            (EVENT_FIELDS_AT + 4, second),
        ] {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn messages_that_are_cut_or_foreign_are_no_events() {
        let whole = message(libc::PROC_EVENT_EXEC, 5, 5);
        for len in 0..EVENT_FIELDS_AT + 8 {
            assert_eq!(Message::parse(&whole[..len]), None, "{len} bytes");
        }
        let mut foreign = whole.clone();
        foreign[NLMSG_HEADER_BYTES] = 9;
        assert_eq!(Message::parse(&foreign), None);
    }

    #[test]
    fn a_thread_that_ends_is_not_its_process_ending() {
        let event = |bytes: &[u8]| Message::parse(bytes).unwrap().event();
        assert_eq!(event(&message(libc::PROC_EVENT_EXIT, 9, 5)), ProcEvent::Other);
        assert_eq!(
            event(&message(libc::PROC_EVENT_EXIT, 5, 5)),
            ProcEvent::Exit { pid: 5 }
        );
        assert_eq!(
            event(&message(libc::PROC_EVENT_EXEC, 5, 5)),
            ProcEvent::Exec { pid: 5 }
        );
        assert_eq!(event(&message(libc::PROC_EVENT_FORK, 5, 5)), ProcEvent::Other);
    }

    #[test]
    fn a_thread_that_changes_its_ids_is_told_by_its_process() {
        for what in [libc::PROC_EVENT_UID, libc::PROC_EVENT_GID] {
            let event = Message::parse(&message(what, 9, 5)).unwrap().event();
            assert_eq!(event, ProcEvent::Credentials { pid: 5 });
        }
    }

    #[test]
    fn the_answer_to_another_listener_is_not_ours() {
        let answer = Message::parse(&message(libc::PROC_EVENT_NONE, 0, 0)).unwrap();
        assert_eq!(answer.acknowledges(77), Some(0));
        assert_eq!(answer.acknowledges(78), None);
    }
}
