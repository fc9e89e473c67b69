//! The Workload Endpoint and the Workload API of a real agent that joined a real server, called by this test
//! process: what the two standards demand, each demand in a test that is named after its clause. The table in
//! `docs/conformance.md` points here.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says by a panic what went wrong"
)]

#[path = "workload_api/endpoint.rs"]
mod endpoint;
#[path = "workload_api/jwt.rs"]
mod jwt;
#[path = "workload_api/streams.rs"]
mod streams;
#[path = "workload_api/x509.rs"]
mod x509;

use tonic::{Code, Status};
use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{self, WorkloadApi};

/// The id of the trust domain, by which bundles are keyed.
const OWN: &str = "spiffe://example.org";
const RESEARCHER: &str = "spiffe://example.org/agent/researcher";
const CODER: &str = "spiffe://example.org/agent/coder";
const REVIEWER: &str = "spiffe://example.org/agent/reviewer";
/// Changes reach the agent by polling; tests do not want to wait for it.
const QUICK: &str = "sync_interval = \"1s\"\n";

/// A deployment whose agent hears of changes within a second.
async fn deployment() -> Deployment {
    Deployment::configured("", QUICK).await.unwrap()
}

/// A deployment with one identity for this process, known to the agent.
async fn with_researcher() -> (Deployment, WorkloadApi) {
    let deployment = deployment().await;
    register(&deployment, RESEARCHER, &[]).await;
    let api = workload::connect(&deployment.workload_socket()).await.unwrap();
    served(&api, 1).await;
    (deployment, api)
}

/// Registers an identity for this process; gives the entry's id.
async fn register(deployment: &Deployment, spiffe_id: &str, flags: &[&str]) -> String {
    let entry = deployment.entry(spiffe_id, &[&own_uid()], flags).await.unwrap();
    entry["entries"][0]["id"].as_str().unwrap().to_owned()
}

/// Waits until this process is given so many X.509-SVIDs, and gives the message that has them.
async fn served(api: &WorkloadApi, count: usize) -> X509svidResponse {
    let what = format!("{count} X.509-SVIDs");
    let mut api = api.clone();
    let served = until(&what, async || {
        let mut stream = api.fetch_x509svid(X509svidRequest {}).await.ok()?.into_inner();
        let message = workload::next(&mut stream).await.ok()?;
        (message.svids.len() == count).then_some(message)
    });
    served.await.unwrap()
}

/// The bundle that a response carries as DER, for verifying with it.
fn bundle(der: &[u8]) -> Bundle {
    let pem: String = workload::certificates(der)
        .unwrap()
        .iter()
        .map(|one| {
            let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, one);
            format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
        })
        .collect();
    Bundle::from_pem(TrustDomain::new(TRUST_DOMAIN).unwrap(), pem.as_bytes()).unwrap()
}

fn refused_with<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code) -> String {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    status.message().to_owned()
}
