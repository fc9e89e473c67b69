//! Any text as a JWT-SVID: `cargo fuzz run jwt`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/jwt.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
