//! Any bytes as the answers of a server that is polled: `cargo fuzz run polled`, in `tests/`.
#![no_main]

#[path = "../../../agent/tests/invariants/polled.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
