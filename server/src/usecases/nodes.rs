//! Nodes: attestation, two-phase renewal, banning and deletion of agents.
//!
//! Each write expects the node (and the token) as it was read, so that of two that race one wins.

mod restored;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_attestors::{Attested, Challenger, NodeAttestError, NodeVerifier};
use vouchsafe_ca::{CaError, CaManager, X509Request};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::CertifiedChain;
use vouchsafe_identity::x509::csr::{self, CsrError};
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Expect, HandedOut, Key, Node, Record, SharedStore, StoreError,
    TokenHash, Versioned,
};

use super::classes::no_class_owns;
use super::registry::{self, RegistryError};
use super::{Origin, tokens};
use crate::index::Index;
use crate::metrics::{Issued, SvidKind};

/// Longest version that an agent may report, in bytes (SPIRE's limit).
pub const MAX_VERSION_BYTES: usize = 255;
/// How often a write is tried anew when others change the same node meanwhile.
const MAX_ATTEMPTS: usize = 16;
/// First two segments of every agent's path.
const AGENT_PREFIX: &str = "/spire/agent/";

/// Why an agent may not do what only agents in good standing may; agents act on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentRefusal {
    /// The SVID that it shows has expired.
    #[error("agent `{0}` shows an SVID that has expired")]
    Expired(SpiffeId),
    /// The server does not know it.
    #[error("agent `{0}` is not attested")]
    NotAttested(SpiffeId),
    /// An operator shut it out.
    #[error("agent `{0}` is banned")]
    Banned(SpiffeId),
    /// It shows an SVID that a newer one has replaced.
    #[error("agent `{0}` shows an SVID that is not active any more")]
    NotActive(SpiffeId),
    /// It may attest again, and so must, instead of renewing.
    #[error("agent `{0}` must attest again instead of renewing")]
    MustReattest(SpiffeId),
}

/// Why something about a node was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A field of the request is wrong.
    #[error("{0}")]
    Request(String),
    /// The certificate request is wrong.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// No attestor of this name is set up.
    #[error("could not find node attestor type `{0}`")]
    UnknownAttestor(String),
    /// The verifier did not believe the node, or could not tell.
    #[error("failed to attest: {0}")]
    Attest(#[from] NodeAttestError),
    /// The node proved itself and is shut out.
    #[error("failed to attest: agent is banned")]
    BannedAtAttestation,
    /// The node proved itself once already, and that proof counts once.
    #[error("failed to attest: agent `{0}` has already attested; evict it before it attests again")]
    AttestedBefore(SpiffeId),
    /// The agent is not in good standing.
    #[error(transparent)]
    Refused(#[from] AgentRefusal),
    /// There is no such agent.
    #[error("agent `{0}` not found")]
    NotFound(SpiffeId),
    /// Others kept changing the same node.
    #[error("agent `{0}` is being changed by others: try again")]
    Busy(SpiffeId),
    /// The authority could not issue.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The alias entry could not be made.
    #[error(transparent)]
    Alias(#[from] RegistryError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an agent gets for its proof.
#[derive(Debug)]
pub struct Admitted {
    /// Its SVID.
    pub svid: CertifiedChain,
    /// Whether it may attest again.
    pub can_reattest: bool,
}

/// Attests, renews, bans and deletes nodes.
#[derive(Clone)]
pub struct Nodes {
    trust_domain: TrustDomain,
    store: SharedStore,
    index: Arc<Index>,
    ca: Arc<CaManager>,
    verifiers: HashMap<&'static str, Arc<dyn NodeVerifier>>,
    svid_ttl: Duration,
    issued: Issued,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nodes({})", self.trust_domain)
    }
}

impl Nodes {
    /// The nodes of a trust domain, whose agents get SVIDs of `svid_ttl`.
    pub fn new(
        trust_domain: TrustDomain,
        store: SharedStore,
        index: Arc<Index>,
        ca: Arc<CaManager>,
        verifiers: Vec<Arc<dyn NodeVerifier>>,
        svid_ttl: Duration,
        issued: Issued,
    ) -> Self {
        let verifiers = verifiers.into_iter().map(|v| (v.name(), v)).collect();
        Self {
            trust_domain,
            store,
            index,
            ca,
            verifiers,
            svid_ttl,
            issued,
        }
    }

    /// Checks a node's proof and gives its agent an SVID.
    pub async fn attest(
        &self,
        origin: &Origin,
        kind: &str,
        payload: &[u8],
        csr: &[u8],
        challenger: &mut dyn Challenger,
    ) -> Result<Admitted, NodeError> {
        let csr = csr::check(csr)?;
        let verifier = self
            .verifiers
            .get(kind)
            .ok_or_else(|| NodeError::UnknownAttestor(kind.chars().take(64).collect()))?;
        let attested = verifier.verify(payload, challenger, origin.at).await?;
        self.check_agent_id(&attested.agent_id)?;
        for _ in 0..MAX_ATTEMPTS {
            let known = self.store.node(&attested.agent_id).await?;
            if let Some(known) = &known {
                check_again(&known.value, &attested)?;
            }
            let svid = self.issue(&attested.agent_id, csr.public_key.clone())?;
            let commit = self
                .admission(
                    origin,
                    verifier.name(),
                    (&attested, csr.public_key.spki()),
                    known.as_ref(),
                    &svid,
                )
                .await?;
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    return Ok(Admitted {
                        svid,
                        can_reattest: attested.can_reattest,
                    });
                }
                Err(CommitError::Conflict(Key::Token(_))) => return Err(tokens::spent().into()),
                Err(CommitError::Store(e)) => return Err(e.into()),
                Err(_) => {}
            }
        }
        Err(NodeError::Busy(attested.agent_id))
    }

    /// The agent's node, if the SVID that it shows is the one in use; the first use of a renewed one makes it so.
    pub async fn standing(
        &self,
        origin: &Origin,
        id: &SpiffeId,
        serial: &str,
        expires_at: OffsetDateTime,
    ) -> Result<Arc<Versioned<Node>>, NodeError> {
        if expires_at <= origin.at {
            return Err(AgentRefusal::Expired(id.clone()).into());
        }
        for _ in 0..MAX_ATTEMPTS {
            let node = self.index.node(id);
            let standing = check_standing(node.as_ref().map(|row| &row.value), id, serial);
            let node = node.ok_or_else(|| AgentRefusal::NotAttested(id.clone()))?;
            let (action, shown) = match standing {
                Ok(true) => return Ok(node),
                Ok(false) => match node.value.handed_out(serial) {
                    Some(handed_out) => ("node.promote", handed_out),
                    None => continue,
                },
                Err(AgentRefusal::NotActive(_))
                    if restored::after_backup(&self.store, &node.value, expires_at, self.svid_ttl) =>
                {
                    ("node.readmit", restored::shown(serial, expires_at))
                }
                Err(refusal) => return Err(refusal.into()),
            };
            self.promote(origin, &node, (action, shown)).await?;
        }
        Err(NodeError::Busy(id.clone()))
    }

    /// Gives an agent its next SVID; the old one stays in use until the new one is shown first.
    pub async fn renew(
        &self,
        origin: &Origin,
        id: &SpiffeId,
        csr: &[u8],
    ) -> Result<CertifiedChain, NodeError> {
        let csr = csr::check(csr)?;
        for _ in 0..MAX_ATTEMPTS {
            let known = self.known(id).await?;
            if known.value.can_reattest {
                return Err(AgentRefusal::MustReattest(id.clone()).into());
            }
            if known.value.banned {
                return Err(AgentRefusal::Banned(id.clone()).into());
            }
            let svid = self.issue(id, csr.public_key.clone())?;
            let facts = [("spiffe_id", id.to_string()), ("serial", svid.serial.clone())];
            let mut node = known.value;
            node.hand_out(svid.serial.clone(), svid.not_after);
            let commit = write(node, known.revision).audit(origin.change("node.renew", facts));
            if self.try_commit(commit).await? {
                return Ok(svid);
            }
        }
        Err(NodeError::Busy(id.clone()))
    }

    /// Notes the version that an agent reports.
    pub async fn post_status(&self, origin: &Origin, id: &SpiffeId, version: &str) -> Result<(), NodeError> {
        if version.len() > MAX_VERSION_BYTES {
            let text = format!("agent version is longer than the limit of {MAX_VERSION_BYTES} bytes");
            return Err(NodeError::Request(text));
        }
        for _ in 0..MAX_ATTEMPTS {
            let known = self.known(id).await?;
            if known.value.agent_version == version {
                return Ok(());
            }
            let facts = [("spiffe_id", id.to_string()), ("version", version.to_owned())];
            let node = Node {
                agent_version: version.to_owned(),
                ..known.value
            };
            let commit = write(node, known.revision).audit(origin.change("node.status", facts));
            if self.try_commit(commit).await? {
                return Ok(());
            }
        }
        Err(NodeError::Busy(id.clone()))
    }

    /// Shuts an agent out until it is deleted.
    pub async fn ban(&self, origin: &Origin, id: &SpiffeId) -> Result<(), NodeError> {
        self.check_agent_id(id)?;
        for _ in 0..MAX_ATTEMPTS {
            let known = self.known(id).await?;
            let mut node = known.value;
            node.banned = true;
            node.serial = String::new();
            node.forget_handed_out();
            let facts = [("spiffe_id", id.to_string())];
            let commit = write(node, known.revision).audit(origin.change("node.ban", facts));
            if self.try_commit(commit).await? {
                return Ok(());
            }
        }
        Err(NodeError::Busy(id.clone()))
    }

    /// Forgets an agent: its SVID is refused, and it may attest anew.
    pub async fn delete(&self, origin: &Origin, id: &SpiffeId) -> Result<(), NodeError> {
        self.check_agent_id(id)?;
        for _ in 0..MAX_ATTEMPTS {
            let known = self.known(id).await?;
            let key = Key::Node(id.clone());
            let commit = Commit::default()
                .expect(Expect::At(key.clone(), known.revision))
                .delete(key)
                .change(ChangeKind::Node(id.clone()))
                .audit(origin.change("node.delete", [("spiffe_id", id.to_string())]));
            if self.try_commit(commit).await? {
                return Ok(());
            }
        }
        Err(NodeError::Busy(id.clone()))
    }

    /// What is written when a node is admitted: the node, the spent token, the alias.
    async fn admission(
        &self,
        origin: &Origin,
        kind: &str,
        (attested, public_key): (&Attested, &[u8]),
        known: Option<&Versioned<Node>>,
        svid: &CertifiedChain,
    ) -> Result<Commit, NodeError> {
        let id = &attested.agent_id;
        let key = Key::Node(id.clone());
        let node = Node {
            id: id.clone(),
            attestation_type: kind.to_owned(),
            serial: svid.serial.clone(),
            expires_at: svid.not_after,
            next_serial: None,
            next_expires_at: None,
            handed_out_before: Vec::new(),
            selectors: attested.selectors.clone(),
            banned: false,
            can_reattest: attested.can_reattest,
            agent_version: known
                .map(|row| row.value.agent_version.clone())
                .unwrap_or_default(),
        };
        let facts = [
            ("spiffe_id", id.to_string()),
            ("attestor", kind.to_owned()),
            ("serial", svid.serial.clone()),
        ];
        let mut commit = Commit::default()
            .expect(known.map_or(Expect::Absent(key.clone()), |row| Expect::At(key, row.revision)))
            .put(Record::Node(node))
            .change(ChangeKind::Node(id.clone()))
            .audit(origin.change("node.attest", facts));
        let Some(hash) = &attested.consume else {
            return Ok(commit);
        };
        let hash = TokenHash(hash.clone());
        let token = self.store.token(&hash).await?.ok_or_else(tokens::spent)?;
        let spent = tokens::spend(
            &token.value,
            public_key,
            &svid.serial,
            known.map(|row| &row.value),
        )?;
        commit = commit
            .expect(Expect::At(Key::Token(hash), token.revision))
            .put(Record::Token(spent));
        let Some(alias) = token.value.alias else {
            return Ok(commit);
        };
        let entry = registry::alias_entry(id, alias, origin)?;
        if self.store.entry_by_shape(&entry.shape()).await?.is_some() {
            return Ok(commit);
        }
        commit.expect.extend(no_class_owns(&entry.spiffe_id));
        Ok(commit
            .expect(Expect::Absent(Key::EntryShape(entry.shape())))
            .change(ChangeKind::Entry(entry.id.clone()))
            .audit(origin.change("entry.create", registry::facts(&entry)))
            .put(Record::Entry(entry)))
    }

    /// Makes the SVID that the agent shows the one in use.
    async fn promote(
        &self,
        origin: &Origin,
        node: &Versioned<Node>,
        (action, HandedOut { serial, expires_at }): (&'static str, HandedOut),
    ) -> Result<(), NodeError> {
        let facts = [
            ("spiffe_id", node.value.id.to_string()),
            ("serial", serial.clone()),
        ];
        let mut promoted = Node {
            serial,
            expires_at,
            ..node.value.clone()
        };
        promoted.forget_handed_out();
        let commit = write(promoted, node.revision).audit(origin.change(action, facts));
        if !self.try_commit(commit).await? {
            // Somebody else wrote the node; the index shows it soon, at the latest with the revision that the store has now.
            let latest = *self.store.revisions().borrow();
            self.index.wait_for(latest).await;
        }
        Ok(())
    }

    fn issue(&self, id: &SpiffeId, public_key: CheckedKey) -> Result<CertifiedChain, CaError> {
        let svid = self.ca.issue_x509(&X509Request {
            spiffe_id: id.clone(),
            public_key,
            dns_names: Vec::new(),
            ttl: Some(self.svid_ttl),
            not_after: None,
        })?;
        self.issued.add(SvidKind::Agent, 1);
        Ok(svid)
    }

    async fn known(&self, id: &SpiffeId) -> Result<Versioned<Node>, NodeError> {
        let known = self.store.node(id).await?;
        known.ok_or_else(|| NodeError::NotFound(id.clone()))
    }

    /// Commits and waits for the index; `false` when somebody else was first.
    async fn try_commit(&self, commit: Commit) -> Result<bool, NodeError> {
        match self.store.commit(commit).await {
            Ok(revision) => {
                self.index.wait_for(revision).await;
                Ok(true)
            }
            Err(CommitError::Store(e)) => Err(e.into()),
            Err(_) => Ok(false),
        }
    }

    fn check_agent_id(&self, id: &SpiffeId) -> Result<(), NodeError> {
        if id.is_member_of(&self.trust_domain) && is_agent_id(id) {
            return Ok(());
        }
        let td = &self.trust_domain;
        Err(NodeError::Request(format!(
            "`{id}` is not the id of an agent of trust domain `{td}`"
        )))
    }
}

/// Checks the agent that shows the SVID of this serial number. `false`: it is the one handed out at renewal.
pub fn check_standing(node: Option<&Node>, id: &SpiffeId, serial: &str) -> Result<bool, AgentRefusal> {
    let node = node.ok_or_else(|| AgentRefusal::NotAttested(id.clone()))?;
    if node.banned {
        return Err(AgentRefusal::Banned(id.clone()));
    }
    if node.serial != serial && node.handed_out(serial).is_none() {
        return Err(AgentRefusal::NotActive(id.clone()));
    }
    Ok(node.serial == serial)
}

/// Whether an id is one that agents have.
pub fn is_agent_id(id: &SpiffeId) -> bool {
    id.path().starts_with(AGENT_PREFIX)
}

/// Whether a node that the server knows may attest once more.
fn check_again(known: &Node, attested: &Attested) -> Result<(), NodeError> {
    if known.banned {
        return Err(NodeError::BannedAtAttestation);
    }
    // A proof that is consumed with this commit cannot be a replay.
    if !attested.can_reattest && attested.consume.is_none() {
        return Err(NodeError::AttestedBefore(known.id.clone()));
    }
    Ok(())
}

fn write(node: Node, expected: vouchsafe_store::Revision) -> Commit {
    Commit::default()
        .expect(Expect::At(Key::Node(node.id.clone()), expected))
        .change(ChangeKind::Node(node.id.clone()))
        .put(Record::Node(node))
}
