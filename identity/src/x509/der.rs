//! What the certificate parser leaves out: that no byte stands after the last known field.

use x509_parser::asn1_rs::{Any, FromDer};

/// The values that fill `content` wholly, or nothing when a byte is left over or malformed.
pub(super) fn children(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut found = Vec::new();
    while !content.is_empty() {
        let (rest, value) = Any::from_der(content).ok()?;
        found.push(value);
        content = rest;
    }
    Some(found)
}

/// The values inside the one constructed value that `der` is, or nothing when anything is left over.
pub(super) fn only_child_of(der: &[u8]) -> Option<Vec<Any<'_>>> {
    match children(der)?.as_slice() {
        [outer] => children(outer.data),
        _ => None,
    }
}
