//! Any bytes as a `pyvenv.cfg`, as a `RECORD` and as the head of a script: `cargo fuzz run code_files`, in `tests/`.
#![no_main]

#[path = "../../../attestors/workload/tests/invariants/code_files.rs"]
mod invariants;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| invariants::check(data));
