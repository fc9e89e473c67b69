//! SPIFFE IDs and trust domains (SPIFFE-ID §2), validated once and cheap to clone.
//!
//! Parsing is strict: what the standard forbids is an error, never normalised away.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest SPIFFE ID in bytes that an implementation must support and may send (SPIFFE-ID §2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID §2.1, the limit of a DNS name).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is not a SPIFFE ID or a trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("a SPIFFE ID cannot be empty")]
    Empty,
    /// The scheme is not `spiffe` (SPIFFE-ID §2).
    #[error("`{0}` does not begin with `spiffe://`")]
    Scheme(String),
    /// The trust domain is missing (SPIFFE-ID §2.1).
    #[error("`{0}` has no trust domain")]
    NoTrustDomain(String),
    /// A character that a trust domain may not hold, user info and ports included (SPIFFE-ID §2.1).
    #[error(
        "`{name}` is not a trust domain name: only a-z, 0-9, `.`, `-` and `_` may stand in it, not `{found}`"
    )]
    TrustDomainChar {
        /// The name as given.
        name: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// A path segment is empty, as in `//` or a slash at the end (SPIFFE-ID §2.2).
    #[error("`{0}` has an empty path segment or a slash at its end")]
    EmptySegment(String),
    /// A path segment is `.` or `..` (SPIFFE-ID §2.2).
    #[error("`{0}` has a path segment `.` or `..`")]
    DotSegment(String),
    /// A character that a path may not hold, percent signs, queries and fragments included (SPIFFE-ID §2.2).
    #[error(
        "`{id}` has `{found}` in its path: only letters, digits, `.`, `-` and `_` may stand between slashes"
    )]
    PathChar {
        /// The id as given.
        id: String,
        /// The first character that is not allowed.
        found: char,
    },
    /// A path that should begin with a slash does not.
    #[error("path `{0}` does not begin with a slash")]
    RelativePath(String),
    /// Longer than [`MAX_ID_BYTES`], or a trust domain longer than [`MAX_TRUST_DOMAIN_BYTES`].
    #[error("{what} of {len} bytes is longer than the limit of {limit} bytes")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The name of a trust domain, such as `example.org`, without the scheme.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain name, or the SPIFFE ID of a trust domain (`spiffe://example.org`).
    ///
    /// # Errors
    /// [`SpiffeIdError`] when the name is empty, too long or has a character that SPIFFE-ID §2.1 forbids.
    pub fn new(name: &str) -> Result<Self, SpiffeIdError> {
        let bare = name.strip_prefix(SCHEME).unwrap_or(name);
        if bare.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain(name.to_owned()));
        }
        if bare.len() > MAX_TRUST_DOMAIN_BYTES {
            return Err(SpiffeIdError::TooLong {
                what: "a trust domain name",
                len: bare.len(),
                limit: MAX_TRUST_DOMAIN_BYTES,
            });
        }
        match bare
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_'))
        {
            Some(found) => Err(SpiffeIdError::TrustDomainChar {
                name: bare.to_owned(),
                found,
            }),
            None => Ok(Self(bare.into())),
        }
    }

    /// The bare name, such as `example.org`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, which has no path.
    pub fn id(&self) -> SpiffeId {
        SpiffeId {
            uri: format!("{SCHEME}{}", self.0).into(),
            path_at: SCHEME.len() + self.0.len(),
        }
    }

    /// The id `spiffe://<trust domain><path>`; `path` begins with a slash, or is empty.
    ///
    /// # Errors
    /// [`SpiffeIdError`] when the path is not one that SPIFFE-ID §2.2 allows.
    pub fn with_path(&self, path: &str) -> Result<SpiffeId, SpiffeIdError> {
        // Without the slash the text would become a part of the trust domain's name.
        if !path.is_empty() && !path.starts_with('/') {
            return Err(SpiffeIdError::RelativePath(path.to_owned()));
        }
        SpiffeId::new(&format!("{SCHEME}{}{path}", self.0))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(&s)
    }
}

impl From<TrustDomain> for String {
    fn from(td: TrustDomain) -> Self {
        td.0.as_ref().to_owned()
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>` and a path that may be empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    uri: Arc<str>,
    path_at: usize,
}

impl SpiffeId {
    /// Parses a SPIFFE ID, with or without a path.
    ///
    /// # Errors
    /// [`SpiffeIdError`], which names the first thing that SPIFFE-ID §2 forbids.
    pub fn new(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if uri.len() > MAX_ID_BYTES {
            return Err(SpiffeIdError::TooLong {
                what: "a SPIFFE ID",
                len: uri.len(),
                limit: MAX_ID_BYTES,
            });
        }
        let Some(rest) = uri.strip_prefix(SCHEME) else {
            return Err(SpiffeIdError::Scheme(uri.to_owned()));
        };
        let name = rest.split_once('/').map_or(rest, |(name, _)| name);
        if name.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain(uri.to_owned()));
        }
        TrustDomain::new(name)?;
        let path_at = SCHEME.len() + name.len();
        check_path(uri, rest.get(name.len()..).unwrap_or_default())?;
        Ok(Self {
            uri: uri.into(),
            path_at,
        })
    }

    /// The whole id as text.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The path with its leading slash, or the empty text for the id of a trust domain.
    pub fn path(&self) -> &str {
        self.uri.get(self.path_at..).unwrap_or_default()
    }

    /// The trust domain of the id.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(
            self.uri
                .get(SCHEME.len()..self.path_at)
                .unwrap_or_default()
                .into(),
        )
    }

    /// The name of the trust domain, without a copy.
    pub fn trust_domain_name(&self) -> &str {
        self.uri.get(SCHEME.len()..self.path_at).unwrap_or_default()
    }

    /// Whether the id belongs to the trust domain.
    pub fn is_member_of(&self, trust_domain: &TrustDomain) -> bool {
        self.trust_domain_name() == trust_domain.name()
    }

    /// The path's segments; none for the id of a trust domain.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }

    /// Whether this id is `prefix` or stands below it, compared by whole segments.
    pub fn is_at_or_below(&self, prefix: &Self) -> bool {
        self.uri
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether the path lies under `/spire`, which is reserved for the system itself.
    pub fn is_reserved(&self) -> bool {
        self.segments().next() == Some("spire")
    }
}

fn check_path(uri: &str, path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    for segment in path.split('/').skip(1) {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment(uri.to_owned())),
            "." | ".." => return Err(SpiffeIdError::DotSegment(uri.to_owned())),
            _ => {}
        }
        if let Some(found) = segment
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')))
        {
            return Err(SpiffeIdError::PathChar {
                id: uri.to_owned(),
                found,
            });
        }
    }
    Ok(())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        Self::new(&s)
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.uri.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests;
