//! Any bytes as the messages of a server that pushes: `cargo fuzz run followed`, in `tests/`.
#![no_main]

#[path = "../../../agent/tests/invariants/followed.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
