//! Logs: to standard error, as text for people or JSON lines for programs.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// What holds unless the config says otherwise: the HTTP/2 library warns of each misbehaving client, who could so fill
/// the log at will.
const QUIET: &str = "h2=error";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level is not one, nor a list of `target=level`.
    #[error("log level `{level}` is not valid: write `info`, or `info,vouchsafe_agent=debug`")]
    Level {
        /// The text as given.
        level: String,
        /// What the filter's parser says.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging is set up already.
    #[error("logging is set up already")]
    Twice(#[source] TryInitError),
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or levels by target: `info`, `info,vouchsafe_agent=debug`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// Sends the process's events to standard error from now on.
///
/// # Errors
/// [`TelemetryError`] when the level is not valid, or logging was set up before.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = filter(config)?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(lines.with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(TelemetryError::Twice)
}

fn filter(config: &LogConfig) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("{QUIET},{}", config.level)).map_err(|source| TelemetryError::Level {
        level: config.level.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_named() {
        let config = LogConfig {
            level: "vouchsafe=loud".to_owned(),
            ..LogConfig::default()
        };
        let refused = filter(&config).unwrap_err().to_string();
        assert!(refused.contains("`vouchsafe=loud`"), "{refused}");
    }

    #[test]
    fn clients_cannot_fill_the_log_by_the_http2_library_unless_the_config_wants_it() {
        let of = |level: &str| {
            filter(&LogConfig {
                level: level.to_owned(),
                ..LogConfig::default()
            })
            .unwrap()
            .to_string()
        };
        assert!(of("info").contains("h2=error"), "{}", of("info"));
        let wanted = of("info,h2=debug");
        assert!(
            wanted.contains("h2=debug") && !wanted.contains("h2=error"),
            "{wanted}"
        );
    }

    #[test]
    fn levels_by_target_are_taken() {
        let config = LogConfig {
            level: "warn,vouchsafe_server=debug".to_owned(),
            ..LogConfig::default()
        };
        assert!(filter(&config).is_ok());
    }
}
