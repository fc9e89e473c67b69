//! Tests of connecting: addresses, unreachable and silent servers, gRPC over a channel that outlives its connection.

use std::sync::Mutex;

use http::Request;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::{Service, ServiceExt};

use super::super::testing::*;
use super::super::{
    AcceptLimits, ClientAuth, PeerRule, SvidHandle, TlsPeer, client_config, incoming, server_config,
};
use super::*;
use crate::{Clock, TaskGroup};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn addresses_read_back_as_written() {
    for text in [
        "127.0.0.1:8081",
        "[::1]:8081",
        "server.example.org:443",
        "vouchsafe_server:1",
    ] {
        let address: ServerAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
    }
    let address: ServerAddress = "[::1]:8081".parse().unwrap();
    assert_eq!((address.host().as_str(), address.port()), ("::1", 8081));
}

#[test]
fn what_is_no_address_is_refused_with_the_reason() {
    for (text, reason) in [
        ("127.0.0.1", "port is missing"),
        ("127.0.0.1:", "not a number"),
        ("127.0.0.1:0", "not a number"),
        ("127.0.0.1:65536", "not a number"),
        ("127.0.0.1:+80", "not a number"),
        ("::1:8081", "brackets"),
        ("[127.0.0.1]:80", "only an IPv6"),
        (":8081", "neither a name"),
        ("https://host:80", "IPv6 address stands in brackets"),
        ("user@host:80", "neither a name"),
        ("host/path:80", "neither a name"),
        ("", "port is missing"),
    ] {
        let refused = text.parse::<ServerAddress>().unwrap_err().to_string();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

async fn listener() -> (TcpListener, ServerAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string().parse().unwrap();
    (listener, address)
}

fn any_client(domain: &Domain, svid: Option<&SvidHandle>) -> Arc<ClientConfig> {
    client_config(svid, &trusting([domain]), &Clock::manual(start()), PeerRule::Any).unwrap()
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let (gone, address) = listener().await;
    drop(gone);
    let refused = connect(&address, any_client(&Domain::new("example.org"), None), LIMIT).await;
    let Err(ConnectError::Unreachable { address: named, .. }) = refused else {
        unreachable!("{refused:?}");
    };
    assert_eq!(named, address.to_string());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up_at_the_limit() {
    let (_silent, address) = listener().await;
    let refused = connect(&address, any_client(&Domain::new("example.org"), None), LIMIT).await;
    assert!(
        matches!(refused, Err(ConnectError::TimedOut { limit_ms: 10_000, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_told_apart() {
    let (plain, address) = listener().await;
    let (group, _failures) = TaskGroup::new();
    group.passing("plain server", async move {
        if let Ok((mut tcp, _)) = plain.accept().await {
            let _gone =
                tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let refused = connect(&address, any_client(&Domain::new("example.org"), None), LIMIT).await;
    assert!(
        matches!(refused, Err(ConnectError::Handshake { .. })),
        "{refused:?}"
    );
}

type Callers = Arc<Mutex<Vec<Option<Arc<TlsPeer>>>>>;

/// A gRPC server without services, which notes the connect info of each call.
fn serve(domain: &Domain, listener: TcpListener, callers: &Callers) -> TaskGroup {
    let (svid, clock) = (domain.svid("/spire/server"), Clock::manual(start()));
    let config = server_config(
        &svid,
        &trusting([domain]),
        &clock,
        ClientAuth::Required,
        PeerRule::Any,
    )
    .unwrap();
    let (group, failures) = TaskGroup::new();
    let connections = incoming(listener, config, AcceptLimits::default(), &group);
    let callers = callers.clone();
    let note = tower::util::MapRequestLayer::new(move |request: Request<Body>| {
        callers.lock().unwrap().push(request.extensions().get().cloned());
        request
    });
    let stopping = group.stopping();
    group.passing("test server", async move {
        let _heard = failures;
        let routes = Server::builder().layer(note).add_routes(Routes::default());
        let _ended = routes
            .serve_with_incoming_shutdown(connections, stopping.cancelled())
            .await;
    });
    group
}

/// The gRPC status code of a call to a method that does not exist.
async fn call(channel: &mut Channel) -> Result<String, tonic::transport::Error> {
    let request = Request::post("/no.such/Method")
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap();
    let response = channel.ready().await?.call(request).await?;
    Ok(response.headers()["grpc-status"].to_str().unwrap().to_owned())
}

#[tokio::test]
async fn calls_carry_the_verified_svid_and_a_lost_connection_is_made_again_with_the_new_one() {
    let domain = Domain::new("example.org");
    let callers = Callers::default();
    let (listener, address) = listener().await;
    let svid = domain.svid("/spire/agent/a");
    let mut channel = channel(
        &address,
        any_client(&domain, Some(&svid)),
        ChannelTimes::default(),
    );
    let first = serve(&domain, listener, &callers);
    assert_eq!(call(&mut channel).await.unwrap(), "12");

    first.stop();
    assert!(first.drain(LIMIT).await);
    let key = key();
    svid.set(&domain.chain("/spire/agent/b", &key), &key.to_pkcs8())
        .unwrap();
    let again = TcpListener::bind((address.host(), address.port())).await.unwrap();
    let second = serve(&domain, again, &callers);
    let deadline = tokio::time::Instant::now() + LIMIT;
    // The channel may notice the lost connection only by a call that fails.
    let status = loop {
        match call(&mut channel).await {
            Ok(status) => break status,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error:?}"),
        }
    };
    assert_eq!(status, "12");
    second.stop();

    let seen = callers.lock().unwrap();
    let ids = seen.iter().map(|peer| {
        let peer = peer.as_ref().unwrap();
        peer.svid.as_ref().unwrap().leaf.spiffe_id.path().to_owned()
    });
    assert_eq!(ids.collect::<Vec<_>>(), ["/spire/agent/a", "/spire/agent/b"]);
}

#[tokio::test]
async fn a_channel_to_the_wrong_server_says_who_it_is() {
    let domain = Domain::new("example.org");
    let (listener, address) = listener().await;
    let server = serve(&domain, listener, &Callers::default());
    let expect = PeerRule::Exact(id("spiffe://example.org/spire/other"));
    let config = client_config(None, &trusting([&domain]), &Clock::manual(start()), expect).unwrap();
    let mut channel = channel(&address, config, ChannelTimes::default());
    let refused = call(&mut channel).await.unwrap_err();
    let mut text = String::new();
    let mut cause: Option<&dyn Error> = Some(&refused);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(
        text.contains("the peer is `spiffe://example.org/spire/server`"),
        "{text}"
    );
    server.stop();
}
