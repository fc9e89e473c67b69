//! What can go wrong in the authority.

use vouchsafe_identity::jwt::JwtError;
use vouchsafe_identity::x509::issue::IssueError;
use vouchsafe_runtime::KeyError;
use vouchsafe_store::{CommitError, StoreError};

/// Why the authority could not issue or rotate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// No key is active, or the active one has expired.
    #[error("no {0} authority is active: see the server's log for why rotation failed")]
    NoActiveAuthority(&'static str),
    /// The key that should sign is not trusted any more.
    #[error(
        "the active {purpose} authority `{authority_id}` is tainted and signs nothing: prepare and activate another"
    )]
    Tainted {
        /// What it would sign.
        purpose: &'static str,
        /// Which one.
        authority_id: String,
    },
    /// The request cannot be met.
    #[error("{0}")]
    Request(String),
    /// The X.509-SVID could not be made.
    #[error("cannot issue an X.509-SVID")]
    X509(#[from] IssueError),
    /// The JWT-SVID could not be made.
    #[error("cannot issue a JWT-SVID")]
    Jwt(#[from] JwtError),
    /// The key manager failed.
    #[error("key manager failed")]
    Keys(#[from] KeyError),
    /// The store failed.
    #[error("store failed")]
    Store(#[from] StoreError),
    /// The store refused a rotation.
    #[error("rotation could not be stored")]
    Commit(#[from] CommitError),
    /// A stored key or certificate is not what the journal says.
    #[error("key slot {slot} is unusable: {reason}")]
    Slot {
        /// Purpose and slot.
        slot: String,
        /// What is wrong.
        reason: String,
    },
}

/// An error and all that stands behind it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
