//! Messages between launcher, supervisor and stage: JSON with its length before it, and descriptors beside the first byte.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Marks the begin of a message; the descriptors come with it.
const MARK: u8 = b'V';
/// The largest message: arguments and environment as far as the kernel takes them, written as numbers.
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// The most descriptors with one message.
const MAX_DESCRIPTORS: usize = 8;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Channel(UnixStream);

impl Channel {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(stream)
    }

    pub(crate) fn send<T: Serialize>(
        &mut self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        vouchsafe_sys::send_descriptors(&self.0, &[MARK], descriptors)?;
        self.0.write_all(&len.to_le_bytes())?;
        self.0.write_all(&body)
    }

    /// The next message; nothing at the end.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut mark = [0; 1];
        let received = vouchsafe_sys::receive_descriptors(self.0.as_fd(), &mut mark, MAX_DESCRIPTORS)?;
        if received.len == 0 {
            return Ok(None);
        }
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = usize::try_from(u32::from_le_bytes(len)).map_err(io::Error::other)?;
        if len > MAX_BYTES || mark != [MARK] {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        Ok(Some((serde_json::from_slice(&body)?, received.descriptors)))
    }

    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.set_write_timeout(Some(patience))
    }
}
