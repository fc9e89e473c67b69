//! Follows the frames that our own HTTP/2 server writes, to say where a frame that it knows nothing of may be
//! put in: between two frames, after its first one (RFC 9113 §3.4), and never within a header block (§6.10).
//! Sans-IO, and no judge: what the server writes is taken to be right.

use super::{ACK, CONTINUATION, END_HEADERS, HEAD_BYTES, HEADERS, Head, PING, PING_BYTES, PingPayload};

/// First frame of a header block that a server may also begin with (RFC 9113 §6.6).
const PUSH_PROMISE: u8 = 0x5;

/// Where in its frames a server's output stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameWriter {
    head: [u8; HEAD_BYTES],
    /// How much of the head was written; 0 between two frames.
    head_bytes: usize,
    /// How much of the payload was not written yet.
    left: usize,
    begun: bool,
    in_block: bool,
}

impl FrameWriter {
    /// Nothing was written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether another frame may stand here.
    #[must_use]
    pub fn at_gap(&self) -> bool {
        self.begun && !self.in_block && self.head_bytes == 0
    }

    /// How many of these bytes come before the next place where another frame may stand: all where there is none.
    #[must_use]
    pub fn until_gap(&self, bytes: &[u8]) -> usize {
        let mut ahead = *self;
        let mut rest = bytes;
        while !rest.is_empty() && (rest.len() == bytes.len() || !ahead.at_gap()) {
            rest = ahead.step(rest);
        }
        bytes.len() - rest.len()
    }

    /// Takes note of bytes that were written.
    pub fn wrote(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest);
        }
    }

    /// A PING frame (RFC 9113 §6.7).
    #[must_use]
    pub fn ping(payload: &PingPayload) -> Vec<u8> {
        control(PING, 0, payload)
    }

    /// The answer to a PING.
    #[must_use]
    pub fn ping_answer(payload: &PingPayload) -> Vec<u8> {
        control(PING, ACK, payload)
    }

    /// Goes over what is left of the frame's head, or of its payload; returns the rest.
    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.head_bytes < HEAD_BYTES {
            let place = self.head.get_mut(self.head_bytes..).unwrap_or_default();
            let taken = place.len().min(bytes.len());
            for (to, from) in place.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.head_bytes += taken;
            if self.head_bytes == HEAD_BYTES {
                self.left = Head::parse(&self.head).len;
                self.end_if_whole();
            }
            return bytes.get(taken..).unwrap_or_default();
        }
        let taken = self.left.min(bytes.len());
        self.left -= taken;
        self.end_if_whole();
        bytes.get(taken..).unwrap_or_default()
    }

    fn end_if_whole(&mut self) {
        if self.left > 0 {
            return;
        }
        let head = Head::parse(&self.head);
        if matches!(head.kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.in_block = head.flags & END_HEADERS == 0;
        }
        self.head_bytes = 0;
        self.begun = true;
    }
}

/// A frame of the whole connection, with eight bytes of payload.
fn control(kind: u8, flags: u8, payload: &PingPayload) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + PING_BYTES);
    frame.extend_from_slice(&[0, 0, 8, kind, flags, 0, 0, 0, 0]);
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = u8::try_from(payload.len()).unwrap();
        let mut frame = vec![0, 0, len, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    #[test]
    fn nothing_stands_before_the_servers_first_frame() {
        let mut writer = FrameWriter::new();
        assert!(!writer.at_gap());
        writer.wrote(&SETTINGS[..8]);
        assert!(!writer.at_gap());
        writer.wrote(&SETTINGS[8..]);
        assert!(writer.at_gap());
    }

    #[test]
    fn nothing_stands_within_a_frame_or_a_header_block() {
        let mut writer = FrameWriter::new();
        writer.wrote(&SETTINGS);
        let block = [
            frame(HEADERS, 0, b"abc"),
            frame(CONTINUATION, 0, b""),
            frame(CONTINUATION, END_HEADERS, b"de"),
        ]
        .concat();
        for (count, byte) in block.iter().enumerate() {
            assert_eq!(writer.until_gap(&block[count..]), block.len() - count);
            writer.wrote(&[*byte]);
            assert_eq!(writer.at_gap(), count + 1 == block.len(), "after {count} bytes");
        }
    }

    #[test]
    fn the_next_gap_is_found_in_what_is_to_be_written() {
        let mut writer = FrameWriter::new();
        let data = frame(0, 0, b"12345");
        let both = [&SETTINGS[..], &data, &data].concat();
        assert_eq!(writer.until_gap(&both), 9);
        writer.wrote(&both[..12]);
        assert_eq!(writer.until_gap(&both[12..]), 9 + 14 - 12);
        assert_eq!(writer.until_gap(&both[12..15]), 3, "no gap within these");
        assert_eq!(writer.until_gap(&[]), 0);
    }
}
