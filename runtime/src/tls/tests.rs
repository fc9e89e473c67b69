//! Tests of TLS from SVIDs: who is refused and why, what rotation and withdrawal change.

use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vouchsafe_identity::{Bundle, KeyAlgorithm, LocalKey, SignError, Signer};

use super::testing::*;
use super::*;

const TD: &str = "example.org";

#[tokio::test]
async fn both_sides_know_each_other_by_spiffe_id() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let svid = domain.svid("/agent/a");
    let expect = PeerRule::Exact(id("spiffe://example.org/spire/server"));
    let config = client_config(Some(&svid), &trusting([&domain]), &server.clock, expect).unwrap();
    let (talk, peer) = server.talk(&config).await.unwrap();
    let shown = peer.svid.as_ref().unwrap();
    assert_eq!(shown.leaf.spiffe_id, id("spiffe://example.org/agent/a"));
    assert_eq!(peer.addr, talk.0.get_ref().0.local_addr().unwrap());
    assert_eq!(shown.chain.len(), 1);
    assert_eq!(talk.tls().protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(talk.tls().alpn_protocol(), Some(&b"h2"[..]));
    let group = talk.tls().negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}

/// With tickets or a session store the second connection would be resumed, the verifier skipped and the client let in.
#[tokio::test]
async fn a_client_whose_trust_was_withdrawn_is_refused_at_its_next_connection() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let config = server.client(Some(&domain.svid("/agent/a")), &trusting([&domain]));
    for _ in 0..2 {
        let (talk, _peer) = server.talk(&config).await.unwrap();
        assert_eq!(talk.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
    server.bundles.set(Bundle::empty(domain.name.clone()));
    assert!(server.refusal(&config).await.contains("UnknownCA"));
    server.bundles.remove(&domain.name);
    assert!(server.refusal(&config).await.contains("UnknownCA"));
    server.bundles.set(domain.bundle());
    assert!(server.talk(&config).await.is_ok());
}

/// Our own clients never resume, so they cannot show that the server would not let them.
#[tokio::test]
async fn a_client_that_would_resume_is_verified_anew() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let config = server.client(Some(&domain.svid("/agent/a")), &trusting([&domain]));
    let mut config = ClientConfig::clone(&config);
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..2 {
        let (talk, _peer) = server.talk(&config).await.unwrap();
        assert_eq!(talk.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
    server.bundles.remove(&domain.name);
    assert!(server.refusal(&config).await.contains("UnknownCA"));
}

#[tokio::test]
async fn a_server_that_would_resume_is_verified_anew() {
    let domain = Domain::new(TD);
    let (optional, limits) = (ClientAuth::Optional, AcceptLimits::default());
    let mut server = Server::changed(&domain, optional, PeerRule::Any, limits, |config| {
        config.send_tls13_tickets = 2;
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(8);
    })
    .await;
    let bundles = trusting([&domain]);
    let config = server.client(None, &bundles);
    for _ in 0..2 {
        let (talk, _peer) = server.talk(&config).await.unwrap();
        assert_eq!(talk.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
    bundles.remove(&domain.name);
    assert!(server.refusal(&config).await.contains("not trusted here"));
}

#[tokio::test]
async fn a_server_whose_trust_was_withdrawn_is_refused_at_the_next_connection() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Optional).await;
    let bundles = trusting([&domain]);
    let config = server.client(None, &bundles);
    assert!(server.talk(&config).await.is_ok());
    bundles.remove(&domain.name);
    let refused = server.refusal(&config).await;
    assert!(
        refused.contains("trust domain `example.org`, which is not trusted here"),
        "{refused}"
    );
}

#[tokio::test]
async fn members_of_foreign_trust_domains_are_refused_until_their_bundle_is_there() {
    let (ours, theirs) = (Domain::new(TD), Domain::new("other.org"));
    let mut server = Server::of(&ours, ClientAuth::Required).await;
    let config = server.client(Some(&theirs.svid("/agent/a")), &trusting([&ours]));
    assert!(server.refusal(&config).await.contains("UnknownCA"));
    server.bundles.set(theirs.bundle());
    let (_talk, peer) = server.talk(&config).await.unwrap();
    assert_eq!(
        peer.svid.as_ref().unwrap().leaf.spiffe_id,
        id("spiffe://other.org/agent/a")
    );
}

#[tokio::test]
async fn an_authority_vouches_for_its_own_trust_domain_only() {
    let (ours, impostor, theirs) = (Domain::new(TD), Domain::new(TD), Domain::new("other.org"));
    let mut server = Server::of(&ours, ClientAuth::Required).await;
    server.bundles.set(theirs.bundle());
    let config = server.client(Some(&impostor.svid("/agent/a")), &trusting([&ours]));
    assert!(server.refusal(&config).await.contains("UnknownCA"));

    let mut mixed = impostor.bundle();
    mixed.trust_domain = theirs.name.clone();
    server.bundles.set(mixed);
    assert!(server.refusal(&config).await.contains("UnknownCA"));
}

#[tokio::test]
async fn validity_is_read_from_the_clock_on_both_sides() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let (late, early) = (
        Clock::manual(start() + HOUR * 2),
        Clock::manual(start() - HOUR * 2),
    );
    let (svid, bundles) = (domain.svid("/agent/a"), trusting([&domain]));

    let config = client_config(Some(&svid), &bundles, &late, PeerRule::Any).unwrap();
    assert!(server.refusal(&config).await.contains("expired at"));
    let config = client_config(Some(&svid), &bundles, &early, PeerRule::Any).unwrap();
    assert!(server.refusal(&config).await.contains("is refused"));

    let config = client_config(Some(&svid), &bundles, &Clock::manual(start()), PeerRule::Any).unwrap();
    assert!(server.talk(&config).await.is_ok());
    server.clock.jump(HOUR * 2);
    assert!(server.refusal(&config).await.contains("CertificateExpired"));
    server.clock.jump(HOUR * -4);
    assert!(server.refusal(&config).await.contains("CertificateExpired"));
}

#[tokio::test]
async fn a_client_without_an_svid_is_let_in_only_where_it_is_optional_and_is_nobody() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Optional).await;
    for svid in [None, Some(&SvidHandle::new())] {
        let config = server.client(svid, &trusting([&domain]));
        let (_talk, peer) = server.talk(&config).await.unwrap();
        assert!(peer.svid.is_none());
    }
    let foreign = server.client(Some(&Domain::new(TD).svid("/agent/a")), &trusting([&domain]));
    assert!(
        server.refusal(&foreign).await.contains("UnknownCA"),
        "optional is not unverified"
    );

    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let config = server.client(None, &trusting([&domain]));
    assert!(server.refusal(&config).await.contains("CertificateRequired"));
}

#[tokio::test]
async fn a_good_svid_of_somebody_else_is_refused_by_the_rule() {
    let domain = Domain::new(TD);
    let rule = PeerRule::Exact(id("spiffe://example.org/agent/a"));
    let mut server = Server::with(&domain, ClientAuth::Required, rule, AcceptLimits::default()).await;
    let (svid, bundles) = (domain.svid("/agent/b"), trusting([&domain]));
    let config = server.client(Some(&svid), &bundles);
    assert!(server.refusal(&config).await.contains("AccessDenied"));

    let expect = PeerRule::Exact(id("spiffe://example.org/spire/other"));
    let config = client_config(Some(&svid), &bundles, &server.clock, expect).unwrap();
    let refused = server.refusal(&config).await;
    assert!(
        refused.contains("is `spiffe://example.org/spire/server`, not `spiffe://example.org/spire/other`"),
        "{refused}"
    );
    let expect = PeerRule::MemberOf(TrustDomain::new("other.org").unwrap());
    let config = client_config(Some(&svid), &bundles, &server.clock, expect).unwrap();
    let refused = server.refusal(&config).await;
    assert!(
        refused.contains("not a member of trust domain `other.org`"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_new_svid_is_shown_at_the_next_handshake() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let client = domain.svid("/agent/a");
    let config = server.client(Some(&client), &trusting([&domain]));
    let (first, before) = server.talk(&config).await.unwrap();

    let (server_key, client_key) = (key(), Arc::new(key()));
    server
        .svid
        .set(
            &domain.chain("/spire/server", &server_key),
            &server_key.to_pkcs8(),
        )
        .unwrap();
    client
        .set_signer(&domain.chain("/agent/a", &*client_key), client_key)
        .unwrap();
    let (second, after) = server.talk(&config).await.unwrap();
    assert_ne!(first.tls().peer_certificates(), second.tls().peer_certificates());
    let serial = |peer: &TlsPeer| peer.svid.as_ref().unwrap().leaf.serial.clone();
    assert_ne!(serial(&before), serial(&after));

    client.clear();
    assert!(server.refusal(&config).await.contains("CertificateRequired"));
    server.svid.clear();
    assert!(server.refusal(&config).await.contains("no TLS with server"));
}

#[test]
fn an_svid_with_the_key_of_another_is_refused_and_the_old_one_stays() {
    let domain = Domain::new(TD);
    let (mine, other) = (key(), key());
    let handle = domain.svid("/agent/a");
    let chain = domain.chain("/agent/a", &mine);
    assert!(matches!(
        handle.set(&chain, &other.to_pkcs8()),
        Err(TlsError::Mismatch(_))
    ));
    assert!(matches!(handle.set(&chain, b"not a key"), Err(TlsError::Key(_))));
    assert!(matches!(
        handle.set(&[], &mine.to_pkcs8()),
        Err(TlsError::Mismatch(_))
    ));
    assert!(matches!(
        handle.set(&[vec![0x30]], &mine.to_pkcs8()),
        Err(TlsError::Mismatch(_))
    ));
    assert!(handle.is_set());
}

/// Has another's certificate, but not its key.
#[derive(Debug)]
struct Thief {
    stolen: Vec<u8>,
    own: LocalKey,
}

impl Signer for Thief {
    fn key_id(&self) -> &str {
        self.own.key_id()
    }

    fn algorithm(&self) -> KeyAlgorithm {
        self.own.algorithm()
    }

    fn public_key_spki(&self) -> &[u8] {
        &self.stolen
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.own.sign(message)
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Required).await;
    let victim = key();
    let thief = || {
        Arc::new(Thief {
            stolen: victim.public_key_spki().to_vec(),
            own: key(),
        })
    };
    let (client, bundles) = (SvidHandle::new(), trusting([&domain]));
    client
        .set_signer(&domain.chain("/agent/a", &victim), thief())
        .unwrap();
    let config = server.client(Some(&client), &bundles);
    assert!(server.refusal(&config).await.contains("DecryptError"));

    server
        .svid
        .set_signer(&domain.chain("/spire/server", &victim), thief())
        .unwrap();
    for config in [
        server.client(Some(&domain.svid("/agent/a")), &bundles),
        danger_accept_any_server(PeerRule::Any).unwrap().0,
    ] {
        let refused = server.refusal(&config).await;
        assert!(refused.contains("BadSignature"), "{refused}");
    }
}

#[tokio::test]
async fn an_insecure_bootstrap_pins_the_first_server_that_it_sees() {
    let (domain, impostor) = (Domain::new(TD), Domain::new(TD));
    let mut server = Server::of(&domain, ClientAuth::Optional).await;
    let expect = PeerRule::Exact(id("spiffe://example.org/spire/server"));
    let (config, seen) = danger_accept_any_server(expect).unwrap();
    assert!(seen.get().is_none());
    server.talk(&config).await.unwrap();
    server.talk(&config).await.unwrap();
    let verified =
        vouchsafe_identity::x509::verify_svid(seen.get().unwrap(), &domain.bundle(), start()).unwrap();
    assert_eq!(verified.spiffe_id, id("spiffe://example.org/spire/server"));

    let key = key();
    server
        .svid
        .set(&impostor.chain("/spire/server", &key), &key.to_pkcs8())
        .unwrap();
    let refused = server.refusal(&config).await;
    assert!(
        refused.contains("another certificate than at the first connection"),
        "{refused}"
    );

    let (config, seen) = danger_accept_any_server(PeerRule::Exact(id("spiffe://example.org/x"))).unwrap();
    assert!(
        server
            .refusal(&config)
            .await
            .contains("not `spiffe://example.org/x`")
    );
    assert!(seen.get().is_none());
}

/// What a TLS 1.2 client sends first: one cipher suite, one curve, one signature scheme, no `supported_versions`.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![0x03, 0x03];
    body.extend([7_u8; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3];
    body.extend([0, 16]);
    body.extend(extensions);
    let length = |n: usize| u8::try_from(n).unwrap();
    let mut record = vec![
        0x16,
        0x03,
        0x01,
        0,
        length(body.len() + 4),
        1,
        0,
        0,
        length(body.len()),
    ];
    record.extend(body);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused_with_the_alert_for_it() {
    let domain = Domain::new(TD);
    let server = Server::of(&domain, ClientAuth::Optional).await;
    let mut tcp = TcpStream::connect((server.address.host(), server.address.port()))
        .await
        .unwrap();
    tcp.write_all(&tls12_hello()).await.unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).await.unwrap();
    // An alert record of two bytes: fatal (2), protocol_version (70) (RFC 8446 §6).
    assert_eq!(answer, [0x15, 0x03, 0x03, 0, 2, 2, 70]);
}

#[tokio::test]
async fn a_client_of_another_protocol_than_http2_is_refused() {
    let domain = Domain::new(TD);
    let mut server = Server::of(&domain, ClientAuth::Optional).await;
    let mut config = ClientConfig::clone(&server.client(None, &trusting([&domain])));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(
        server
            .refusal(&Arc::new(config))
            .await
            .contains("NoApplicationProtocol")
    );
}

#[test]
fn only_tls_1_3_and_post_quantum_first_whatever_features_dependencies_turn_on() {
    let provider = provider();
    assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
    assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
}
