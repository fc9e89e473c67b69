//! What holds for any text that is read as a selector.

use vouchsafe_identity::Selector;

/// Reads any bytes as a selector.
pub(crate) fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(selector) = text.parse::<Selector>() {
        assert_eq!(selector.to_string(), text, "kept as it stands");
        assert!(!selector.kind().is_empty() && !selector.kind().contains(':'));
        assert!(!selector.value().is_empty());
        assert_eq!(
            Selector::new(selector.kind(), selector.value()).as_ref(),
            Ok(&selector)
        );
    }
}
