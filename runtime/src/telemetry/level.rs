//! The log's level, which can be changed while the process runs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, Registry};

use super::{LogConfig, TelemetryError, filter};

/// Shows and changes the level. Cheap to clone: all clones are of the same log.
#[derive(Clone)]
pub struct LogLevel(Arc<Shared>);

struct Shared {
    launch: String,
    current: Mutex<String>,
    /// None where another part of the process set up the log, as in tests.
    log: Option<Handle<EnvFilter, Registry>>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogLevel({})", self.current())
    }
}

impl Default for LogLevel {
    /// A level that nothing is logged by.
    fn default() -> Self {
        Self::new(&LogConfig::default(), None)
    }
}

impl LogLevel {
    pub(super) fn new(config: &LogConfig, log: Option<Handle<EnvFilter, Registry>>) -> Self {
        Self(Arc::new(Shared {
            launch: config.level.clone(),
            current: Mutex::new(config.level.clone()),
            log,
        }))
    }

    /// A level, or levels by part, as it holds now.
    pub fn current(&self) -> String {
        self.lock().clone()
    }

    /// The one of the configuration.
    pub fn launch(&self) -> &str {
        &self.0.launch
    }

    /// Logs by this level, or levels by part, from now on.
    ///
    /// # Errors
    /// [`TelemetryError`] when it is not one; the log stays as it was.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        let filter = filter(level)?;
        let mut current = self.lock();
        if let Some(log) = &self.0.log {
            log.reload(filter).map_err(TelemetryError::Gone)?;
        }
        level.clone_into(&mut current);
        drop(current);
        tracing::warn!(level, "the log level was changed");
        Ok(())
    }

    /// Logs as at the start again.
    ///
    /// # Errors
    /// [`TelemetryError`] when the log is gone.
    pub fn reset(&self) -> Result<(), TelemetryError> {
        self.set(&self.0.launch.clone())
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
