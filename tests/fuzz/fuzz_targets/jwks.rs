//! Any bytes as a bundle: `cargo fuzz run jwks`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/jwks.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
