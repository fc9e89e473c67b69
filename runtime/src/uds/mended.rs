//! Bytes between the socket and the HTTP/2 server: taken in as they come, given on mended.

use tokio::io::ReadBuf;

use super::frames::{FrameError, FrameReader, PingPayload};

/// Most bytes taken from a socket at a time.
pub(super) const CHUNK_BYTES: usize = 8 * 1024;

/// What was read and mended, and not yet given on.
#[derive(Debug, Default)]
pub(super) struct Mended {
    frames: FrameReader,
    ready: Vec<u8>,
    given: usize,
}

impl Mended {
    /// Takes in one chunk. What it holds before an error is still given on.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), FrameError> {
        self.frames.push(chunk, &mut self.ready)
    }

    /// The same; answers to PINGs that are claimed are not given on.
    pub(super) fn push_claiming(
        &mut self,
        chunk: &[u8],
        mut claim: impl FnMut(&PingPayload) -> bool,
    ) -> Result<(), FrameError> {
        self.frames.push_claiming(chunk, &mut self.ready, &mut claim)
    }

    /// Gives on what fits; whether that was anything.
    pub(super) fn give(&mut self, to: &mut ReadBuf<'_>) -> bool {
        let waiting = self.ready.get(self.given..).unwrap_or_default();
        let (now, later) = waiting.split_at_checked(to.remaining()).unwrap_or((waiting, &[]));
        to.put_slice(now);
        let gave = !now.is_empty();
        self.given += now.len();
        if later.is_empty() {
            // A connection that idles keeps no buffer.
            self.ready = Vec::new();
            self.given = 0;
        }
        gave
    }
}
