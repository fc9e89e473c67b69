//! What both daemons share: clock, tasks, readiness, config, telemetry, keys, TLS, unix sockets.

pub mod clock;
pub mod config;
pub mod exit;
pub mod handed;
pub mod keys;
pub mod metrics;
pub mod notify;
pub mod readiness;
pub mod run;
pub mod seal;
pub mod serving;
pub mod set_digest;
pub mod signals;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod uds;

pub use clock::Clock;
pub use config::{ByteSize, ConfigError, Span};
pub use exit::ExitCode;
pub use handed::Handed;
pub use keys::{DiskKeys, KeyError, KeyManager, MemoryKeys};
pub use readiness::{Readiness, ReadyGuard};
pub use set_digest::{ItemDigest, SetDigest};
pub use tasks::{TaskFailed, TaskFailures, TaskGroup};
