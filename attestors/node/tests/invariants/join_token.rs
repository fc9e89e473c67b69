//! What holds for any bytes that a node may show as its join token: what is taken makes one segment of a SPIFFE ID.

use vouchsafe_identity::TrustDomain;
use vouchsafe_node_attestors::join_token::{MAX_TOKEN_BYTES, Token};

/// Reads any bytes as a token.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(token) = Token::new(text) {
        assert!(text.len() <= MAX_TOKEN_BYTES);
        assert_eq!(token.expose(), text, "taken as it stands");
        let id = TrustDomain::new("example.org")
            .and_then(|trust_domain| trust_domain.with_path(&format!("/spire/agent/join_token/{text}")));
        assert!(id.is_ok_and(|id| id.path().split('/').count() == 5));
        assert!(!format!("{token:?}").contains(text) || text.len() < 8, "shown");
    }
}
