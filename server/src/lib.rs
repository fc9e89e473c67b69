//! The Vouchsafe server: certificate authority, registry, audit over gRPC.
//!
//! A call goes through `layers` (who, whether, how much), then `api` converts it, calls one of
//! `usecases` and converts the answer. Use cases know no gRPC; `app` alone chooses implementations.

pub mod caller;
pub mod config;
pub mod index;
pub mod usecases;
