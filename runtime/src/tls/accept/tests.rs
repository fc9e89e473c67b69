//! Tests of the accept loop: silent clients, limits, the end.

use tokio::io::AsyncReadExt;

use super::super::testing::*;
use super::super::{ClientAuth, PeerRule};
use super::*;

const TD: &str = "example.org";

async fn limited(domain: &Domain, limits: AcceptLimits) -> Server {
    Server::with(domain, ClientAuth::Optional, PeerRule::Any, limits).await
}

async fn silent(server: &Server) -> TcpStream {
    TcpStream::connect((server.address.host(), server.address.port()))
        .await
        .unwrap()
}

/// Until the server closes; a reset is as good.
async fn closed(mut tcp: TcpStream) {
    let mut rest = Vec::new();
    let _reset_or_end = tcp.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "the server said nothing before");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed_at_the_handshake_timeout() {
    let domain = Domain::new(TD);
    let server = limited(&domain, AcceptLimits::default()).await;
    let begun = tokio::time::Instant::now();
    closed(silent(&server).await).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn silent_connections_do_not_hold_up_a_client() {
    let domain = Domain::new(TD);
    let mut server = limited(&domain, AcceptLimits::default()).await;
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(silent(&server).await);
    }
    let config = server.client(None, &trusting([&domain]));
    assert!(server.talk(&config).await.is_ok());
}

#[tokio::test]
async fn over_the_limit_of_handshakes_a_client_waits_and_is_let_in() {
    let domain = Domain::new(TD);
    let timeout = Duration::from_secs(1);
    let limits = AcceptLimits {
        handshake_timeout: Span::new(timeout),
        max_pending_handshakes: count(1),
        ..AcceptLimits::default()
    };
    let mut server = limited(&domain, limits).await;
    let begun = tokio::time::Instant::now();
    let _held = silent(&server).await;
    let config = server.client(None, &trusting([&domain]));
    assert!(server.talk(&config).await.is_ok());
    assert!(begun.elapsed() >= timeout, "it waited for the silent one's end");
}

#[tokio::test]
async fn handshakes_that_one_source_never_ends_do_not_hold_up_other_sources() {
    let domain = Domain::new(TD);
    let limits = AcceptLimits {
        handshake_timeout: Span::new(Duration::from_secs(600)),
        max_pending_handshakes: count(4),
        ..AcceptLimits::default()
    };
    let mut server = limited(&domain, limits).await;
    let at = SocketAddr::new([127, 0, 0, 1].into(), server.address.port());
    let mut held = Vec::new();
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        held.push(socket.connect(at).await.unwrap());
    }
    let config = server.client(None, &trusting([&domain]));
    let talked = tokio::time::timeout(Duration::from_secs(20), server.talk(&config)).await;
    assert!(
        talked.is_ok_and(|talked| talked.is_ok()),
        "it waited for another source"
    );
}

#[tokio::test]
async fn over_the_limit_of_connections_a_client_is_closed_at_once_until_a_place_is_free() {
    let domain = Domain::new(TD);
    let full = AcceptLimits {
        max_connections: count(2),
        ..AcceptLimits::default()
    };
    let full_source = AcceptLimits {
        max_connections_per_source: count(2),
        ..AcceptLimits::default()
    };
    for limits in [full, full_source] {
        let mut server = limited(&domain, limits).await;
        let config = server.client(None, &trusting([&domain]));
        let (one, _) = server.talk(&config).await.unwrap();
        let _two = server.talk(&config).await.unwrap();
        closed(silent(&server).await).await;
        drop(one);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        // The server notices the closed connection on its own time: ask until the place is free.
        while server.talk(&config).await.is_err() {
            assert!(
                tokio::time::Instant::now() < deadline,
                "the place was never given back"
            );
        }
    }
}

#[tokio::test]
async fn the_listener_closes_when_the_group_stops() {
    let domain = Domain::new(TD);
    let (listener, (group, mut failures)) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TaskGroup::new());
    let address = listener.local_addr().unwrap();
    let config = super::super::server_config(
        &domain.svid("/spire/server"),
        &trusting([&domain]),
        &crate::Clock::manual(start()),
        ClientAuth::Optional,
        PeerRule::Any,
    )
    .unwrap();
    let mut connections = incoming(listener, config, AcceptLimits::default(), &group);
    group.stop();
    assert!(futures_util::StreamExt::next(&mut connections).await.is_none());
    assert!(group.drain(Duration::from_secs(5)).await);
    assert!(TcpStream::connect(address).await.is_err());
    drop(group);
    assert!(failures.next().await.is_none());
}

#[test]
fn limits_are_read_from_text_and_zero_is_refused() {
    let limits: AcceptLimits =
        crate::config::parse("handshake_timeout = \"2s\"\nmax_connections = 7", "x").unwrap();
    assert_eq!(limits.max_connections, count(7));
    assert_eq!(
        limits.max_connections_per_source,
        AcceptLimits::default().max_connections_per_source
    );
    let refused = crate::config::parse::<AcceptLimits>("max_pending_handshakes = 0", "x").unwrap_err();
    assert!(
        refused.to_string().contains("`max_pending_handshakes`"),
        "{refused}"
    );
}
