//! Each limit is kept, by an error that names its key and unit, and shows in the metrics; what has ended is removed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    CountEntriesRequest, GetAuthorizedEntriesRequest, GetEntryRequest,
};
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};

use crate::support::*;

const DEADLINE: Duration = Duration::from_secs(20);
const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"";

async fn scrape(server: &TestServer) -> String {
    let address = server.addresses.metrics.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The value of a metric, by name and labels.
async fn metric(server: &TestServer, name: &str) -> f64 {
    let text = scrape(server).await;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in:\n{text}"))
        .parse()
        .unwrap()
}

async fn bundle(channel: Channel) -> Result<(), Status> {
    BundleClient::new(channel)
        .get_bundle(GetBundleRequest::default())
        .await
        .map(|_| ())
}

/// Calls until one is refused.
async fn until_refused<F: Future<Output = Result<(), Status>>>(call: impl Fn() -> F) -> Status {
    let refused = async {
        loop {
            if let Err(status) = call().await {
                return status;
            }
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.unwrap()
}

#[tokio::test]
async fn rates_name_their_key_and_unit() {
    let limits = "[limits]\nmax_rate_wait = \"0s\"\n\
                  attestations_per_second_per_source = 1\nattestation_burst_per_source = 2\n\
                  anonymous_calls_per_second_per_source = 1\nanonymous_call_burst_per_source = 20\n\
                  signatures_per_second_per_caller = 1\nsignature_burst_per_caller = 3\n\
                  calls_per_second_per_caller = 1\ncall_burst_per_caller = 3\n";
    let server = server_with(&format!("{limits}{METRICS}")).await;
    let agent = server.agent().await;
    let anonymous = server.tls(None).await;
    let known = server.tls(Some(&agent)).await;

    let attests = until_refused(|| async {
        attest(anonymous.clone(), "none")
            .await
            .map(|_| ())
            .or_else(passing)
    });
    let calls = until_refused(|| bundle(anonymous.clone()));
    let signs = until_refused(|| async {
        let asked = NewJwtsvidRequest {
            entry_id: "none".to_owned(),
            audience: vec!["a".to_owned()],
        };
        let answer = SvidClient::new(known.clone()).new_jwtsvid(asked).await;
        answer.map(|_| ()).or_else(passing)
    });
    let reads = until_refused(|| async {
        let asked = GetAuthorizedEntriesRequest::default();
        let answer = EntryClient::new(known.clone())
            .get_authorized_entries(asked)
            .await;
        answer.map(|_| ())
    });
    for (status, key, rate) in [
        (
            attests.await,
            "attestations_per_second_per_source",
            "1 attestations a second",
        ),
        (
            calls.await,
            "anonymous_calls_per_second_per_source",
            "1 calls a second",
        ),
        (
            signs.await,
            "signatures_per_second_per_caller",
            "1 signatures a second",
        ),
        (reads.await, "calls_per_second_per_caller", "1 calls a second"),
    ] {
        let status = refused(
            Err::<(), _>(status),
            Code::ResourceExhausted,
            &format!("`{key}` of {rate}"),
        );
        assert!(status.message().contains("try again in"), "{status:?}");
        let counted = format!("vouchsafe_server_refused_calls_total{{limit=\"{key}\"}}");
        assert!(metric(&server, &counted).await >= 1.0, "{counted}");
    }
    // Who comes through the admin socket is an operator.
    for _ in 0..30 {
        bundle(server.local().await).await.unwrap();
    }
}

/// Any refusal but that of a limit.
fn passing(status: Status) -> Result<(), Status> {
    match status.code() {
        Code::ResourceExhausted => Err(status),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn one_request_asks_for_no_more_signatures_than_the_burst() {
    let server = server_with("[limits]\nsignature_burst_per_caller = 3").await;
    let agent = server.agent().await;
    let one = NewX509svidParams {
        entry_id: "none".to_owned(),
        csr: Vec::new(),
    };
    let asked = BatchNewX509svidRequest { params: vec![one; 5] };
    let outcome = SvidClient::new(server.tls(Some(&agent)).await)
        .batch_new_x509svid(asked)
        .await;
    refused(
        outcome,
        Code::ResourceExhausted,
        "4 signatures in one request are more than the limit `signature_burst_per_caller` of 3 signatures",
    );
}

#[tokio::test]
async fn sizes_name_their_key_and_unit() {
    let limits = "[limits]\nmax_request_size = \"2KiB\"\nmax_anonymous_request_size = \"1KiB\"";
    let server = server_with(limits).await;
    let long = GetEntryRequest {
        id: "x".repeat(3000),
        output_mask: None,
    };
    let agent = server.agent().await;
    for (channel, key) in [
        (server.tls(Some(&agent)).await, "`max_request_size` of 2048 bytes"),
        (server.local().await, "`max_request_size` of 2048 bytes"),
    ] {
        let asked = long.clone();
        let outcome = EntryClient::new(channel).get_entry(asked).await;
        let status = outcome.unwrap_err();
        // An agent may not ask at all; that comes first.
        let fits = status.code() == Code::PermissionDenied || status.message().contains(key);
        assert!(fits, "{status:?}");
    }
    let outcome = attest(server.tls(None).await, &"x".repeat(2000)).await;
    refused(
        outcome.map(|_| ()),
        Code::ResourceExhausted,
        "`max_anonymous_request_size` of 1024 bytes",
    );
}

/// Whether the client says that the call waited for its turn on a connection that ended.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_followed_by_another() {
    let server = server_with(&format!("[limits]\nmax_connection_age = \"1s\"\n{METRICS}")).await;
    let channel = server.tls(Some(&server.agent().await)).await;
    let before = metric(&server, "vouchsafe_server_tls_connections_accepted_total").await;
    let renewed = async {
        loop {
            // No call that the server saw fails for it. One that was still with the client when the connection ended
            // is made again, as gRPC's clients do by themselves (tonic's does not).
            let called = bundle(channel.clone()).await;
            if !called.as_ref().is_err_and(was_never_sent) {
                called.unwrap();
            }
            let now = metric(&server, "vouchsafe_server_tls_connections_accepted_total").await;
            if now >= before + 2.0 {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, renewed).await.unwrap();
}

#[tokio::test]
async fn entries_that_have_ended_are_removed() {
    let first = server_on_disk(tempfile::tempdir().unwrap()).await;
    let agent = first.agent().await;
    let lasting = first.entry(entry(&agent.id(), "/lasting", 1)).await;
    let mut ends = entry(&agent.id(), "/ends", 2);
    ends.expires_at = START + 60;
    let ends = first.entry(ends).await;
    let second = server_on_disk_at(first.stop().await, START + 3600).await;
    let mut client = EntryClient::new(second.local().await);
    let removed = async {
        loop {
            let asked = CountEntriesRequest { filter: None };
            let count = client.count_entries(asked).await.unwrap().into_inner().count;
            if count == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, removed).await.unwrap();
    let by_id = |id: String| GetEntryRequest {
        id,
        output_mask: None,
    };
    client.get_entry(by_id(lasting.id)).await.unwrap();
    refused(
        client.get_entry(by_id(ends.id)).await,
        Code::NotFound,
        "not found",
    );
}
