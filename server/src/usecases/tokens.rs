//! Join tokens: made for operators, looked up for the verifier, spent with the node's admission.

use std::time::Duration;

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use time::OffsetDateTime;
use vouchsafe_attestors::NodeAttestError;
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_node_attestors::join_token::{self, Token, TokenFacts, TokenLookup};
use vouchsafe_store::{
    Commit, CommitError, Expect, JoinToken, Key, Node, Record, SharedStore, Spent, StoreError, TokenHash,
};

use super::Origin;
use super::classes::no_class_owns;
use super::registry::{RuleError, workload_id};

/// Longest time for which a token may be valid.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The life is missing or too long.
    #[error("ttl is required, at least 1 second and at most {} seconds", MAX_TOKEN_TTL.as_secs())]
    Ttl,
    /// The chosen text cannot be a token.
    #[error(transparent)]
    Text(#[from] join_token::TokenError),
    /// The alias is not one that an agent may have.
    #[error(transparent)]
    Alias(#[from] RuleError),
    /// The alias belongs to a class.
    #[error("agent_id belongs to a class and its runs: choose another alias")]
    OfClass,
    /// The chosen token is in use.
    #[error("this join token already exists: choose another, or let the server choose")]
    Exists,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A new token.
#[derive(Debug)]
pub struct NewToken {
    /// The token; nobody but the caller gets to know it.
    pub token: Token,
    /// Until when it may be used.
    pub expires_at: OffsetDateTime,
}

/// Makes join tokens and finds them again.
#[derive(Clone)]
pub struct Tokens {
    trust_domain: TrustDomain,
    store: SharedStore,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.trust_domain)
    }
}

impl Tokens {
    /// The tokens of a trust domain.
    pub fn new(trust_domain: TrustDomain, store: SharedStore) -> Self {
        Self { trust_domain, store }
    }

    /// Makes a token that is valid for `ttl`; `text` and `alias` are the caller's choice, if given.
    pub async fn create(
        &self,
        origin: &Origin,
        ttl: Duration,
        text: Option<&str>,
        alias: Option<SpiffeId>,
    ) -> Result<NewToken, TokenError> {
        if ttl.is_zero() || ttl > MAX_TOKEN_TTL {
            return Err(TokenError::Ttl);
        }
        if let Some(alias) = &alias {
            workload_id("agent_id", &self.trust_domain, alias)?;
        }
        let token = text.map_or_else(Token::generate, Token::new)?;
        let hash = TokenHash(token.hash());
        let expires_at = (origin.at + ttl).replace_nanosecond(0).unwrap_or(origin.at);
        let alias_fact = alias.as_ref().map(ToString::to_string).unwrap_or_default();
        let facts = [("alias", alias_fact), ("expires_at", expires_at.to_string())];
        let (key, of_class) = (Key::Token(hash.clone()), alias.clone());
        let expected = match self.store.token(&hash).await? {
            Some(old) if old.value.spent.is_some() => Expect::At(key, old.revision),
            _ => Expect::Absent(key),
        };
        let mut commit = Commit::default()
            .expect(expected)
            .put(Record::Token(JoinToken {
                hash,
                expires_at,
                alias,
                spent: None,
            }))
            .audit(origin.change("token.create", facts));
        if let Some(alias) = &of_class {
            commit.expect.extend(no_class_owns(alias));
        }
        match self.store.commit(commit).await {
            Ok(_revision) => Ok(NewToken { token, expires_at }),
            Err(CommitError::Store(e)) => Err(e.into()),
            Err(CommitError::Conflict(Key::ClassId(_))) => Err(TokenError::OfClass),
            Err(_) => Err(TokenError::Exists),
        }
    }

    /// Removes tokens that have expired; returns how many.
    pub async fn prune(&self, origin: &Origin) -> Result<usize, StoreError> {
        const PAGE_ROWS: usize = 1000;
        let (mut after, mut pruned) = (None, 0);
        loop {
            let page = self.store.tokens(after.as_ref(), PAGE_ROWS).await?;
            let Some(last) = page.last() else {
                return Ok(pruned);
            };
            after = Some(last.value.hash.clone());
            let ended: Vec<_> = page
                .into_iter()
                .filter(|row| row.value.expires_at <= origin.at)
                .collect();
            if ended.is_empty() {
                continue;
            }
            let count = ended.len();
            let mut commit =
                Commit::default().audit(origin.change("token.prune", [("count", count.to_string())]));
            for row in ended {
                let key = Key::Token(row.value.hash);
                commit = commit.expect(Expect::At(key.clone(), row.revision)).delete(key);
            }
            match self.store.commit(commit).await {
                Ok(_revision) => pruned += count,
                Err(CommitError::Store(e)) => return Err(e),
                // One of them was spent meanwhile: the next round takes the others.
                Err(_) => {}
            }
        }
    }
}

#[async_trait]
impl TokenLookup for Tokens {
    async fn find(&self, hash: &str) -> Result<Option<TokenFacts>, NodeAttestError> {
        let found = self.store.token(&TokenHash(hash.to_owned())).await;
        let found = found.map_err(|e| NodeAttestError::Internal(e.to_string()))?;
        Ok(found.map(|row| TokenFacts {
            expires_at: row.value.expires_at,
        }))
    }
}

/// The token as it stands once the node with this key has been given the SVID of this serial.
///
/// A token counts once. Only the node that used it may show it again, with the same key, as long as it has not used
/// what it was given: then the answer was lost on its way, and without another one the node would be locked out.
pub(super) fn spend(
    token: &JoinToken,
    public_key: &[u8],
    serial: &str,
    known: Option<&Node>,
) -> Result<JoinToken, NodeAttestError> {
    let public_key_sha256 = hex::encode(digest(&SHA256, public_key));
    if let Some(first) = &token.spent {
        let answer_was_lost = known.is_some_and(|node| {
            node.serial == first.serial && node.next_serial.is_none() && node.agent_version.is_empty()
        });
        if first.public_key_sha256 != public_key_sha256 || !answer_was_lost {
            return Err(spent());
        }
    }
    Ok(JoinToken {
        spent: Some(Spent {
            public_key_sha256,
            serial: serial.to_owned(),
        }),
        ..token.clone()
    })
}

/// What a node is told whose token another one used first.
pub(super) fn spent() -> NodeAttestError {
    join_token::unknown_token()
}
