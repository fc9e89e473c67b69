//! SPIFFE values: ids, selectors, keys, bundles, SVID templates, signing and verifying.
//!
//! Nothing here does IO, reads a clock or is async: `now` is always a parameter, so that
//! each rule of the SPIFFE standards can be tested with plain values.

pub mod bundle;
pub mod id;
pub mod key;
pub mod selector;

pub use bundle::{Bundle, JwtAuthority, X509Authority};
pub use id::{SpiffeId, SpiffeIdError, TrustDomain};
pub use key::{KeyAlgorithm, SignError, Signer};
pub use selector::{Selector, SelectorError, SelectorSet};
