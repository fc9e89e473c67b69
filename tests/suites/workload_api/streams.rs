//! What all streams keep: the first message at once, every message whole.

use tonic::Code;
use vouchsafe_proto::workload::{JwtBundlesRequest, X509BundlesRequest, X509svidRequest, X509svidResponse};
use vouchsafe_tests::daemons::Deployment;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload;

use super::{CODER, RESEARCHER, refused_with, register, with_researcher};

fn ids(message: &X509svidResponse) -> Vec<&str> {
    let mut ids: Vec<&str> = message.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    ids.sort_unstable();
    ids
}

async fn withdraw(deployment: &Deployment, entry_id: &str) {
    let delete = ["entry", "delete", "--entry-id", entry_id];
    deployment.json(&delete).await.unwrap();
}

#[tokio::test]
async fn workload_api_4_3_every_message_must_be_whole() {
    let (deployment, mut api) = with_researcher().await;
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    let first = workload::next(&mut stream).await.unwrap();
    assert_eq!(ids(&first), [RESEARCHER]);
    // What is added comes with what was there.
    let added = register(&deployment, CODER, &[]).await;
    let both = workload::next(&mut stream).await.unwrap();
    assert_eq!(ids(&both), [CODER, RESEARCHER]);
    let kept = |message: &X509svidResponse| {
        let mut svids = message.svids.iter();
        svids.find(|svid| svid.spiffe_id == RESEARCHER).cloned().unwrap()
    };
    assert_eq!(kept(&both), kept(&first), "what did not change is sent as it was");
    // What is taken away is not there any more, and the rest is.
    withdraw(&deployment, &added).await;
    let last = workload::next(&mut stream).await.unwrap();
    assert_eq!(ids(&last), [RESEARCHER]);
    assert_eq!(kept(&last), kept(&first));
}

#[tokio::test]
async fn workload_api_4_3_a_stream_ends_when_the_last_identity_is_withdrawn() {
    let (deployment, mut api) = with_researcher().await;
    let mut stream = api.fetch_x509svid(X509svidRequest {}).await.unwrap().into_inner();
    workload::next(&mut stream).await.unwrap();
    let entries = deployment.json(&["entry", "show"]).await.unwrap();
    let id = entries[0]["id"].as_str().unwrap();
    withdraw(&deployment, id).await;
    let end = until("the end of the stream", async || {
        workload::next(&mut stream).await.err()
    });
    refused_with(Err::<(), _>(end.await.unwrap()), Code::PermissionDenied);
}

#[tokio::test]
async fn workload_api_4_3_the_first_message_must_come_at_once() {
    // An agent that asks its server once an hour: nothing changes, so only the request can cause a message.
    let mut deployment = Deployment::server_alone("").await.unwrap();
    register(&deployment, RESEARCHER, &[]).await;
    deployment.configure_agent("sync_interval = \"1h\"\n");
    deployment.join().await.unwrap();
    let socket = deployment.workload_socket();
    for _ in 0..3 {
        let mut api = workload::connect(&socket).await.unwrap();
        for _ in 0..2 {
            let stream = api.fetch_x509svid(X509svidRequest {}).await.unwrap();
            let svids = workload::next(&mut stream.into_inner()).await.unwrap();
            assert_eq!(ids(&svids), [RESEARCHER]);
            let stream = api.fetch_x509_bundles(X509BundlesRequest {}).await.unwrap();
            assert_eq!(
                workload::next(&mut stream.into_inner())
                    .await
                    .unwrap()
                    .bundles
                    .len(),
                1
            );
            let stream = api.fetch_jwt_bundles(JwtBundlesRequest {}).await.unwrap();
            assert_eq!(
                workload::next(&mut stream.into_inner())
                    .await
                    .unwrap()
                    .bundles
                    .len(),
                1
            );
        }
    }
}
