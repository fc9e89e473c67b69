//! Values to store.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::{Bundle, JwtAuthority, KeyAlgorithm, SpiffeId, TrustDomain, X509Authority};
use vouchsafe_store::{
    Entry, EntryId, JoinToken, JournalKey, JournalRow, KeyPurpose, Node, SlotState, TokenHash,
};

pub(crate) fn time(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn spiffe_id(path: &str) -> SpiffeId {
    SpiffeId::new(&format!("spiffe://example.org{path}")).unwrap()
}

pub(crate) fn trust_domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub(crate) fn entry_id(id: &str) -> EntryId {
    EntryId::new(id).unwrap()
}

/// An entry whose shape follows from its uid.
pub(crate) fn entry(id: &str, uid: u32) -> Entry {
    Entry {
        id: entry_id(id),
        spiffe_id: spiffe_id("/workload"),
        parent_id: spiffe_id("/spire/agent/join_token/a"),
        selectors: [format!("unix:uid:{uid}"), "unix:path:/usr/bin/python3".to_owned()]
            .iter()
            .map(|selector| selector.parse().unwrap())
            .collect(),
        x509_svid_ttl_seconds: 3600,
        jwt_svid_ttl_seconds: 300,
        federates_with: vec![trust_domain("other.org")],
        admin: true,
        downstream: false,
        expires_at: Some(time(86_400)),
        dns_names: vec!["workload.example.org".to_owned()],
        revision_number: 3,
        store_svid: false,
        hint: "first".to_owned(),
        created_at: time(0),
        disable_x509_svid_prefetch: true,
        jwt_svid_include_jti: true,
    }
}

pub(crate) fn node(name: &str) -> Node {
    Node {
        id: spiffe_id(&format!("/spire/agent/join_token/{name}")),
        attestation_type: "join_token".to_owned(),
        serial: "0a1b".to_owned(),
        expires_at: time(3600),
        next_serial: Some("0a1c".to_owned()),
        next_expires_at: Some(time(7200)),
        handed_out_before: Vec::new(),
        selectors: ["join_token:x".parse().unwrap()].into(),
        banned: false,
        can_reattest: false,
        agent_version: "0.1.0".to_owned(),
    }
}

pub(crate) fn token(hash: &str) -> JoinToken {
    JoinToken {
        hash: TokenHash(hash.to_owned()),
        expires_at: time(600),
        alias: Some(spiffe_id("/alias")),
        spent: None,
    }
}

pub(crate) fn bundle(name: &str, sequence: u64) -> Bundle {
    Bundle {
        trust_domain: trust_domain(name),
        x509_authorities: vec![X509Authority {
            certificate: vec![0x30, 0x82, 1, 2, 3],
            tainted: true,
        }],
        jwt_authorities: vec![JwtAuthority {
            key_id: "kid".to_owned(),
            public_key: vec![0x30, 0x59, 9],
            expires_at: Some(time(9000)),
            tainted: false,
        }],
        refresh_hint: Some(Duration::from_secs(300)),
        sequence,
    }
}

pub(crate) fn journal(server_id: &str, purpose: KeyPurpose, slot: char) -> JournalRow {
    JournalRow {
        key: JournalKey {
            server_id: server_id.to_owned(),
            purpose,
            algorithm: KeyAlgorithm::EcP256,
            slot,
        },
        state: SlotState::Active,
        key_id: format!("{}-{slot}", purpose.name()),
        authority_id: "00ff".to_owned(),
        public_key: vec![1, 2, 3],
        certificate: vec![4, 5],
        issued_at: time(1),
        expires_at: time(2),
        lost: false,
    }
}

pub(crate) fn draft(request_id: &str) -> Draft {
    Draft {
        at: time(5),
        request_id: request_id.to_owned(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        principal: Principal::Local { uid: 1000, pid: 42 },
        scope: "local".into(),
        action: "entry.create".into(),
        outcome: Outcome::Done,
        code: Some("OK".into()),
        reason: None,
        facts: BTreeMap::from([("entry_id".into(), "e1".to_owned())]),
    }
}
