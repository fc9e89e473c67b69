//! Any bytes as a message of the other side: `cargo fuzz run messages`, in `tests/`.
#![no_main]

#[path = "../invariants/messages.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
