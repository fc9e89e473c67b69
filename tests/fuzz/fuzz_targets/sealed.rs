//! Any bytes as an agent's sealed state: `cargo fuzz run sealed`, in `tests/`.
#![no_main]

#[path = "../../../agent/tests/invariants/sealed.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
