//! Nobody can take all places or fill the memory: calls that never end, floods, callers that leave.

use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::bundle::v1::{GetBundleRequest, GetFederatedBundleRequest};
use vouchsafe_proto::vouchsafe::server::v1::TailAuditRequest;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;

use crate::support::*;

/// A call whose request never comes to its end.
async fn endless(channel: Channel) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/spire.api.server.bundle.v1.Bundle/GetBundle");
    let request = Request::new(tokio_stream::pending::<Bytes>());
    client
        .streaming(request, path, Raw)
        .await?
        .into_inner()
        .message()
        .await
        .map(|_| ())
}

async fn bundle(channel: Channel) -> Result<(), Status> {
    BundleClient::new(channel)
        .get_bundle(GetBundleRequest::default())
        .await
        .map(|_| ())
}

#[tokio::test]
async fn calls_that_never_end_take_the_places_of_one_source_only_and_only_for_a_while() {
    let limits = "[limits]\nmax_anonymous_calls_per_source = 3\nattestation_timeout = \"3s\"";
    let server = server_with(limits).await;
    let channel = server.tls(None).await;
    bundle(channel.clone()).await.unwrap();
    let endless: Vec<_> = (0..3).map(|_| spawn(endless(channel.clone()))).collect();
    let refusal = loop {
        match bundle(channel.clone()).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(status) => break status,
        }
    };
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    bundle(server.local().await).await.unwrap();
    bundle(server.tls(Some(&server.minted("/w").await)).await)
        .await
        .unwrap();
    for one in endless {
        refused(one.await.unwrap(), Code::DeadlineExceeded, "too long");
    }
    bundle(channel).await.unwrap();
}

#[tokio::test]
async fn a_flood_from_one_address_is_held_back() {
    let limits = "[limits]\nanonymous_calls_per_second_per_source = 1\nanonymous_call_burst_per_source = 5\n\
                  max_rate_wait = \"0s\"";
    let server = server_with(limits).await;
    let channel = server.tls(None).await;
    let mut held_back = 0;
    for _ in 0..20 {
        match bundle(channel.clone()).await {
            Ok(()) => {}
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                held_back += 1;
            }
        }
    }
    assert!(held_back >= 10, "{held_back} of 20");
    bundle(server.local().await).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_leaves_is_recorded_too() {
    let server = server().await;
    let follow = |from_seq| TailAuditRequest {
        from_seq,
        follow: true,
    };
    let left = async {
        let mut client = ServerAdminClient::new(server.local().await);
        let mut tail = client.tail_audit(follow(0)).await.unwrap().into_inner();
        tail.message().await.unwrap().unwrap();
    };
    left.await;
    let mut client = ServerAdminClient::new(server.local().await);
    let tail = client.tail_audit(follow(0)).await.unwrap().into_inner();
    let mut cancelled = tail.filter(|line| {
        let json = &line.as_ref().unwrap().json;
        json.contains("/TailAudit") && json.contains("Cancelled")
    });
    let found = tokio::time::timeout(std::time::Duration::from_secs(10), cancelled.next()).await;
    assert!(found.unwrap().is_some());
}

#[tokio::test]
async fn bundles_of_other_trust_domains_are_asked_for_by_name() {
    let server = server().await;
    let mut client = BundleClient::new(server.tls(Some(&server.agent().await)).await);
    for (name, code, text) in [
        ("", Code::InvalidArgument, "trust_domain"),
        ("Not A Name", Code::InvalidArgument, "trust_domain"),
        (TRUST_DOMAIN, Code::InvalidArgument, "own trust domain"),
        ("other.org", Code::NotFound, "not found"),
    ] {
        let asked = GetFederatedBundleRequest {
            trust_domain: name.to_owned(),
            output_mask: None,
        };
        refused(client.get_federated_bundle(asked).await, code, text);
    }
}
