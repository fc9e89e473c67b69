//! Property tests of the frame reader and of the frame writer, on the invariants that the fuzz targets check too.

#[path = "invariants/frames.rs"]
mod invariants;
#[path = "invariants/writer.rs"]
mod writer;

use proptest::prelude::*;

/// A frame with a plausible head, so that random payloads reach the header blocks.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![3 => Just(1_u8), 2 => Just(9), 1 => 0..12_u8];
    let stream = prop_oneof![4 => Just(1_u32), 1 => 0..4_u32];
    (
        kind,
        any::<u8>(),
        stream,
        proptest::collection::vec(any::<u8>(), 0..80),
    )
        .prop_map(|(kind, flags, stream, payload)| {
            let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
            let mut bytes = vec![len[1], len[2], len[3], kind, flags];
            bytes.extend(stream.to_be_bytes());
            bytes.extend(payload);
            bytes
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes_keep_the_invariants(
        input in proptest::collection::vec(any::<u8>(), 0..400),
        cuts in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        invariants::check(&input, &cuts);
    }

    #[test]
    fn frames_keep_the_invariants(
        frames in proptest::collection::vec(frame(), 0..8),
        cuts in proptest::collection::vec(0..30_u8, 0..8),
    ) {
        invariants::check(&frames.concat(), &cuts);
    }

    #[test]
    fn frames_that_are_put_among_the_servers_leave_them_whole(
        random in proptest::collection::vec(any::<u8>(), 0..600),
        cuts in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        writer::check(&writer::frames(&random), &cuts);
    }
}
