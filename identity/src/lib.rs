//! SPIFFE values: ids, selectors, keys, bundles, SVID templates, signing and verifying.
//!
//! Nothing here does IO, reads a clock or is async: `now` is always a parameter, so that
//! each rule of the SPIFFE standards can be tested with plain values.

pub mod bundle;
mod der;
pub mod id;
pub mod jwt;
pub mod key;
pub mod public_key;
pub mod run;
pub mod secret;
pub mod selector;
pub mod x509;

pub use bundle::{Bundle, BundleError, JwtAuthority, X509Authority};
pub use id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use key::{KeyAlgorithm, KeyMaterialError, LocalKey, SignError, Signer, random_serial};
pub use run::{ClassId, ClassName, Labels, RunId, RunIdentity, Sha256, TaskId};
pub use secret::Secret;
pub use selector::{Selector, SelectorError, SelectorSet};
