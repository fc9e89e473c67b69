//! Any bytes as a join token, the payload of an attestation: `cargo fuzz run join_token`, in `tests/`.
#![no_main]

#[path = "../../../attestors/node/tests/invariants/join_token.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
