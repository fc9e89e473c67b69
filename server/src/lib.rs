//! The Vouchsafe server: certificate authority, registry, audit over gRPC.
//!
//! A call goes through `layers` (who, whether, how much), then `api` converts it, calls one of
//! `usecases` and converts the answer. Use cases know no gRPC; `app` alone chooses implementations.

pub mod api;
pub mod app;
pub mod authorize;
pub mod caller;
pub mod command;
pub mod config;
pub mod convert;
pub mod errors;
pub mod index;
pub mod layers;
pub mod metrics;
pub mod random;
pub mod restoring;
pub mod sealed_backup;
pub mod usecases;
