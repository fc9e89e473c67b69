//! The presence proof (DESIGN §5.4): an HTTP/2 PING with a nonce, whose answer the connector itself must write.
//! Who wrote a request may be another program by the time that it is measured; a program that was put in its
//! place knows nothing of the connection and does not answer. `GuardedStream` lets nobody but the connector
//! write, so an answer that it reads is the connector's. What to make of no answer is not decided here.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

use super::frames::{FrameWriter, PING_BYTES, PingPayload};

/// PINGs without an answer that are remembered for each connection, so that a late answer is still known as ours.
const MAX_UNANSWERED: usize = 128;

/// Why a connector's presence is not proved.
#[derive(Debug, thiserror::Error)]
pub enum PresenceError {
    /// It did not answer the PING in time.
    #[error("the calling process did not answer an HTTP/2 PING within {} ms", within.as_millis())]
    NoAnswer {
        /// How long it had.
        within: Duration,
    },
    /// The PING could not be written.
    #[error("the connection of the calling process has failed")]
    Connection(#[source] io::Error),
    /// There is no nonce to be had.
    #[error("the system gives no random numbers")]
    Random,
}

/// Asks the process at the other end of a guarded connection to answer. Also the connection's writing half, for
/// PINGs and the HTTP/2 server's frames must not mix.
#[derive(Debug)]
pub struct Presence {
    socket: Arc<UnixStream>,
    outgoing: Mutex<Outgoing>,
    /// The server's output has come to a gap that a PING waits for.
    gap: Notify,
}

#[derive(Debug, Default)]
struct Outgoing {
    server: FrameWriter,
    /// Has not left yet: calls that come now share it.
    waiting: Option<Ping>,
    /// What is left of a PING that is partly written.
    leaving: Vec<u8>,
    unanswered: VecDeque<Ping>,
}

#[derive(Debug)]
struct Ping {
    nonce: PingPayload,
    answered: watch::Sender<bool>,
}

/// What became of the PINGs that were to leave.
enum Left {
    /// They have.
    All,
    /// The server is in the middle of a frame: it writes on, and then tells.
    NoGap,
    /// The socket is full.
    Full,
}

impl Presence {
    pub(super) fn new(socket: Arc<UnixStream>) -> Self {
        Self {
            socket,
            outgoing: Mutex::default(),
            gap: Notify::new(),
        }
    }

    /// Waits until the connector has answered a PING that left after this call came.
    ///
    /// # Errors
    /// [`PresenceError`]; whoever rests on the connector's presence must refuse.
    pub async fn prove(&self, within: Duration) -> Result<(), PresenceError> {
        let mut answered = self.ask()?;
        let asking = async {
            self.send().await.map_err(PresenceError::Connection)?;
            match answered.wait_for(|answered| *answered).await {
                Ok(_) => Ok(()),
                // Forgotten among too many that were not answered.
                Err(_) => Err(PresenceError::NoAnswer { within }),
            }
        };
        match tokio::time::timeout(within, asking).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(PresenceError::NoAnswer { within }),
        }
    }

    /// Joins the PING that has not left yet, or makes one.
    fn ask(&self) -> Result<watch::Receiver<bool>, PresenceError> {
        let mut outgoing = self.lock();
        if let Some(waiting) = &outgoing.waiting {
            return Ok(waiting.answered.subscribe());
        }
        let mut nonce = [0; PING_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| PresenceError::Random)?;
        let (answered, seen) = watch::channel(false);
        outgoing.waiting = Some(Ping { nonce, answered });
        Ok(seen)
    }

    /// Writes what waits, as soon as it may be written.
    async fn send(&self) -> io::Result<()> {
        loop {
            let gap = self.gap.notified();
            tokio::pin!(gap);
            gap.as_mut().enable();
            match self.leave()? {
                Left::All => return Ok(()),
                Left::NoGap => gap.await,
                Left::Full => self.socket.writable().await?,
            }
        }
    }

    fn leave(&self) -> io::Result<Left> {
        self.lock().leave(&self.socket)
    }

    /// Whether this is the answer to a PING of ours. To be asked only of what the connector wrote.
    pub(super) fn claim(&self, payload: &PingPayload) -> bool {
        let mut outgoing = self.lock();
        let found = outgoing.unanswered.iter().position(|ping| ping.nonce == *payload);
        match found.and_then(|at| outgoing.unanswered.remove(at)) {
            Some(ping) => {
                ping.answered.send_replace(true);
                true
            }
            None => false,
        }
    }

    /// Writes for the HTTP/2 server.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match self.write(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut outgoing = self.lock();
        let count = match outgoing.leave(&self.socket)? {
            Left::Full => return Err(io::ErrorKind::WouldBlock.into()),
            Left::All => self.socket.try_write_vectored(parts)?,
            Left::NoGap => {
                let part = parts.iter().find(|part| !part.is_empty());
                let part = part.map(|part| &**part).unwrap_or_default();
                let until = outgoing.server.until_gap(part);
                self.socket.try_write(part.get(..until).unwrap_or(part))?
            }
        };
        let mut left = count;
        for part in parts {
            let written = part.get(..left).unwrap_or(part);
            outgoing.server.wrote(written);
            left -= written.len();
        }
        let told = outgoing.waiting.is_some() && outgoing.server.at_gap();
        drop(outgoing);
        if told {
            self.gap.notify_waiters();
        }
        Ok(count)
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outgoing {
    /// Lets the PING that waits leave, if it may.
    fn leave(&mut self, socket: &UnixStream) -> io::Result<Left> {
        if self.leaving.is_empty() {
            if self.waiting.is_none() {
                return Ok(Left::All);
            }
            if !self.server.at_gap() {
                return Ok(Left::NoGap);
            }
            if let Some(ping) = self.waiting.take() {
                self.leaving = FrameWriter::ping(&ping.nonce);
                if self.unanswered.len() == MAX_UNANSWERED {
                    self.unanswered.pop_front();
                }
                self.unanswered.push_back(ping);
            }
        }
        while !self.leaving.is_empty() {
            match socket.try_write(&self.leaving) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.leaving.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Left::Full),
                Err(error) => return Err(error),
            }
        }
        Ok(Left::All)
    }
}
