//! What a set of descriptors promises its peers, as sorted lines of text, and which changes break that promise.

use std::collections::BTreeMap;
use std::fmt::Write;

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, MessageDescriptor, ServiceDescriptor};

/// Full name → what it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing(BTreeMap<String, String>);

/// What is to be done about a built listing beside the committed one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing changed.
    Same,
    /// There are additions, and they were asked for: write this text.
    Write(String),
    /// Changed as it must not, or without being asked: the text says how, and the next step.
    Refused(String),
}

impl Listing {
    /// Lists everything but Google's well-known types.
    pub(crate) fn of(pool: &DescriptorPool) -> Self {
        let mut listing = Self::default();
        for message in pool.all_messages() {
            listing.add_message(&message);
        }
        for enumeration in pool.all_enums() {
            listing.add_enum(&enumeration);
        }
        for service in pool.services() {
            listing.add_service(&service);
        }
        listing.0.retain(|name, _| !name.starts_with("google."));
        listing
    }

    /// Reads what `to_text` wrote.
    pub(crate) fn from_text(text: &str) -> Result<Self, String> {
        let mut listing = Self::default();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let Some((name, what)) = line.split_once(": ") else {
                return Err(format!("`{line}` is not of the form `name: what it is`"));
            };
            if listing.0.insert(name.to_owned(), what.to_owned()).is_some() {
                return Err(format!("`{name}` is listed twice"));
            }
        }
        Ok(listing)
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::from(
            "# What the .proto files promise. Regenerate: UPDATE_PROTO=1 cargo test -p vouchsafe-proto\n",
        );
        for (name, what) in &self.0 {
            let _ = writeln!(text, "{name}: {what}");
        }
        text
    }

    /// Compares a built listing with this, the committed one.
    pub(crate) fn judge(&self, built: &Self, update: bool) -> Verdict {
        let mut broken = String::new();
        for (name, was) in &self.0 {
            let _ = match built.0.get(name) {
                None => writeln!(broken, "  `{name}` is gone; it was: {was}"),
                Some(is) if is != was => writeln!(broken, "  `{name}` was: {was}; is now: {is}"),
                Some(_) => Ok(()),
            };
        }
        if !broken.is_empty() {
            return Verdict::Refused(format!(
                "peers that exist would break:\n{broken}take the change back; if nobody can have used it, \
                 remove the lines by hand from the committed listing"
            ));
        }

        let added: Vec<_> = built
            .0
            .keys()
            .filter(|name| !self.0.contains_key(*name))
            .cloned()
            .collect();
        match (added.is_empty(), update) {
            (true, _) => Verdict::Same,
            (false, true) => Verdict::Write(built.to_text()),
            (false, false) => Verdict::Refused(format!(
                "not in the committed listing: {}\nadd it with `UPDATE_PROTO=1 cargo test -p vouchsafe-proto`",
                added.join(", ")
            )),
        }
    }

    fn add(&mut self, name: String, what: String) {
        let before = self.0.insert(name.clone(), what);
        assert_eq!(before, None, "two things are named `{name}`");
    }

    fn add_message(&mut self, message: &MessageDescriptor) {
        if message.is_map_entry() {
            return;
        }
        let name = message.full_name();
        self.add(name.to_owned(), "message".to_owned());
        for field in message.fields() {
            let what = format!("field {} {}", field.number(), field_type(&field));
            self.add(format!("{name}.{}", field.name()), what);
        }
        for range in message.reserved_ranges() {
            self.add(
                format!("{name}.({}..{})", range.start, range.end),
                "reserved".to_owned(),
            );
        }
    }

    fn add_enum(&mut self, enumeration: &EnumDescriptor) {
        let name = enumeration.full_name();
        self.add(name.to_owned(), "enum".to_owned());
        for value in enumeration.values() {
            self.add(
                format!("{name}.{}", value.name()),
                format!("value {}", value.number()),
            );
        }
        for range in enumeration.reserved_ranges() {
            self.add(
                format!("{name}.({}..={})", range.start(), range.end()),
                "reserved".to_owned(),
            );
        }
    }

    fn add_service(&mut self, service: &ServiceDescriptor) {
        let name = service.full_name();
        self.add(name.to_owned(), "service".to_owned());
        for method in service.methods() {
            let side = |streams, message: MessageDescriptor| {
                format!("{}{}", if streams { "stream " } else { "" }, message.full_name())
            };
            let request = side(method.is_client_streaming(), method.input());
            let response = side(method.is_server_streaming(), method.output());
            self.add(
                format!("{name}.{}", method.name()),
                format!("rpc ({request}) returns ({response})"),
            );
        }
    }
}

/// The type with everything that counts on the wire or in a peer's code, as in `repeated bytes`.
pub(crate) fn field_type(field: &FieldDescriptor) -> String {
    let kind = field.kind();
    if let (true, Some(entry)) = (field.is_map(), kind.as_message()) {
        return format!(
            "map<{:?}, {:?}>",
            entry.map_entry_key_field().kind(),
            entry.map_entry_value_field().kind()
        );
    }
    match field.containing_oneof() {
        Some(oneof) if oneof.is_synthetic() => format!("optional {kind:?}"),
        Some(oneof) => format!("{kind:?} in oneof {}", oneof.name()),
        None if field.is_list() => format!("repeated {kind:?}"),
        None => format!("{kind:?}"),
    }
}
