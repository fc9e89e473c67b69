//! Any bytes that a client may send: `cargo fuzz run frames`, in `tests/`.
#![no_main]

#[path = "../../../runtime/tests/invariants/frames.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first bytes say how the rest is cut.
    let (cuts, input) = data.split_at(data.len().min(4));
    invariants::check(input, cuts);
});
