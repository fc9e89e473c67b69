//! Any bytes as a certificate request: `cargo fuzz run csr`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/csr.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
