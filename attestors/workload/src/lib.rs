//! Workload attestors: `unix` says who a process is and what was executed, `process` what an interpreter
//! runs, and [`Measurer`] joins them. They read `/proc` through descriptors that belong to one process, or
//! by a number that its pidfd shows to be its own still; and they decide nothing about who gets an identity.

#[cfg(test)]
mod contract;
mod digest;
mod interpreter;
mod measure;
mod names;
mod owners;
mod proc_dir;
mod process;
mod pyvenv;
mod reads;
mod record;
mod script;
mod shebang;
#[cfg(test)]
mod subject;
mod text;
mod unix;

pub use digest::DEFAULT_HASH_LIMIT_BYTES;
pub use interpreter::{Interpreter, Program, Unclear};
pub use measure::{AgentNamespaces, Fingerprint, Measurement, Measurer};
pub use owners::SUBORDINATE_UIDS;
pub use process::{ProcessAttestor, ProcessConfig, ask, lineage};
pub use pyvenv::{MAX_PYVENV_BYTES, PYTHON_LOCKS, Pyvenv, PyvenvError};
pub use reads::{DEFAULT_READS_PER_UID, MAX_READ_TIME, OWNER_READS_FACTOR, Reads};
pub use record::{Installed, MAX_RECORD_BYTES, RecordError};
pub use shebang::{HEAD_BYTES, Shebang, ShebangError};
pub use unix::{UnixAttestor, UnixConfig};
