//! Join tokens: a secret that an operator made and that lets one node join, once.
//!
//! The payload is the token's bytes, as in SPIRE, and so is the agent's id: it ends in the token, which
//! is spent by then. The server keeps only the token's hash.

use std::sync::Arc;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use time::OffsetDateTime;
use vouchsafe_attestors::{Attested, Challenger, NodeAttestError, NodeProver, NodeVerifier};
use vouchsafe_identity::{Secret, SelectorSet, TrustDomain};

/// The attestor's name.
pub const NAME: &str = "join_token";
/// Longest token in bytes.
pub const MAX_TOKEN_BYTES: usize = 255;
/// Random bytes in a token that we make.
const RANDOM_BYTES: usize = 16;

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token would not make the last segment of a SPIFFE ID.
    #[error(
        "a join token has 1 to {MAX_TOKEN_BYTES} letters, digits, `.`, `_` or `-`, and is not `.` or `..`"
    )]
    Malformed,
    /// The system gives no random numbers.
    #[error("no random numbers are to be had")]
    NoRandomness,
}

/// A join token; its `Debug` shows nothing of it.
#[derive(Debug)]
pub struct Token(Secret<String>);

impl Token {
    /// Checks and wraps a token.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] when it cannot be the last segment of a SPIFFE ID.
    pub fn new(text: &str) -> Result<Self, TokenError> {
        let good = !text.is_empty()
            && text.len() <= MAX_TOKEN_BYTES
            && !matches!(text, "." | "..")
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !good {
            return Err(TokenError::Malformed);
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    /// A new random token of 128 bits.
    ///
    /// # Errors
    /// [`TokenError::NoRandomness`] when the system gives no random numbers.
    pub fn generate() -> Result<Self, TokenError> {
        let mut bytes = [0; RANDOM_BYTES];
        rand::fill(&mut bytes).map_err(|_| TokenError::NoRandomness)?;
        Ok(Self(Secret::new(hex::encode(bytes))))
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// SHA-256 of the token in lower-case hex: what a server keeps of it.
    pub fn hash(&self) -> String {
        hex::encode(digest(&SHA256, self.expose().as_bytes()))
    }
}

/// What a server knows of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// Until when it may be used.
    pub expires_at: OffsetDateTime,
}

/// Finds tokens by their hash.
#[async_trait]
pub trait TokenLookup: Send + Sync {
    /// The token, or `None` when there is none. Whether it has been used is the admission's business: a node whose
    /// answer was lost may ask again.
    ///
    /// # Errors
    /// [`NodeAttestError::Internal`] when it cannot be told.
    async fn find(&self, hash: &str) -> Result<Option<TokenFacts>, NodeAttestError>;
}

/// The node's half.
#[derive(Debug)]
pub struct Prover(Token);

impl Prover {
    /// Proves itself with a token.
    pub fn new(token: Token) -> Self {
        Self(token)
    }
}

#[async_trait]
impl NodeProver for Prover {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn payload(&self) -> Result<Vec<u8>, NodeAttestError> {
        Ok(self.0.expose().as_bytes().to_vec())
    }

    async fn respond(&self, _challenge: &[u8]) -> Result<Vec<u8>, NodeAttestError> {
        Err(NodeAttestError::Invalid(
            "join tokens know no challenge".to_owned(),
        ))
    }
}

/// The server's half.
pub struct Verifier {
    trust_domain: TrustDomain,
    tokens: Arc<dyn TokenLookup>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "join_token::Verifier({})", self.trust_domain)
    }
}

impl Verifier {
    /// Believes nodes that show a token which `tokens` knows.
    pub fn new(trust_domain: TrustDomain, tokens: Arc<dyn TokenLookup>) -> Self {
        Self { trust_domain, tokens }
    }
}

/// What a node is told whose token is not known (SPIRE's text).
pub fn unknown_token() -> NodeAttestError {
    NodeAttestError::Invalid("join token does not exist or has already been used".to_owned())
}

#[async_trait]
impl NodeVerifier for Verifier {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn verify(
        &self,
        payload: &[u8],
        _challenger: &mut dyn Challenger,
        now: OffsetDateTime,
    ) -> Result<Attested, NodeAttestError> {
        let text = std::str::from_utf8(payload).map_err(|_| unknown_token())?;
        let token = Token::new(text).map_err(|_| unknown_token())?;
        let hash = token.hash();
        let facts = self.tokens.find(&hash).await.map_err(|error| {
            // The operator reads the cause here; the node learns no more than that it failed.
            tracing::error!(%error, "cannot look up a join token");
            NodeAttestError::Internal("failed to fetch join token".to_owned())
        })?;
        let facts = facts.ok_or_else(unknown_token)?;
        if facts.expires_at <= now {
            return Err(NodeAttestError::Invalid("join token expired".to_owned()));
        }
        let agent_id = self
            .trust_domain
            .with_path(&format!("/spire/agent/{NAME}/{}", token.expose()))
            .map_err(|_too_long| NodeAttestError::Internal("failed to create join token ID".to_owned()))?;
        Ok(Attested {
            agent_id,
            selectors: SelectorSet::new(),
            can_reattest: false,
            consume: Some(hash),
        })
    }
}

#[cfg(test)]
mod tests;
