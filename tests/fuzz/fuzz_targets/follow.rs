//! Any bytes as the first message of an agent that follows: `cargo fuzz run follow`, in `tests/`.
#![no_main]

#[path = "../../../server/tests/invariants/follow.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
