//! An operator replaces the keys of a running deployment, with the real binaries: workloads go on without a gap, and
//! what the old key signed is worth nothing at the end.

#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;

use anyhow::{Context, ensure};
use serde_json::Value;
use tonic::Streaming;
use vouchsafe_identity::{Bundle, LocalKey, TrustDomain, X509Authority, jwt, x509};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::workload::{
    JwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
};
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, SvidHandle};
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{certificates, connect, next};

const WORKLOAD: &str = "spiffe://example.org/agent/worker";

/// Runs `vouchsafe authority STEP KIND [ID]`; the id that it names.
async fn step(at: &Deployment, arguments: &[&str]) -> anyhow::Result<String> {
    let done = at.json(&[&["authority"], arguments].concat()).await?;
    let id = done.get("authority_id").and_then(Value::as_str);
    Ok(id.with_context(|| format!("no id in {done}"))?.to_owned())
}

/// The ids of the authorities in a state.
async fn shown(at: &Deployment, kind: &str, state: &str) -> anyhow::Result<Vec<String>> {
    let all = at.json(&["authority", "show", kind]).await?;
    let all = all.as_array().context("a list")?.iter();
    Ok(all
        .filter(|one| one["state"] == state)
        .filter_map(|one| Some(one["authority_id"].as_str()?.to_owned()))
        .collect())
}

async fn active(at: &Deployment, kind: &str) -> anyhow::Result<String> {
    shown(at, kind, "active")
        .await?
        .pop()
        .context("an active authority")
}

/// That a command fails with this exit code and says this.
async fn refused(at: &Deployment, arguments: &[&str], code: i32, text: &str) -> anyhow::Result<()> {
    let output = at.vouchsafe(&[&["authority"], arguments].concat()).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code) && said.contains(text),
        "{arguments:?}: {} {said}",
        output.status
    );
    Ok(())
}

/// The first SVID of a message, which verifies by the bundle that came with it.
struct Given {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
    bundle: Bundle,
    signer: String,
}

fn bundle_of(der: &[u8]) -> anyhow::Result<Bundle> {
    let mut bundle = Bundle::empty(TrustDomain::new(TRUST_DOMAIN)?);
    for certificate in certificates(der)? {
        bundle.x509_authorities.push(X509Authority {
            certificate,
            tainted: false,
        });
    }
    Ok(bundle)
}

impl Given {
    fn read(response: &X509svidResponse) -> anyhow::Result<Self> {
        let svid = response.svids.first().context("an SVID")?;
        let (chain, bundle) = (certificates(&svid.x509_svid)?, bundle_of(&svid.bundle)?);
        let leaf = x509::verify_svid(&chain, &bundle, Clock::system().now())?;
        ensure!(leaf.spiffe_id.as_str() == WORKLOAD);
        Ok(Self {
            chain,
            key: svid.x509_svid_key.clone(),
            bundle,
            signer: leaf.authority_key_id.context("a key id")?,
        })
    }
}

/// Whether the server's TLS lets a peer in with this SVID.
async fn is_let_in(at: &Deployment, given: &Given) -> anyhow::Result<bool> {
    let (svid, bundles) = (SvidHandle::new(), BundleHandle::new());
    let key = LocalKey::from_pkcs8("svid", &given.key)?;
    svid.set_signer(&given.chain, Arc::new(key))?;
    // The peer itself knows the server by what the server says now.
    let pem = at.vouchsafe(&["bundle", "show"]).await?.stdout;
    bundles.set(Bundle::from_pem(TrustDomain::new(TRUST_DOMAIN)?, &pem)?);
    let server = TrustDomain::new(TRUST_DOMAIN)?.with_path("/spire/server")?;
    let config = tls::client_config(Some(&svid), &bundles, &Clock::system(), PeerRule::Exact(server))?;
    let file: toml::Table = std::fs::read_to_string(at.path("server.toml"))?.parse()?;
    let address = file["listen"].as_str().context("an address")?.parse()?;
    let mut client = BundleClient::new(tls::channel(&address, config, ChannelTimes::default()));
    Ok(client.get_bundle(GetBundleRequest::default()).await.is_ok())
}

async fn jwt_signer(at: &Deployment) -> anyhow::Result<String> {
    let request = JwtsvidRequest {
        audience: vec!["ledger".to_owned()],
        spiffe_id: String::new(),
    };
    let answer = connect(&at.workload_socket())
        .await?
        .fetch_jwtsvid(request)
        .await?;
    let svid = answer.into_inner().svids.pop().context("a token")?;
    jwt::peek_unverified(&svid.svid)?.key_id.context("a key id")
}

/// Reads messages, each of which must verify, until one is signed by this authority.
async fn signed_by(stream: &mut Streaming<X509svidResponse>, authority: &str) -> anyhow::Result<Given> {
    loop {
        let given = Given::read(&next(stream).await?)?;
        if given.signer == authority {
            return Ok(given);
        }
    }
}

async fn streams(
    at: &Deployment,
) -> anyhow::Result<(Streaming<X509svidResponse>, Streaming<X509BundlesResponse>)> {
    let mut client = connect(&at.workload_socket()).await?;
    let svids = client.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    let bundles = client
        .fetch_x509_bundles(X509BundlesRequest {})
        .await?
        .into_inner();
    Ok((svids, bundles))
}

async fn workload(at: &Deployment) -> anyhow::Result<()> {
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    until("the workload has its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await
    .map(drop)
}

async fn leak() -> anyhow::Result<()> {
    let at = Deployment::configured("", "sync_interval = \"200ms\"\n").await?;
    workload(&at).await?;
    let (mut svids, mut bundles) = streams(&at).await?;
    let old = active(&at, "x509").await?;
    let before = Given::read(&next(&mut svids).await?)?;
    ensure!(before.signer == old);
    next(&mut bundles).await?;

    refused(&at, &["taint", "x509", &old], 65, "activate another first").await?;
    let new = step(&at, &["prepare", "x509"]).await?;
    refused(&at, &["taint", "x509", &new], 65, "prepare another").await?;
    step(&at, &["activate", "x509", &new]).await?;
    ensure!(active(&at, "x509").await? == new);
    refused(&at, &["revoke", "x509", &old], 1, "taint").await?;
    ensure!(
        is_let_in(&at, &before).await?,
        "what the old key signed is still good"
    );
    step(&at, &["taint", "x509", &old]).await?;
    let after = signed_by(&mut svids, &new).await.with_context(|| at.logs())?;
    ensure!(after.key != before.key, "a new key each time");
    until("the agent has a new SVID too", async || {
        let log = at.agent.as_ref()?.log();
        log.contains("the SVID of this agent was renewed").then_some(())
    })
    .await?;
    step(&at, &["revoke", "x509", &old]).await?;
    let last = loop {
        let message = next(&mut bundles).await?;
        let bundle = bundle_of(&message.bundles["spiffe://example.org"])?;
        if bundle.x509_authorities.len() == 1 {
            break bundle;
        }
    };
    ensure!(last.x509_authorities[0].key_id() == Some(new.clone()));
    let now = Clock::system().now();
    ensure!(x509::verify_svid(&before.chain, &last, now).is_err());
    x509::verify_svid(&after.chain, &last, now)?;
    ensure!(!is_let_in(&at, &before).await?, "the old SVID is refused by TLS");
    ensure!(is_let_in(&at, &after).await?);
    ensure!(before.bundle.x509_authorities.len() == 1);
    // The agent goes on with its server.
    at.entry("spiffe://example.org/agent/second", &[&own_uid()], &[])
        .await?;
    let mut second = loop {
        let message = next(&mut svids).await?;
        if message.svids.len() == 2 {
            break message;
        }
    };
    // Entries of the same second come in the order of their ids.
    second.svids.retain(|svid| svid.spiffe_id == WORKLOAD);
    ensure!(Given::read(&second)?.signer == new);
    Ok(())
}

async fn jwt_leak() -> anyhow::Result<()> {
    let at = Deployment::configured("", "sync_interval = \"200ms\"\n").await?;
    workload(&at).await?;
    let old = active(&at, "jwt").await?;
    ensure!(jwt_signer(&at).await? == old);
    let new = step(&at, &["prepare", "jwt"]).await?;
    step(&at, &["activate", "jwt", &new]).await?;
    ensure!(jwt_signer(&at).await? == old, "cached");
    step(&at, &["taint", "jwt", &old]).await?;
    until("no token of the tainted key is served", async || {
        (jwt_signer(&at).await.ok()? == new).then_some(())
    })
    .await
    .with_context(|| at.logs())?;
    step(&at, &["revoke", "jwt", &old]).await?;
    ensure!(shown(&at, "jwt", "old").await?.is_empty());
    Ok(())
}

/// Nobody waits between tainting and revoking: the agent has not renewed by then, and is not shut out for that.
async fn haste() -> anyhow::Result<()> {
    let at = Deployment::configured("", "sync_interval = \"200ms\"\n").await?;
    workload(&at).await?;
    let (mut svids, _) = streams(&at).await?;
    let old = active(&at, "x509").await?;
    let new = step(&at, &["prepare", "x509"]).await?;
    for arguments in [
        ["activate", "x509", &new],
        ["taint", "x509", &old],
        ["revoke", "x509", &old],
    ] {
        step(&at, &arguments).await?;
    }
    loop {
        let response = next(&mut svids).await?;
        let svid = response.svids.first().context("an SVID")?;
        // Until the agent has heard of it, what it serves may hang on the old one.
        if Given::read(&response).is_ok_and(|given| given.signer == new)
            && bundle_of(&svid.bundle)?.x509_authorities.len() == 1
        {
            break;
        }
    }
    let second = "spiffe://example.org/agent/second";
    at.entry(second, &[&own_uid()], &[]).await?;
    loop {
        let message = next(&mut svids).await?;
        if message.svids.iter().any(|svid| svid.spiffe_id == second) {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn an_authority_revoked_in_haste_shuts_no_agent_out() {
    haste().await.unwrap();
}

/// The server is killed after each step, and the agent after some.
async fn kills() -> anyhow::Result<()> {
    let mut at = Deployment::configured("", "sync_interval = \"200ms\"\n").await?;
    workload(&at).await?;
    for kind in ["x509", "jwt"] {
        let old = active(&at, kind).await?;
        let new = step(&at, &["prepare", kind]).await?;
        restart(&mut at).await?;
        ensure!(shown(&at, kind, "prepared").await? == std::slice::from_ref(&new));
        // Who knows of no authority but a tainted one believes the server no more: that is what preparing is for.
        until("the agent has heard of the new authority", async || {
            let response = next(&mut streams(&at).await.ok()?.0).await.ok()?;
            let bundle = bundle_of(&response.svids.first()?.bundle).ok()?;
            (kind == "jwt" || bundle.x509_authorities.len() == 2).then_some(())
        })
        .await
        .with_context(|| at.logs())?;
        step(&at, &["activate", kind, &new]).await?;
        restart(&mut at).await?;
        ensure!(active(&at, kind).await? == new);
        step(&at, &["taint", kind, &old]).await?;
        restart(&mut at).await?;
        ensure!(shown(&at, kind, "old").await? == std::slice::from_ref(&old));
        until(
            "what the agent serves is signed by the new authority",
            async || {
                let signer = match kind {
                    "x509" => {
                        Given::read(&next(&mut streams(&at).await.ok()?.0).await.ok()?)
                            .ok()?
                            .signer
                    }
                    _ => jwt_signer(&at).await.ok()?,
                };
                (signer == new).then_some(())
            },
        )
        .await
        .with_context(|| at.logs())?;
        at.agent.as_mut().context("an agent")?.kill().await?;
        at.start_agent(&[]).await?;
        step(&at, &["revoke", kind, &old]).await?;
        restart(&mut at).await?;
        ensure!(shown(&at, kind, "old").await?.is_empty());
        let keys = std::fs::read_dir(at.path("server/keys"))?.count();
        ensure!(keys == 2, "{keys} keys for two authorities");
    }
    Ok(())
}

async fn restart(at: &mut Deployment) -> anyhow::Result<()> {
    at.server.as_mut().context("a server")?.kill().await?;
    at.start_server().await
}

#[tokio::test]
async fn after_a_key_leak_workloads_go_on_and_the_leaked_key_is_worth_nothing() {
    leak().await.unwrap();
}

#[tokio::test]
async fn tokens_of_a_tainted_key_are_served_no_more() {
    jwt_leak().await.unwrap();
}

#[tokio::test]
async fn a_kill_between_two_steps_loses_none() {
    kills().await.unwrap();
}
