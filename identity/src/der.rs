//! What the parsers leave out: that a value has its one form, and that no byte stands behind the last field.

use x509_parser::asn1_rs::{Any, FromDer};

/// The identifier byte of a SEQUENCE in DER.
pub(crate) const SEQUENCE: u8 = 0x30;
/// The identifier byte of a SET in DER.
pub(crate) const SET: u8 = 0x31;
/// The identifier byte of a BIT STRING in DER.
pub(crate) const BIT_STRING: u8 = 0x03;
/// The identifier byte of an OBJECT IDENTIFIER in DER.
pub(crate) const OID: u8 = 0x06;

/// One value: its identifier byte and its content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
}

/// The values that fill `bytes` wholly, or nothing when a byte is left over or malformed.
pub(crate) fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while let Some(tag) = bytes.first().copied() {
        let (rest, value) = Any::from_der(bytes).ok()?;
        found.push(Field {
            tag,
            content: value.data,
        });
        bytes = rest;
    }
    Some(found)
}

/// The values inside the one sequence or set that `der` is, or nothing when anything is left over.
pub(crate) fn fields_of_one(tag: u8, der: &[u8]) -> Option<Vec<Field<'_>>> {
    match fields(der)?.as_slice() {
        [outer] if outer.tag == tag => fields(outer.content),
        _ => None,
    }
}
