//! The invariants of the fuzz target `code_files` on texts that come near to the real ones.

#[path = "invariants/code_files.rs"]
mod invariants;

use proptest::prelude::*;

proptest! {
    #[test]
    fn lines_of_environments_keep_the_invariants(
        text in "((home|version|include-system-site-packages|Home|x)? ?=? ?(/[a-z/.]{0,6}|true|3\\.[0-9]{1,6}\\.1|\\PC{0,5})[\\n\\r]{0,2}){0,6}"
    ) {
        invariants::check(text.as_bytes());
    }

    #[test]
    fn first_lines_keep_the_invariants(
        text in "#!( |\t)?(/usr/bin/env|/bin/[a-z]{0,3}|[a-z]{0,3})?( |\t)?(-S)?( [a-z=$'-]{0,6}){0,3}[\\n\\r]?[a-z]{0,3}"
    ) {
        invariants::check(text.as_bytes());
    }

    #[test]
    fn long_first_lines_keep_the_invariants(letters in 200..300_usize, blanks in 0..60_usize) {
        let text = format!("#!{}{}b\n", "a".repeat(letters), " ".repeat(blanks));
        invariants::check(text.as_bytes());
    }

    #[test]
    fn rows_keep_the_invariants(
        text in "((\"[a,\n]{0,3}(\"\")?\"|[a-c./]{0,4}),(sha256=[A-Za-z_-]{0,3}|md5=a|\"x\")?,[0-9]{0,2}\r?\n?){0,5}\\PC{0,4}"
    ) {
        invariants::check(text.as_bytes());
    }

    #[test]
    fn any_bytes_keep_the_invariants(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        invariants::check(&bytes);
        invariants::check(&[b"#!", bytes.as_slice()].concat());
    }
}
