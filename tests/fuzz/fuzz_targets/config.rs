//! Any text as a configuration file: `cargo fuzz run config`, in `tests/`.
#![no_main]

#[path = "../../../runtime/tests/invariants/config.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
