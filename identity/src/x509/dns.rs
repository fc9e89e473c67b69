//! DNS names that an X.509-SVID may carry beside its SPIFFE ID (RFC 5280 §4.2.1.6, RFC 6125 §6.4.3).

/// Longest DNS name in bytes (RFC 1035 §2.3.4).
pub const MAX_NAME_BYTES: usize = 253;
/// Longest label of a DNS name in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// Most DNS names in one certificate or request.
pub const MAX_NAMES: usize = 64;

/// Why a text is not a DNS name that may stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DnsNameError {
    /// The name is empty.
    #[error("a DNS name cannot be empty")]
    Empty,
    /// Longer than [`MAX_NAME_BYTES`].
    #[error("a DNS name of {0} bytes is longer than the limit of {MAX_NAME_BYTES} bytes")]
    TooLong(usize),
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error(
        "`{0}` is not a DNS name: each label needs 1 to {MAX_LABEL_BYTES} characters and no hyphen at its ends"
    )]
    Label(String),
    /// A character other than letters, digits, hyphen and underscore.
    #[error("`{0}` is not a DNS name: only letters, digits, `-` and `_` may stand between its dots")]
    Character(String),
    /// A `*` that is not the whole first label, or one that covers everything.
    #[error("`{0}` has a wildcard elsewhere than as its whole first label, as in `*.example.org`")]
    Wildcard(String),
    /// More than [`MAX_NAMES`] names.
    #[error("{0} DNS names are more than the limit of {MAX_NAMES}")]
    TooMany(usize),
}

/// Checks one name.
///
/// # Errors
/// [`DnsNameError`], which names the first thing that is wrong.
pub fn check(name: &str) -> Result<(), DnsNameError> {
    if name.is_empty() {
        return Err(DnsNameError::Empty);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(DnsNameError::TooLong(name.len()));
    }
    let bare = match name.strip_prefix("*.") {
        Some(rest) if rest.contains('.') => rest,
        Some(_) => return Err(DnsNameError::Wildcard(name.to_owned())),
        None => name,
    };
    if bare.contains('*') {
        return Err(DnsNameError::Wildcard(name.to_owned()));
    }
    for label in bare.split('.') {
        if !label
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        {
            return Err(DnsNameError::Character(name.to_owned()));
        }
        if label.is_empty() || label.len() > MAX_LABEL_BYTES || label.starts_with('-') || label.ends_with('-')
        {
            return Err(DnsNameError::Label(name.to_owned()));
        }
    }
    Ok(())
}

/// Checks all names of a certificate, their number included.
///
/// # Errors
/// [`DnsNameError`] for the first name that is wrong, or for too many names.
pub fn check_all<S: AsRef<str>>(names: &[S]) -> Result<(), DnsNameError> {
    if names.len() > MAX_NAMES {
        return Err(DnsNameError::TooMany(names.len()));
    }
    names.iter().try_for_each(|name| check(name.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_as_in_the_dns() {
        let label = "a".repeat(MAX_LABEL_BYTES);
        for name in [
            "localhost",
            "w.example.org",
            "*.example.org",
            "_spiffe.example.org",
            "1.2",
            "W.Example.ORG",
            &format!("{label}.{label}.{label}.{}", "a".repeat(61)),
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let label = "a".repeat(MAX_LABEL_BYTES + 1);
        assert_eq!(check(""), Err(DnsNameError::Empty));
        assert_eq!(check(&"a.".repeat(127)), Err(DnsNameError::TooLong(254)));
        for name in ["a..b", ".a", "a.", "-a.b", "a-.b", &label, "."] {
            assert_eq!(check(name), Err(DnsNameError::Label(name.to_owned())));
        }
        for name in ["a b", "a/b", "é.org", "a\0.b", "10.0.0.1:80", "a,b"] {
            assert_eq!(check(name), Err(DnsNameError::Character(name.to_owned())));
        }
        for name in ["*", "*.org", "a.*.org", "a*.example.org", "*.*.org"] {
            assert_eq!(check(name), Err(DnsNameError::Wildcard(name.to_owned())));
        }
        let many = vec!["a.org"; MAX_NAMES + 1];
        assert_eq!(check_all(&many), Err(DnsNameError::TooMany(MAX_NAMES + 1)));
    }
}
