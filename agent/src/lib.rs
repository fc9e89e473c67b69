//! The Vouchsafe node agent: attests processes, serves the SPIFFE Workload API.
//!
//! [`App`] is the whole agent: `App::build` binds every listener, [`App::run`] serves until it is told to stop.
//! Nothing here depends on our server: any server that speaks SPIRE's protocol will do.

pub mod admin;
pub mod app;
pub mod bootstrap;
pub mod cache;
pub mod caller;
pub mod command;
pub mod config;
pub mod entry;
pub mod explain;
pub mod knowledge;
pub mod metrics;
pub mod node;
pub mod random;
pub mod render;
pub mod runs;
pub mod sealed;
pub mod status;
pub mod sync;
#[cfg(test)]
pub(crate) mod testing;
pub mod upstream;
pub mod workload;

pub use app::{Addresses, App, AppError, Host};
pub use config::Config;
