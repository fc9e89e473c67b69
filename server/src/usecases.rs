//! What the server does for its callers, in its own words: no gRPC type is known here.
//!
//! Each use case gets an [`Origin`], which names the call in the audit records of its changes, and
//! returns when its own writes show in the index.

pub mod classes;
pub mod following;
pub mod issuing;
pub mod nodes;
pub mod origin;
pub mod registry;
pub mod runs;
pub mod tokens;

pub use origin::Origin;
