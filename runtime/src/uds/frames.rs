//! A reader of HTTP/2 frames beneath the gRPC server, for unix sockets. It mends `:authority`: many gRPC
//! libraries put the socket's path there (`tmp%2Fx%2Fagent.sock`), which hyper's HTTP/2 refuses.
//! Sans-IO: bytes in, as many bytes out, in the same frames, but for answers to PINGs that are claimed (those
//! of the presence proof, DESIGN §5.4). `writer` follows the frames that go the other way.
//! Clauses are of RFC 9113 (HTTP/2) and RFC 7541 (HPACK).

mod hpack;
mod huffman;
mod writer;

use std::ops::Range;

pub use hpack::HpackError;
use hpack::Names;
pub use writer::FrameWriter;

/// Largest payload of a frame, in bytes (RFC 9113 §4.2: the initial SETTINGS_MAX_FRAME_SIZE, which our
/// servers do not raise).
pub const MAX_FRAME_BYTES: usize = 16_384;

/// Most bytes of one header block, frame heads included, that are held until it is whole.
pub const MAX_HEADER_BLOCK_BYTES: usize = 64 * 1024;

/// Most CONTINUATION frames of one header block.
pub const MAX_CONTINUATION_FRAMES: usize = 16;

/// What a client's HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length (3), type (1), flags (1), stream (4): RFC 9113 §4.1.
const HEAD_BYTES: usize = 9;

const HEADERS: u8 = 0x1;
const PING: u8 = 0x6;
const CONTINUATION: u8 = 0x9;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Bytes that a PING carries (RFC 9113 §6.7).
pub const PING_BYTES: usize = 8;

/// What a PING carries and its answer repeats.
pub type PingPayload = [u8; PING_BYTES];

/// Bytes that PRIORITY puts before a header block (RFC 9113 §6.2).
const PRIORITY_BYTES: usize = 5;

/// Why a client's bytes cannot be read further. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The connection does not begin with HTTP/2's preface; another protocol, HTTP/1 perhaps.
    #[error("the client does not speak HTTP/2 from the first byte on; use a gRPC client")]
    NotHttp2,
    /// A frame is longer than the server allowed.
    #[error("a frame of {len} bytes exceeds the limit of {MAX_FRAME_BYTES} bytes")]
    FrameTooLarge {
        /// The payload's length that the frame announced.
        len: usize,
    },
    /// A header block is longer than we hold.
    #[error("a header block exceeds the limit of {MAX_HEADER_BLOCK_BYTES} bytes")]
    HeaderBlockTooLarge,
    /// A header block comes in too many pieces.
    #[error("a header block exceeds the limit of {MAX_CONTINUATION_FRAMES} CONTINUATION frames")]
    TooManyContinuations,
    /// Another frame stands between the pieces of a header block (RFC 9113 §6.10).
    #[error("a frame of another kind or stream interrupts a header block")]
    Interleaved,
    /// A CONTINUATION frame continues nothing (RFC 9113 §6.10).
    #[error("a CONTINUATION frame follows no header block")]
    LoneContinuation,
    /// A HEADERS frame is shorter than its padding and priority need (RFC 9113 §6.2).
    #[error("a HEADERS frame is shorter than its padding and priority")]
    Padding,
    /// A header block is not HPACK.
    #[error(transparent)]
    Hpack(#[from] HpackError),
}

/// Reads one connection's bytes from its client.
#[derive(Debug)]
pub struct FrameReader {
    state: State,
    /// The head of the frame that is being read; within a header block all its frames so far.
    held: Vec<u8>,
    /// Where in `held` the current frame begins.
    frame_at: usize,
    block: Option<Block>,
    names: Names,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Preface {
        seen: usize,
    },
    Head,
    /// A frame's payload, given on as it comes.
    Passing {
        left: usize,
    },
    /// The payload of a HEADERS or CONTINUATION frame, held.
    Holding {
        left: usize,
        head: Head,
    },
    /// The payload of an answer to a PING, held.
    Answer {
        left: usize,
    },
    Failed(FrameError),
}

#[derive(Debug, Clone, Copy)]
struct Head {
    len: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A header block that is not whole yet.
#[derive(Debug)]
struct Block {
    stream: u32,
    continuations: usize,
    /// Where in `held` the pieces of the block stand.
    fragments: Vec<Range<usize>>,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameReader {
    /// A reader for a connection of which no byte was read yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Preface { seen: 0 },
            held: Vec::new(),
            frame_at: 0,
            block: None,
            names: Names::default(),
        }
    }

    /// How many bytes were taken in and not yet given on.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes in bytes as they came, and appends to `out` what may go on to the HTTP/2 server. What stands
    /// before an error goes on; how the bytes were cut into chunks makes no difference.
    ///
    /// # Errors
    /// The connection must end; the same error comes for ever after.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), FrameError> {
        self.push_claiming(input, out, &mut |_| false)
    }

    /// The same; `claim` is asked about each whole answer to a PING, and those that it claims do not go on.
    ///
    /// # Errors
    /// As [`FrameReader::push`].
    pub fn push_claiming(
        &mut self,
        mut input: &[u8],
        out: &mut Vec<u8>,
        claim: &mut dyn FnMut(&PingPayload) -> bool,
    ) -> Result<(), FrameError> {
        while !input.is_empty() {
            let step = self.step(input, out, claim);
            match step {
                Ok(rest) => input = rest,
                Err(error) => self.state = State::Failed(error),
            }
            step?;
        }
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes what the current state wants of `input`, and returns the rest.
    fn step<'a>(
        &mut self,
        input: &'a [u8],
        out: &mut Vec<u8>,
        claim: &mut dyn FnMut(&PingPayload) -> bool,
    ) -> Result<&'a [u8], FrameError> {
        match self.state {
            State::Failed(error) => Err(error),
            State::Preface { seen } => {
                let wanted = PREFACE.get(seen..).unwrap_or_default();
                let (taken, rest) = take(input, wanted.len());
                let agreeing = taken
                    .iter()
                    .zip(wanted)
                    .take_while(|(is, should)| is == should)
                    .count();
                out.extend(taken.iter().take(agreeing));
                if agreeing < taken.len() {
                    return Err(FrameError::NotHttp2);
                }
                let seen = seen + agreeing;
                self.state = if seen == PREFACE.len() {
                    State::Head
                } else {
                    State::Preface { seen }
                };
                Ok(rest)
            }
            State::Head => {
                let (taken, rest) = take(input, self.frame_at + HEAD_BYTES - self.held.len());
                self.held.extend_from_slice(taken);
                if self.held.len() == self.frame_at + HEAD_BYTES {
                    self.begin_frame(out)?;
                }
                Ok(rest)
            }
            State::Passing { left } => {
                let (taken, rest) = take(input, left);
                out.extend_from_slice(taken);
                self.state = after_passing(left - taken.len());
                Ok(rest)
            }
            State::Holding { left, head } => {
                let (taken, rest) = take(input, left);
                self.held.extend_from_slice(taken);
                let left = left - taken.len();
                self.state = State::Holding { left, head };
                if left == 0 {
                    self.end_held_frame(head, out)?;
                }
                Ok(rest)
            }
            State::Answer { left } => {
                let (taken, rest) = take(input, left);
                self.held.extend_from_slice(taken);
                let left = left - taken.len();
                self.state = State::Answer { left };
                if left == 0 {
                    self.end_answer(out, claim);
                }
                Ok(rest)
            }
        }
    }

    /// An answer to a PING is whole: it is claimed, or goes on.
    fn end_answer(&mut self, out: &mut Vec<u8>, claim: &mut dyn FnMut(&PingPayload) -> bool) {
        let payload = self.held.get(HEAD_BYTES..).and_then(<[u8]>::first_chunk);
        if !payload.is_some_and(claim) {
            out.extend_from_slice(&self.held);
        }
        self.held = Vec::new();
        self.state = State::Head;
    }

    /// Decides by a frame's head what becomes of it.
    fn begin_frame(&mut self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let bytes = self.held.get(self.frame_at..).and_then(<[u8]>::first_chunk);
        let Some(head) = bytes.map(Head::parse) else {
            return Ok(());
        };
        if head.len > MAX_FRAME_BYTES {
            return Err(FrameError::FrameTooLarge { len: head.len });
        }
        match (&mut self.block, head.kind) {
            (Some(block), CONTINUATION) if block.stream == head.stream => {
                block.continuations += 1;
                if block.continuations > MAX_CONTINUATION_FRAMES {
                    return Err(FrameError::TooManyContinuations);
                }
            }
            (Some(_), _) => return Err(FrameError::Interleaved),
            (None, CONTINUATION) => return Err(FrameError::LoneContinuation),
            (None, HEADERS) => {
                self.block = Some(Block {
                    stream: head.stream,
                    continuations: 0,
                    fragments: Vec::with_capacity(1),
                });
            }
            (None, PING) if head.is_answer() => {
                self.state = State::Answer { left: PING_BYTES };
                return Ok(());
            }
            (None, _) => {
                out.append(&mut self.held);
                self.state = after_passing(head.len);
                return Ok(());
            }
        }
        if self.held.len() + head.len > MAX_HEADER_BLOCK_BYTES {
            return Err(FrameError::HeaderBlockTooLarge);
        }
        self.state = State::Holding { left: head.len, head };
        if head.len == 0 {
            self.end_held_frame(head, out)?;
        }
        Ok(())
    }

    /// Notes where a held frame has its piece of the header block; a whole block is mended and goes on.
    fn end_held_frame(&mut self, head: Head, out: &mut Vec<u8>) -> Result<(), FrameError> {
        let payload_at = self.frame_at + HEAD_BYTES;
        let payload = self.held.get(payload_at..).unwrap_or_default();
        let piece = head.fragment(payload)?;
        self.frame_at = self.held.len();
        self.state = State::Head;
        if let Some(block) = &mut self.block {
            block
                .fragments
                .push(payload_at + piece.start..payload_at + piece.end);
        }
        if head.flags & END_HEADERS != 0 {
            let fragments = self.block.take().map(|block| block.fragments).unwrap_or_default();
            mend_block(&mut self.held, &fragments, &mut self.names)?;
            out.extend_from_slice(&self.held);
            // A connection that idles keeps no memory for its last request.
            self.held = Vec::new();
            self.frame_at = 0;
        }
        Ok(())
    }
}

impl Head {
    fn parse(bytes: &[u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, stream @ ..] = *bytes;
        Self {
            len: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind,
            flags,
            // The highest bit is reserved.
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    /// Whether it is the whole and right head of an answer to a PING; others are for the HTTP/2 server to refuse.
    fn is_answer(&self) -> bool {
        self.flags & ACK != 0 && self.stream == 0 && self.len == PING_BYTES
    }

    /// Where the piece of the header block stands in the payload.
    fn fragment(&self, payload: &[u8]) -> Result<Range<usize>, FrameError> {
        // Flags mean something else, or nothing, in a CONTINUATION frame.
        if self.kind != HEADERS {
            return Ok(0..payload.len());
        }
        let mut start = 0;
        let mut end = payload.len();
        if self.flags & PADDED != 0 {
            let padding = *payload.first().ok_or(FrameError::Padding)?;
            start += 1;
            end = end.checked_sub(usize::from(padding)).ok_or(FrameError::Padding)?;
        }
        if self.flags & PRIORITY != 0 {
            start += PRIORITY_BYTES;
        }
        if start > end {
            Err(FrameError::Padding)
        } else {
            Ok(start..end)
        }
    }
}

fn after_passing(left: usize) -> State {
    if left == 0 {
        State::Head
    } else {
        State::Passing { left }
    }
}

fn take(input: &[u8], at_most: usize) -> (&[u8], &[u8]) {
    input.split_at_checked(at_most).unwrap_or((input, &[]))
}

/// Mends the header block whose pieces stand at `fragments` of `frames`.
fn mend_block(frames: &mut [u8], fragments: &[Range<usize>], names: &mut Names) -> Result<(), HpackError> {
    if let [fragment] = fragments {
        return hpack::mend(frames.get_mut(fragment.clone()).unwrap_or_default(), names);
    }
    let pieces = fragments
        .iter()
        .filter_map(|fragment| frames.get(fragment.clone()));
    let mut whole = pieces.collect::<Vec<_>>().concat();
    hpack::mend(&mut whole, names)?;
    let mut rest = whole.as_slice();
    for fragment in fragments {
        let (piece, after) = take(rest, fragment.len());
        if let Some(place) = frames.get_mut(fragment.clone()) {
            place.copy_from_slice(piece);
        }
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
