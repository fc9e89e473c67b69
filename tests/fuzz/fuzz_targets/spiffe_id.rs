//! Any text as a SPIFFE ID: `cargo fuzz run spiffe_id`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/spiffe_id.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
