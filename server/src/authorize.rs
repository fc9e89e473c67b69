//! Who may call what. One table names every method; what does not stand in it is refused.
//!
//! Rights are tried in SPIRE's order: open to all, local, admin, downstream, agent.

mod table;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use time::OffsetDateTime;
use vouchsafe_identity::SpiffeId;

use crate::caller::{Caller, Peer, Proof, Scope};
use crate::index::{Index, Privileges};
use crate::usecases::Origin;
use crate::usecases::nodes::{NodeError, Nodes, is_agent_id};

pub use table::{Rate, Rule, methods, rule};

/// Why a call is not let through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No method of this name stands in the table.
    #[error("method `{0}` is not known")]
    UnknownMethod(String),
    /// The caller has none of the rights that the method asks for.
    #[error("authorization denied for method {0}")]
    Denied(&'static str),
    /// The caller is an agent whose SVID nobody vouches for any more.
    #[error(
        "the authority that signed the SVID of agent `{0}` was revoked: connect with a newer SVID, or join again"
    )]
    Revoked(SpiffeId),
    /// The caller is an agent that may not act as one now.
    #[error(transparent)]
    Agent(#[from] NodeError),
}

/// A caller before its right is looked at: the peer, and what entries and config make of its id.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The other end of the connection.
    pub peer: Arc<Peer>,
    /// What it may be beside an agent.
    pub privileges: Privileges,
    /// Whether the authority of its SVID was not revoked since it connected.
    pub vouched_for: bool,
}

/// Decides by the table.
#[derive(Debug, Clone)]
pub struct Authorizer {
    index: Arc<Index>,
    nodes: Nodes,
    admin_ids: Arc<HashSet<SpiffeId>>,
}

impl Authorizer {
    /// Decides with the entries of an index, the standing of nodes and the admins of the config.
    pub fn new(index: Arc<Index>, nodes: Nodes, admin_ids: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self {
            index,
            nodes,
            admin_ids: Arc::new(admin_ids.into_iter().collect()),
        }
    }

    /// What the peer may be, by entries and config.
    pub fn candidate(&self, peer: Arc<Peer>, now: OffsetDateTime) -> Candidate {
        let privileges = match &peer.proof {
            Proof::Svid { id, .. } => {
                let by_entries = self.index.privileges(id, now);
                Privileges {
                    admin: by_entries.admin || self.admin_ids.contains(id),
                    ..by_entries
                }
            }
            Proof::Local { .. } | Proof::None => Privileges::default(),
        };
        Candidate {
            peer,
            privileges,
            vouched_for: true,
        }
    }

    /// The caller with the right by which it may call a method.
    ///
    /// # Errors
    /// [`Refusal`] when it has none.
    pub async fn authorize(
        &self,
        method: &'static str,
        rule: Rule,
        candidate: &Candidate,
        origin: &Origin,
    ) -> Result<Caller, Refusal> {
        let peer = &candidate.peer;
        let caller = |scope| Caller {
            principal: peer.principal(),
            scope,
            agent: None,
        };
        let (id, serial, expires_at) = match &peer.proof {
            Proof::Local { .. } if rule.any || rule.local => return Ok(caller(Scope::Local)),
            _ if rule.any => return Ok(caller(Scope::None)),
            Proof::Svid {
                id,
                serial,
                expires_at,
            } => (id, serial, *expires_at),
            Proof::Local { .. } | Proof::None => return Err(Refusal::Denied(method)),
        };
        let fresh = expires_at > origin.at && candidate.vouched_for;
        if rule.admin && candidate.privileges.admin && fresh {
            return Ok(caller(Scope::Admin));
        }
        if rule.downstream && candidate.privileges.downstream && fresh {
            return Ok(caller(Scope::Downstream));
        }
        if rule.agent && is_agent_id(id) {
            if !candidate.vouched_for && !rule.revoked {
                return Err(Refusal::Revoked(id.clone()));
            }
            let origin = Origin {
                scope: Scope::Agent.name(),
                ..origin.clone()
            };
            let node = self.nodes.standing(&origin, id, serial, expires_at).await?;
            return Ok(Caller {
                agent: Some(node),
                ..caller(Scope::Agent)
            });
        }
        Err(Refusal::Denied(method))
    }
}
