//! What holds for any text that is read as a SPIFFE ID.

use vouchsafe_identity::{SpiffeId, TrustDomain};

/// Reads any bytes as an id and as a trust domain.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = SpiffeId::new(text) {
        assert_eq!(id.as_str(), text, "kept as it stands");
        assert!(text.len() <= 2048 && text.is_ascii());
        assert!(!text.contains(['?', '#', '%', '@']) && !text.ends_with('/'));
        assert_eq!(id.trust_domain().with_path(id.path()).as_ref(), Ok(&id));
        assert!(id.is_at_or_below(&id.trust_domain().id()));
        assert!(id.is_member_of(&id.trust_domain()));
        assert!(id.segments().all(|one| !matches!(one, "" | "." | "..")));
    }
    if let Ok(name) = TrustDomain::new(text) {
        assert!(!name.name().is_empty() && name.name().len() <= 255);
        assert_eq!(TrustDomain::new(name.id().as_str()).as_ref(), Ok(&name));
    }
}
