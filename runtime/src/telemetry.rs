//! Logs: to standard error, as text for people or JSON lines for programs.

mod level;
pub mod traces;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, reload};

pub use level::LogLevel;

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
    /// A word that is no level.
    #[error(
        "`{0}` is not a log level: write `off`, `error`, `warn`, `info`, `debug` or `trace`, or `info,PART=debug`"
    )]
    Word(String),
    /// The log that is to change is no more.
    #[error("the log's level cannot be changed")]
    Gone(#[source] reload::Error),
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

impl LogConfig {
    /// Checks the level.
    ///
    /// # Errors
    /// [`TelemetryError::Level`] when it is not one.
    pub fn check(&self) -> Result<(), TelemetryError> {
        filter(&self.level).map(|_| ())
    }
}

/// Sends the process's events to standard error from now on.
///
/// # Errors
/// [`TelemetryError`] when the level is not valid, or logging was set up before.
pub fn init(config: &LogConfig) -> Result<LogLevel, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&config.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(lines.with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
    .map_err(TelemetryError::Twice)?;
    Ok(LogLevel::new(config, Some(handle)))
}

fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = |source| TelemetryError::Level {
        level: level.to_owned(),
        source,
    };
    // A bare word that is no level is taken for a part by the parser, and would silence all others.
    let words: Vec<&str> = level.split(',').map(str::trim).collect();
    for word in words.iter().filter(|word| !word.contains(['=', '['])) {
        // An empty one is a level for the library, and a slip for everybody else.
        let known = !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        if !known {
            return Err(TelemetryError::Word((*word).to_owned()));
        }
    }
    EnvFilter::try_new(format!("{QUIET},{}", words.join(","))).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_none_is_named() {
        for (bad, named) in [
            ("vouchsafe=loud", "`vouchsafe=loud`"),
            ("inof", "`inof`"),
            ("", "``"),
        ] {
            let config = LogConfig {
                level: bad.to_owned(),
                ..LogConfig::default()
            };
            let refused = config.check().unwrap_err().to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn clients_cannot_fill_the_log_by_the_http2_library_unless_the_config_wants_it() {
        let of = |level: &str| filter(level).unwrap().to_string();
        assert!(of("info").contains("h2=error"), "{}", of("info"));
        let wanted = of("info,h2=debug");
        assert!(
            wanted.contains("h2=debug") && !wanted.contains("h2=error"),
            "{wanted}"
        );
    }

    #[test]
    fn levels_by_target_are_taken() {
        for good in [
            "warn,vouchsafe_server=debug",
            "INFO",
            "off",
            "info, vouchsafe_agent=trace",
        ] {
            assert!(filter(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_level_that_is_refused_changes_nothing_and_a_reset_goes_back_to_the_start() {
        let level = LogLevel::default();
        level.set("debug").unwrap();
        assert!(level.set("loud").is_err());
        assert_eq!(level.current(), "debug");
        level.reset().unwrap();
        assert_eq!((level.current().as_str(), level.launch()), ("info", "info"));
    }
}
