//! Any text as a selector: `cargo fuzz run selector`, in `tests/`.
#![no_main]

#[path = "../../../identity/tests/invariants/selector.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
