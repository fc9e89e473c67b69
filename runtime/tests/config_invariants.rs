//! The invariants of the fuzz target `config` on texts that come near to a configuration.
#![expect(clippy::expect_used, reason = "a test helper that fails is a test that fails")]

#[path = "invariants/config.rs"]
mod invariants;

use proptest::prelude::*;

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6} = \"[0-9]{1,20}[a-zA-Z]{0,3}\"",
        "(span|size) = \"[0-9]{1,3} ?(ns|us|ms|s|m|h|days|B|KiB|MiB|GiB)\"",
        "log\\.level = \"[a-z,=_:\\[\\]]{0,20}\"",
        "metrics\\.address = \"(127\\.0\\.0\\.1|\\[::1\\]|0\\.0\\.0\\.0):[0-9]{1,6}\"",
        "names = \\[(\"[a-z]\",?){0,3}\\]",
        "\\[[a-z]{0,7}\\]",
        "[ -~]{0,30}",
    ]
}

proptest! {
    #[test]
    fn configurations_keep_the_invariants(lines in proptest::collection::vec(line(), 0..6)) {
        invariants::check(lines.join("\n").as_bytes());
    }

    #[test]
    fn values_keep_the_invariants(text in "[0-9]{0,22} ?[a-zA-Z:\\[\\].]{0,6}[0-9]{0,6}") {
        invariants::check(text.as_bytes());
    }
}
