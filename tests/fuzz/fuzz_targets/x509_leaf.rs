//! Any bytes as the leaf of an X.509-SVID: `cargo fuzz run x509_leaf`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/x509_leaf.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
