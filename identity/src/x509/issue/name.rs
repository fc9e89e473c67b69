//! Repeats an authority's subject as the issuer of what it signs.
//!
//! Verifiers compare both names byte by byte, so whatever the builder cannot write back is refused.

use rcgen::string::{Ia5String, PrintableString};
use rcgen::{DistinguishedName, DnType, DnValue};
use x509_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::IssueError;

pub(super) fn copy(name: &X509Name<'_>) -> Result<DistinguishedName, IssueError> {
    let mut copied = DistinguishedName::new();
    for rdn in name.iter() {
        let mut attributes = rdn.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
            return Err(IssueError::SubjectName(
                "a part of it has not exactly one attribute",
            ));
        };
        let oid: Vec<u64> = attribute
            .attr_type()
            .iter()
            .ok_or(IssueError::SubjectName("an attribute's type is too long"))?
            .collect();
        copied.push(DnType::from_oid(&oid), value(attribute)?);
    }
    Ok(copied)
}

fn value(attribute: &AttributeTypeAndValue<'_>) -> Result<DnValue, IssueError> {
    let any = attribute.attr_value();
    let text =
        std::str::from_utf8(any.data).map_err(|_| IssueError::SubjectName("an attribute is not text"))?;
    let refused = |_| IssueError::SubjectName("an attribute has characters that its type forbids");
    match any.tag() {
        Tag::Utf8String => Ok(DnValue::Utf8String(text.to_owned())),
        Tag::PrintableString => PrintableString::try_from(text)
            .map(DnValue::PrintableString)
            .map_err(refused),
        Tag::Ia5String => Ia5String::try_from(text).map(DnValue::Ia5String).map_err(refused),
        _ => Err(IssueError::SubjectName(
            "an attribute is of a text type that is out of use",
        )),
    }
}
