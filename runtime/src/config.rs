//! Configuration files: TOML, read once, every mistake named with its line and the way out.
//!
//! Types that are loaded carry `#[serde(deny_unknown_fields)]`; this module turns what serde then says
//! into an error that names the nearest known key. The process environment is read here and nowhere else.

mod explain;
pub mod units;

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

pub use units::{ByteSize, Span};

/// Longest configuration file in bytes.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("config file `{0}` does not exist: create it, or name another with `--config`")]
    Missing(String),
    /// The system refused to read the file.
    #[error("cannot read config file `{path}`")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file is longer than [`MAX_CONFIG_BYTES`].
    #[error("config file `{0}` is longer than the limit of {MAX_CONFIG_BYTES} bytes")]
    TooLong(String),
    /// The file is not UTF-8.
    #[error("config file `{0}` is not UTF-8 text")]
    NotText(String),
    /// The text is not TOML.
    #[error("{origin}, line {line}: not TOML: {reason}")]
    Syntax {
        /// The file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        reason: String,
    },
    /// A key that nothing reads.
    #[error("{origin}, line {line}: unknown key `{key}`{}", explain::hint(nearest.as_deref(), known))]
    UnknownKey {
        /// The file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// The key with the tables that it stands in.
        key: String,
        /// The known key that looks most like it, if one does.
        nearest: Option<String>,
        /// All keys that may stand there.
        known: Vec<String>,
    },
    /// A key that must be there is not.
    #[error("{origin}: required key `{key}` is missing")]
    MissingKey {
        /// The file.
        origin: String,
        /// The key with the tables that it belongs in.
        key: String,
    },
    /// A value of the wrong type, or one that its type refuses.
    #[error("{origin}, line {line}: key `{key}`: {reason}")]
    BadValue {
        /// The file.
        origin: String,
        /// Line, from 1.
        line: usize,
        /// The key with the tables that it stands in.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError`], when the file cannot be read or does not hold a `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    parse(&read(path, &name)?, &name)
}

/// Parses a configuration text; `origin` is the file's name in errors.
///
/// # Errors
/// [`ConfigError`] when the text is not TOML or does not hold a `T`.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|e| explain::explain(text, origin, &e))
}

/// A variable of the process environment, when it is set, not empty and text.
///
/// For what a host passes that way by convention, such as `NOTIFY_SOCKET`; settings stand in files.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the environment"
)]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing(name.to_owned()),
        _ => ConfigError::Unreadable {
            path: name.to_owned(),
            source,
        },
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_CONFIG_BYTES) {
        return Err(ConfigError::TooLong(name.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| ConfigError::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests;
