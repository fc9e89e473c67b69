//! What holds of frames that are put among a server's own, wherever its writes are cut. Shared by the property
//! tests of this package and by the fuzz target under `tests/fuzz`.

use vouchsafe_runtime::uds::frames::FrameWriter;

const HEAD_BYTES: usize = 9;
const PING: &[u8; 8] = b"a nonce!";

/// Cuts frames from random bytes: kind, flags and a short payload each.
pub(crate) fn frames(mut random: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let [kind, flags, len, rest @ ..] = random {
        let (payload, after) = rest.split_at(usize::from(*len % 40).min(rest.len()));
        let len = u8::try_from(payload.len()).unwrap_or(0);
        let mut frame = vec![0, 0, len, kind % 10, *flags, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frames.push(frame);
        random = after;
    }
    frames
}

/// Panics where an invariant does not hold for these frames of a server, written in pieces whose lengths are `cuts`
/// in turn (where the highest bit is set, a PING waits to be put in before that piece).
pub(crate) fn check(frames: &[Vec<u8>], cuts: &[u8]) {
    let bytes = frames.concat();
    let mut writer = FrameWriter::new();
    let mut wire = Vec::new();
    let mut rest = bytes.as_slice();
    let mut cuts = cuts
        .iter()
        .copied()
        .chain([255])
        .collect::<Vec<_>>()
        .into_iter()
        .cycle();
    let mut waiting = 0_usize;
    let mut put_in = 0_usize;
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(1);
        waiting += usize::from(cut >> 7);
        if writer.at_gap() {
            wire.extend(FrameWriter::ping(PING).repeat(waiting));
            put_in += std::mem::take(&mut waiting);
        }
        let mut len = usize::from(cut & 0x7f).clamp(1, rest.len());
        if waiting > 0 {
            len = len.min(writer.until_gap(rest)).max(1);
        }
        let (now, later) = rest.split_at(len);
        writer.wrote(now);
        wire.extend_from_slice(now);
        rest = later;
    }
    let (without, found) = take_out(&wire, frames.first().map_or(0, Vec::len));
    assert_eq!(without, bytes, "the server's own frames have changed");
    assert_eq!(found, put_in, "frames that were put in are not whole");
}

/// Reads the wire frame by frame, and takes out what was put in; panics where that stands at a wrong place.
fn take_out(mut wire: &[u8], first: usize) -> (Vec<u8>, usize) {
    let ours = FrameWriter::ping(PING);
    let (mut without, mut found, mut in_block) = (Vec::new(), 0, false);
    while !wire.is_empty() {
        let len = wire.get(2).copied().map_or(0, usize::from) + HEAD_BYTES;
        let (frame, rest) = wire.split_at(len.min(wire.len()));
        if frame == ours {
            assert!(!in_block, "a header block is interrupted");
            assert!(
                without.len() >= first && first > 0,
                "something precedes the server's first frame"
            );
            found += 1;
        } else {
            if let [_, _, _, 1 | 5 | 9, flags, ..] = frame {
                in_block = flags & 4 == 0;
            }
            without.extend_from_slice(frame);
        }
        wire = rest;
    }
    (without, found)
}
