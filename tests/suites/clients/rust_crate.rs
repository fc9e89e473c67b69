//! The Rust crate `spiffe`: its X509Source and JwtSource run inside this test process, which is the workload.

use anyhow::{Context, ensure};
use spiffe::{BundleSource, JwtSource, TrustDomain, WorkloadApiClient, X509Source};
use tokio::time::timeout;
use vouchsafe_tests::clients::endpoint;
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};
use vouchsafe_tests::wait::DEADLINE;

use crate::WORKLOAD;

async fn source(deployment: &Deployment) -> anyhow::Result<X509Source> {
    let source = X509Source::builder()
        .endpoint(endpoint(&deployment.workload_socket()))
        .build();
    // The source goes on asking while the entry is on its way.
    timeout(DEADLINE, source)
        .await
        .with_context(|| deployment.logs())?
        .context("no X509Source")
}

async fn refused() -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    let client = WorkloadApiClient::connect_to(endpoint(&deployment.workload_socket())).await?;
    let Err(error) = client.fetch_x509_context().await else {
        anyhow::bail!("a process that matches no entry was served")
    };
    // The crate tells this refusal from others by the words that the standard's implementations share.
    ensure!(format!("{error:?}").contains("NoIdentityIssued"), "{error:?}");
    Ok(())
}

async fn x509_rotation() -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment
        .entry(WORKLOAD, &[&own_uid()], &["--x509-svid-ttl", "6s"])
        .await?;
    let source = source(&deployment).await?;
    let mut updates = source.updated();
    let mut last = source.svid()?;
    ensure!(last.spiffe_id().to_string() == WORKLOAD, "{:?}", last.spiffe_id());
    let bundle = source.bundle_for_trust_domain(&TrustDomain::new(TRUST_DOMAIN)?)?;
    ensure!(
        bundle.is_some_and(|bundle| !bundle.authorities().is_empty()),
        "no authority"
    );
    for _ in 0..2 {
        let next = loop {
            timeout(DEADLINE, updates.changed())
                .await
                .with_context(|| deployment.logs())??;
            let svid = source.svid()?;
            if svid.leaf().as_ref() != last.leaf().as_ref() {
                break svid;
            }
        };
        last = next;
    }
    source.shutdown().await;
    Ok(())
}

async fn jwt() -> anyhow::Result<()> {
    let deployment = Deployment::start().await?;
    deployment.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    source(&deployment).await?.shutdown().await;
    let builder = JwtSource::builder().endpoint(endpoint(&deployment.workload_socket()));
    let source = timeout(DEADLINE, builder.build())
        .await
        .with_context(|| deployment.logs())??;
    let svid = source.fetch_jwt_svid(["ledger"]).await?;
    ensure!(svid.spiffe_id().to_string() == WORKLOAD, "{:?}", svid.spiffe_id());
    let domain = TrustDomain::new(TRUST_DOMAIN)?;
    let bundle = source
        .try_bundle_for_trust_domain(&domain)
        .context("no JWT bundle")?;
    ensure!(
        bundle.find_jwt_authority(svid.key_id()).is_some(),
        "the bundle lacks `{}`",
        svid.key_id()
    );
    source.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_is_refused_without_an_entry() {
    refused().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_follows_rotation() {
    x509_rotation().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_gets_a_jwt_svid() {
    jwt().await.unwrap();
}
