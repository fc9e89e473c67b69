//! The invariants of the fuzz target `join_token` on texts that come near to a token.

#[path = "invariants/join_token.rs"]
mod invariants;

use proptest::prelude::*;

proptest! {
    #[test]
    fn tokens_keep_the_invariants(text in "[a-zA-Z0-9._/%\\\\ -]{0,300}") {
        invariants::check(text.as_bytes());
    }

    #[test]
    fn any_bytes_keep_the_invariants(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        invariants::check(&bytes);
    }
}
