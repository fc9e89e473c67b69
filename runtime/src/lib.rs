//! What both daemons share: clock, tasks, readiness, config, telemetry, keys, TLS, unix sockets.

pub mod clock;
pub mod keys;
pub mod tasks;

pub use clock::Clock;
pub use keys::{KeyError, KeyManager};
pub use tasks::{TaskFailed, TaskFailures, TaskGroup};
