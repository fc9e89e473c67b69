//! Between SPIRE's messages and our values. Everything from outside is parsed here, once.

pub mod agent;
pub mod bundle;
pub mod class;
pub mod entry;
pub mod filter;
pub mod run;
pub mod svid;
#[cfg(test)]
mod tests;

use time::OffsetDateTime;
use vouchsafe_identity::run::RunError;
use vouchsafe_identity::{Selector, SelectorError, SelectorSet, SpiffeId, SpiffeIdError, TrustDomain};
use vouchsafe_proto::spire::api::types;
use vouchsafe_store::EntryId;
use vouchsafe_store::class::LauncherRuleError;
use vouchsafe_store::entry::EntryIdError;

/// Most rows of one page.
pub const MAX_PAGE_ROWS: usize = 10_000;

/// Which field of a message is wrong, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A field that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A SPIFFE ID is malformed.
    #[error("`{field}` is malformed: {source}")]
    SpiffeId {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        source: SpiffeIdError,
    },
    /// The path of a SPIFFE ID does not begin with a slash.
    #[error("`{field}` is malformed: the path `{path}` does not begin with a slash")]
    Path {
        /// Which field.
        field: &'static str,
        /// The path.
        path: String,
    },
    /// A selector is malformed.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A selector of a type that no launch measures.
    #[error("selectors of a run are of the types ai, process and unix, not `{0}`")]
    SelectorType(String),
    /// An entry's id is malformed.
    #[error(transparent)]
    EntryId(#[from] EntryIdError),
    /// The name or id of a class or a run is malformed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A launcher is malformed.
    #[error(transparent)]
    Launcher(#[from] LauncherRuleError),
    /// A value of an enumeration that this release does not know.
    #[error("`{field}` has no value {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// Two fields that exclude each other.
    #[error("`{0}` and `{1}` exclude each other")]
    Both(&'static str, &'static str),
    /// A number or a time is out of its range.
    #[error("`{field}` of {value} is out of range")]
    Range {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// A set to compare with is empty.
    #[error("malformed filter: `{0}` is empty")]
    EmptySet(&'static str),
    /// A value of an enumeration is not known.
    #[error("malformed filter: `{field}` has no value {value}")]
    Enumeration {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
    /// A page token that we did not make.
    #[error("malformed page token `{0}`")]
    PageToken(String),
    /// A time is not in the form that the field wants.
    #[error("`{field}` is not a time such as `2006-01-02 15:04:05 -0700 -07`: `{value}`")]
    Time {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// A SPIFFE ID that must be there.
pub fn spiffe_id(field: &'static str, id: Option<&types::Spiffeid>) -> Result<SpiffeId, ConvertError> {
    let id = id.ok_or(ConvertError::Missing(field))?;
    let malformed = |source| ConvertError::SpiffeId { field, source };
    let trust_domain = TrustDomain::new(&id.trust_domain).map_err(malformed)?;
    // Without the slash the path would become part of the trust domain's name.
    if !id.path.is_empty() && !id.path.starts_with('/') {
        let path = id.path.chars().take(64).collect();
        return Err(ConvertError::Path { field, path });
    }
    trust_domain.with_path(&id.path).map_err(malformed)
}

/// The name of a trust domain.
pub fn trust_domain(field: &'static str, name: &str) -> Result<TrustDomain, ConvertError> {
    if name.is_empty() {
        return Err(ConvertError::Missing(field));
    }
    TrustDomain::new(name).map_err(|source| ConvertError::SpiffeId { field, source })
}

/// A SPIFFE ID as a message has it.
pub fn spiffe_id_message(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid {
        trust_domain: id.trust_domain_name().to_owned(),
        path: id.path().to_owned(),
    }
}

/// Selectors.
pub fn selectors(messages: &[types::Selector]) -> Result<SelectorSet, ConvertError> {
    let parsed = messages.iter().map(|s| Selector::new(&s.r#type, &s.value));
    Ok(parsed.collect::<Result<_, _>>()?)
}

/// Selectors as a message has them.
pub fn selector_messages<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> Vec<types::Selector> {
    let message = |selector: &Selector| types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
    };
    selectors.into_iter().map(message).collect()
}

/// The id of an entry.
pub fn entry_id(text: &str) -> Result<EntryId, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::Missing("id"));
    }
    Ok(EntryId::new(text)?)
}

/// A life in seconds; 0 stands for the default.
pub fn ttl(field: &'static str, seconds: i32) -> Result<u32, ConvertError> {
    u32::try_from(seconds).map_err(|_| ConvertError::Range {
        field,
        value: seconds.into(),
    })
}

/// A number of seconds as a message has it.
pub fn ttl_message(seconds: u32) -> i32 {
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// A time that may be left open with 0.
pub fn time(field: &'static str, seconds: i64) -> Result<Option<OffsetDateTime>, ConvertError> {
    let range = ConvertError::Range {
        field,
        value: seconds,
    };
    match seconds {
        0 => Ok(None),
        1.. => OffsetDateTime::from_unix_timestamp(seconds)
            .map(Some)
            .map_err(|_| range),
        _ => Err(range),
    }
}

/// How many rows a page may have: 0 asks for everything at once.
pub fn page_size(size: i32) -> Result<usize, ConvertError> {
    match usize::try_from(size) {
        Ok(0) => Ok(usize::MAX),
        Ok(rows) => Ok(rows.min(MAX_PAGE_ROWS)),
        Err(_) => Err(ConvertError::Range {
            field: "page_size",
            value: size.into(),
        }),
    }
}

/// A count as a message has it.
pub fn count_message(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
