//! Join tokens: refusals first.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::contract::{self, Pair};

struct Known(HashMap<String, TokenFacts>);

#[async_trait]
impl TokenLookup for Known {
    async fn find(&self, hash: &str) -> Result<Option<TokenFacts>, NodeAttestError> {
        Ok(self.0.get(hash).cloned())
    }
}

/// A store that is down.
struct Down;

#[async_trait]
impl TokenLookup for Down {
    async fn find(&self, _hash: &str) -> Result<Option<TokenFacts>, NodeAttestError> {
        Err(NodeAttestError::Internal("no disk at 10.0.0.1".to_owned()))
    }
}

struct NoChallenge;

#[async_trait]
impl Challenger for NoChallenge {
    async fn challenge(&mut self, _challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        Err(NodeAttestError::Internal("no challenge is expected".to_owned()))
    }
}

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn verifier(token: &str, expires_at: OffsetDateTime) -> Verifier {
    let hash = Token::new(token).unwrap().hash();
    let known = Known(HashMap::from([(hash, TokenFacts { expires_at })]));
    Verifier::new(TrustDomain::new("example.org").unwrap(), Arc::new(known))
}

async fn verify(verifier: &Verifier, payload: &[u8]) -> Result<Attested, String> {
    let outcome = verifier.verify(payload, &mut NoChallenge, NOW).await;
    outcome.map_err(|e| e.to_string())
}

#[tokio::test]
async fn a_token_that_is_not_known_is_refused_whatever_it_looks_like() {
    let verifier = verifier("good", NOW + time::Duration::seconds(1));
    let long = [b'a'; MAX_TOKEN_BYTES + 1];
    for payload in [
        &b"other"[..],
        b"",
        b"a/b",
        b"..",
        b"\xff",
        b"good ",
        b"GOOD",
        &long,
    ] {
        let refused = verify(&verifier, payload).await.unwrap_err();
        assert_eq!(refused, "join token does not exist or has already been used");
    }
}

#[tokio::test]
async fn a_token_is_refused_from_its_end_on() {
    assert_eq!(
        verify(&verifier("t", NOW), b"t").await.unwrap_err(),
        "join token expired"
    );
}

#[tokio::test]
async fn a_store_that_does_not_answer_refuses_and_tells_the_node_nothing() {
    let verifier = Verifier::new(TrustDomain::new("example.org").unwrap(), Arc::new(Down));
    let refused = verifier.verify(b"good", &mut NoChallenge, NOW).await;
    assert!(matches!(refused, Err(NodeAttestError::Internal(text)) if text == "failed to fetch join token"));
}

#[test]
fn what_cannot_be_a_segment_of_an_id_is_no_token() {
    let long = "a".repeat(MAX_TOKEN_BYTES + 1);
    for text in ["", ".", "..", "a/b", "a b", "a\n", "a%2e", "ä", &long] {
        assert_eq!(Token::new(text).unwrap_err(), TokenError::Malformed, "{text:?}");
    }
    assert!(Token::new(&long[1..]).is_ok());
}

#[test]
fn the_hash_is_sha256_in_lower_case_hex() {
    let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Token::new("abc").unwrap().hash(), known);
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let token = Token::generate().unwrap();
    let verifier = verifier(token.expose(), NOW + time::Duration::seconds(1));
    let pair = Pair {
        prover: &Prover::new(token),
        verifier: &verifier,
        trust_domain: &TrustDomain::new("example.org").unwrap(),
        now: NOW,
    };
    contract::holds(&pair).await;
}

#[tokio::test]
async fn prover_and_verifier_agree() {
    let token = Token::generate().unwrap();
    let (text, hash) = (token.expose().to_owned(), token.hash());
    let payload = Prover::new(token).payload().await.unwrap();
    let verifier = verifier(&text, NOW + time::Duration::seconds(1));
    let attested = verify(&verifier, &payload).await.unwrap();
    assert_eq!(
        attested.agent_id.path(),
        format!("/spire/agent/join_token/{text}")
    );
    assert_eq!(attested.consume, Some(hash));
    assert!(!attested.can_reattest && attested.selectors.is_empty());
}

#[test]
fn tokens_differ_and_do_not_show_themselves() {
    let (one, two) = (Token::generate().unwrap(), Token::generate().unwrap());
    assert_ne!(one.expose(), two.expose());
    assert!(!format!("{one:?}").contains(one.expose()));
}

proptest! {
    #[test]
    fn every_token_is_the_last_segment_of_an_agents_id(text in ".{0,40}") {
        if let Ok(token) = Token::new(&text) {
            let path = format!("/spire/agent/{NAME}/{}", token.expose());
            let id = TrustDomain::new("example.org").unwrap().with_path(&path).unwrap();
            prop_assert_eq!(id.segments().collect::<Vec<_>>(), ["spire", "agent", NAME, text.as_str()]);
        }
    }
}
