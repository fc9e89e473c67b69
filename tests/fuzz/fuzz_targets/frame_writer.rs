//! Frames put among a server's own, wherever its writes are cut: `cargo fuzz run frame_writer`, in `tests/`.
#![no_main]

#[path = "../../../runtime/tests/invariants/writer.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first bytes say how the writes are cut, and where a PING waits.
    let (cuts, random) = data.split_at(data.len().min(8));
    invariants::check(&invariants::frames(random), cuts);
});
