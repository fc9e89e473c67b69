//! What every pair of prover and verifier must do, whatever proves the node. Each pair's tests call [`holds`].

use async_trait::async_trait;
use time::OffsetDateTime;
use vouchsafe_attestors::{Attested, Challenger, NodeAttestError, NodeProver, NodeVerifier};
use vouchsafe_identity::TrustDomain;

/// A pair that agrees at `now`: the verifier believes what the prover says.
pub(crate) struct Pair<'a> {
    pub(crate) prover: &'a dyn NodeProver,
    pub(crate) verifier: &'a dyn NodeVerifier,
    pub(crate) trust_domain: &'a TrustDomain,
    pub(crate) now: OffsetDateTime,
}

/// Hands each challenge to the prover.
struct Direct<'a>(&'a dyn NodeProver);

#[async_trait]
impl Challenger for Direct<'_> {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        self.0.respond(&challenge).await
    }
}

/// A node that goes away when it is challenged.
struct Silent;

#[async_trait]
impl Challenger for Silent {
    async fn challenge(&mut self, _challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        Err(NodeAttestError::Invalid("the node went away".to_owned()))
    }
}

impl Pair<'_> {
    pub(crate) async fn join(&self, payload: &[u8]) -> Result<Attested, NodeAttestError> {
        self.verifier
            .verify(payload, &mut Direct(self.prover), self.now)
            .await
    }
}

/// Runs the whole suite.
pub(crate) async fn holds(pair: &Pair<'_>) {
    assert_eq!(pair.prover.name(), pair.verifier.name());
    the_proof_is_believed_and_gives_an_agent_of_the_attestor(pair).await;
    what_is_no_proof_is_the_nodes_fault(pair).await;
    errors_do_not_repeat_the_proof(pair).await;
    an_unknown_challenge_is_refused(pair).await;
}

async fn the_proof_is_believed_and_gives_an_agent_of_the_attestor(pair: &Pair<'_>) {
    let payload = pair.prover.payload().await.unwrap();
    let attested = pair.join(&payload).await.unwrap();
    assert!(attested.agent_id.is_member_of(pair.trust_domain));
    let prefix = format!("/spire/agent/{}/", pair.verifier.name());
    assert!(
        attested.agent_id.path().starts_with(&prefix),
        "{}",
        attested.agent_id
    );
    // A look changes nothing: the server consumes a proof, in the commit that admits the node.
    assert_eq!(pair.join(&payload).await.unwrap(), attested);
    // What is used up once cannot be shown again.
    assert!(attested.consume.is_none() || !attested.can_reattest);
}

async fn what_is_no_proof_is_the_nodes_fault(pair: &Pair<'_>) {
    let payload = pair.prover.payload().await.unwrap();
    let mut longer = payload.clone();
    longer.push(b'x');
    let mut padded = payload.clone();
    padded.push(b'\n');
    let shorter = payload.get(1..).unwrap_or_default().to_vec();
    let garbage = [
        Vec::new(),
        vec![0],
        vec![0xff; 10],
        b"../../server".to_vec(),
        b"{}".to_vec(),
        vec![b'a'; 1024 * 1024],
        longer,
        padded,
        shorter,
    ];
    for bad in garbage {
        let refused = pair.verifier.verify(&bad, &mut Silent, pair.now).await;
        let fault = matches!(
            refused,
            Err(NodeAttestError::Invalid(_) | NodeAttestError::Denied(_))
        );
        assert!(
            fault,
            "{:?}: {refused:?}",
            String::from_utf8_lossy(bad.get(..40).unwrap_or(&bad))
        );
    }
}

async fn errors_do_not_repeat_the_proof(pair: &Pair<'_>) {
    let secret = b"a-secret-that-nobody-knows";
    let message = pair
        .verifier
        .verify(secret, &mut Silent, pair.now)
        .await
        .unwrap_err()
        .to_string();
    assert!(!message.contains("a-secret"), "{message}");
}

async fn an_unknown_challenge_is_refused(pair: &Pair<'_>) {
    assert!(pair.prover.respond(b"\xff unknown").await.is_err());
}
