//! From what was found to a selector, or to the reason why it makes none.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use vouchsafe_attestors::{Evidence, Trust};
use vouchsafe_identity::Selector;

/// Adds `kind:name:value`, or notes why that cannot be said as a selector.
pub(crate) fn add(evidence: &mut Evidence, trust: Trust, kind: &str, name: &str, value: &OsStr) {
    let what = format!("{kind}:{name}");
    let Some(value) = value.to_str() else {
        return evidence.withhold(&what, format!("{} is not UTF-8", shown(value)));
    };
    // A line break in a selector would let a file's name forge lines of a listing.
    if value.is_empty() || value.chars().any(char::is_control) {
        let reason = format!("{} is empty or has a control character", shown(OsStr::new(value)));
        return evidence.withhold(&what, reason);
    }
    match Selector::new(kind, &format!("{name}:{value}")) {
        Ok(selector) if trust == Trust::Measured => evidence.measured(selector),
        Ok(selector) => evidence.asserted(selector),
        Err(error) => evidence.withhold(&what, error.to_string()),
    }
}

/// A text of another process for a message: on one line, in backticks, of bounded length.
pub(crate) fn shown(text: &OsStr) -> String {
    const MOST: usize = 256;
    let bytes = text.as_bytes();
    let head = bytes.get(..MOST).unwrap_or(bytes);
    let more = if head.len() < bytes.len() { "…" } else { "" };
    format!("`{}{more}`", head.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &[u8]) -> Evidence {
        let mut evidence = Evidence::default();
        add(
            &mut evidence,
            Trust::Asserted,
            "unix",
            "path",
            OsStr::from_bytes(value),
        );
        evidence
    }

    #[test]
    fn what_a_selector_cannot_hold_is_withheld_with_its_reason() {
        let long = [b'a'; 5000];
        for bad in [&b"/a\nunix:uid:0"[..], b"/a\x1b[2J", b"/\xff", b"", &long] {
            let evidence = one(bad);
            assert!(evidence.findings.is_empty(), "{bad:?}");
            assert_eq!(evidence.withheld.len(), 1);
            assert_eq!(evidence.withheld[0].what, "unix:path");
            assert!(!evidence.withheld[0].reason.contains('\n'));
            assert!(evidence.withheld[0].reason.len() < 400);
        }
    }

    #[test]
    fn a_value_may_hold_colons_and_spaces() {
        let evidence = one("/opt/a: b/ü".as_bytes());
        assert_eq!(evidence.findings[0].selector.to_string(), "unix:path:/opt/a: b/ü");
    }
}
