//! Selectors: `type:value` facts about a node or a process, as SPIRE spells them.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Selectors without order or repetition.
pub type SelectorSet = BTreeSet<Selector>;

/// Longest selector (type, colon and value) in bytes.
pub const MAX_SELECTOR_BYTES: usize = 4096;

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// There is no colon between type and value.
    #[error("selector `{0}` has no colon: write it as `type:value`, such as `unix:uid:1000`")]
    NoColon(String),
    /// The type is empty or has a colon.
    #[error("selector type `{0}` is empty or has a colon in it")]
    BadType(String),
    /// The value is empty.
    #[error("selector of type `{0}` has an empty value")]
    EmptyValue(String),
    /// Longer than [`MAX_SELECTOR_BYTES`].
    #[error("a selector of {0} bytes is longer than the limit of {MAX_SELECTOR_BYTES} bytes")]
    TooLong(usize),
}

/// One fact about a node or a process: a type such as `unix` and a value such as `uid:1000`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    kind: Box<str>,
    value: Box<str>,
}

impl Selector {
    /// Makes a selector of its two parts.
    ///
    /// # Errors
    /// [`SelectorError`] when the type is empty or has a colon, the value is empty, or both are too long.
    pub fn new(kind: &str, value: &str) -> Result<Self, SelectorError> {
        if kind.is_empty() || kind.contains(':') {
            return Err(SelectorError::BadType(kind.to_owned()));
        }
        if value.is_empty() {
            return Err(SelectorError::EmptyValue(kind.to_owned()));
        }
        let len = kind.len() + 1 + value.len();
        if len > MAX_SELECTOR_BYTES {
            return Err(SelectorError::TooLong(len));
        }
        Ok(Self {
            kind: kind.into(),
            value: value.into(),
        })
    }

    /// The type: the name of the attestor that found it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The value: everything after the first colon.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (kind, value) = s
            .split_once(':')
            .ok_or_else(|| SelectorError::NoColon(s.to_owned()))?;
        Self::new(kind, value)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<Selector> for String {
    fn from(s: Selector) -> Self {
        s.to_string()
    }
}

#[cfg(test)]
mod tests;
