//! The certificate authority: issuing SVIDs, and the life cycle of the keys that sign them.
//!
//! What to do and when is decided in [`life_cycle`], which knows no clock and no store;
//! [`CaManager`] carries it out. Issuing reads one snapshot in memory, never the store.

pub mod config;
pub mod error;
pub mod issue;
pub mod life_cycle;
mod manager;
pub mod purpose;
mod record;
mod slots;
pub mod steps;

pub use config::CaConfig;
pub use error::CaError;
pub use issue::{IssuedJwt, JwtRequest, X509Request};
pub use manager::CaManager;
pub use steps::{Authority, Kind, Step, StepError};
