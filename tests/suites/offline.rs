//! Life without the server, with the real programs: both are killed, the agent alone comes back, and serves what it had
//! sealed; what was tampered with is not used; a full disk, a ban and the server's return.

#![expect(clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::Instant;
use vouchsafe_identity::{Bundle, LocalKey, Signer, TrustDomain, X509Authority, x509};
use vouchsafe_proto::workload::{X509svidRequest, X509svidResponse};
use vouchsafe_runtime::Clock;
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::sealed::{agent_id, until_sealed};
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{certificates, connect, next};

const WORKLOAD: &str = "spiffe://example.org/agent/phoenix";

fn domain() -> anyhow::Result<TrustDomain> {
    Ok(TrustDomain::new(TRUST_DOMAIN)?)
}

fn now() -> OffsetDateTime {
    Clock::system().now()
}

async fn fetch(at: &Deployment) -> anyhow::Result<X509svidResponse> {
    let mut client = connect(&at.workload_socket()).await?;
    let mut stream = client.fetch_x509svid(X509svidRequest {}).await?.into_inner();
    Ok(next(&mut stream).await?)
}

/// The SVID of this process: it verifies, and its key is its key. Gives its serial number.
fn verified(response: &X509svidResponse, id: &str) -> anyhow::Result<String> {
    let svid = response.svids.iter().find(|svid| svid.spiffe_id == id);
    let svid = svid.with_context(|| format!("no SVID of {id}"))?;
    let mut bundle = Bundle::empty(domain()?);
    let authorities = certificates(&svid.bundle)?.into_iter();
    bundle.x509_authorities = authorities
        .map(|certificate| X509Authority {
            certificate,
            tainted: false,
        })
        .collect();
    let leaf = x509::verify_svid(&certificates(&svid.x509_svid)?, &bundle, now())?;
    let key = LocalKey::from_pkcs8("workload", &svid.x509_svid_key)?;
    ensure!(leaf.public_key == key.public_key_spki(), "a key of another SVID");
    ensure!(leaf.spiffe_id.as_str() == id, "{}", leaf.spiffe_id);
    Ok(leaf.serial)
}

async fn given(at: &Deployment, id: &str) -> anyhow::Result<String> {
    let serial = until("this process has its SVID", async || {
        verified(&fetch(at).await.ok()?, id).ok()
    });
    serial.await.with_context(|| at.logs())
}

/// Waits until the SVID with this serial number, or any where none is given, is sealed.
async fn sealed(at: &Deployment, id: &str, serial: Option<&str>) -> anyhow::Result<()> {
    until_sealed(at, "the SVID", |sealed| {
        let mut svids = sealed.svids.iter();
        svids.any(|(_, svid)| {
            svid.spiffe_id.as_str() == id && serial.is_none_or(|serial| svid.serial == serial)
        })
    })
    .await
}

async fn health(at: &Deployment) -> anyhow::Result<Value> {
    let output = at.vouchsafe(&["health", "agent", "--output", "json"]).await?;
    let views: Value = serde_json::from_slice(&output.stdout)?;
    Ok(views[0].clone())
}

fn detail(health: &Value, part: &str) -> String {
    let parts = health["parts"].as_array().into_iter().flatten();
    let mut found = parts.filter(|one| one["name"] == part);
    found
        .next()
        .and_then(|one| one["detail"].as_str())
        .unwrap_or_default()
        .to_owned()
}

async fn is_well(at: &Deployment, status: &str) -> anyhow::Result<Value> {
    until(&format!("the agent is {status}"), async || {
        let health = health(at).await.ok()?;
        (health["status"] == status).then_some(health)
    })
    .await
    .with_context(|| at.logs())
}

async fn kill_server(at: &mut Deployment) -> anyhow::Result<()> {
    at.server.take().context("no server runs")?.kill().await
}

async fn kill_agent(at: &mut Deployment) -> anyhow::Result<()> {
    at.agent.take().context("no agent runs")?.kill().await
}

/// Both run, one entry matches this process, and its SVID is sealed; then both are killed.
async fn killed() -> anyhow::Result<(Deployment, String)> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let serial = given(&at, WORKLOAD).await?;
    sealed(&at, WORKLOAD, Some(&serial)).await?;
    kill_server(&mut at).await?;
    kill_agent(&mut at).await?;
    Ok((at, serial))
}

/// The same, where the agent was told to stop: all that it knew is surely sealed.
async fn stopped() -> anyhow::Result<Deployment> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    given(&at, WORKLOAD).await?;
    kill_server(&mut at).await?;
    at.agent.take().context("no agent runs")?.terminate().await?;
    Ok(at)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let found = std::fs::read_dir(folder)?;
    Ok(found
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?)
}

#[tokio::test]
async fn what_was_tampered_with_is_not_used_and_the_agent_waits_for_its_server() -> anyhow::Result<()> {
    let (mut at, other) = (stopped().await?, stopped().await?);
    let folder = at.path("agent/sealed");
    let (key, head) = (at.path("agent/seal.key"), folder.join("head"));
    let log = files(&folder)?
        .into_iter()
        .find(|path| path.extension().is_some_and(|end| end == "log"))
        .context("a log")?;
    let (log_bytes, head_bytes, key_bytes) =
        (std::fs::read(&log)?, std::fs::read(&head)?, std::fs::read(&key)?);
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let restore = || -> anyhow::Result<()> {
        for path in files(&folder)? {
            std::fs::remove_file(path)?;
        }
        std::fs::write(&log, &log_bytes)?;
        std::fs::write(&head, &head_bytes)?;
        Ok(std::fs::write(&key, &key_bytes)?)
    };
    let swap = || -> anyhow::Result<()> {
        for path in files(&folder)? {
            std::fs::remove_file(path)?;
        }
        for path in files(&other.path("agent/sealed"))? {
            std::fs::copy(&path, folder.join(path.file_name().context("a name")?))?;
        }
        Ok(())
    };
    let tampered: [(&str, &dyn Fn() -> anyhow::Result<()>); 5] = [
        ("a bit of the log", &|| {
            Ok(std::fs::write(&log, flipped(&log_bytes, log_bytes.len() / 2))?)
        }),
        ("a bit of the head", &|| {
            Ok(std::fs::write(&head, flipped(&head_bytes, head_bytes.len() - 1))?)
        }),
        ("the end of the log", &|| {
            Ok(std::fs::write(&log, &log_bytes[..log_bytes.len() - 1])?)
        }),
        ("a newer version", &|| {
            Ok(std::fs::write(&head, flipped(&head_bytes, 8))?)
        }),
        ("the seal of another agent", &swap),
    ];
    for (what, tamper) in tampered {
        restore()?;
        tamper()?;
        at.launch_agent(&[])?;
        let health = is_well(&at, "not serving").await.context(what)?;
        ensure!(
            detail(&health, "sync").contains("not been heard")
                || detail(&health, "sync").contains("unreachable"),
            "{what}: {health}"
        );
        let log = at.agent.as_ref().context("the agent runs")?.log();
        ensure!(log.contains("the sealed state is not used"), "{what}: {log}");
        let svids = at.vouchsafe(&["svid", "x509", "--timeout", "1s"]).await?;
        ensure!(!svids.status.success(), "{what}: it was served");
        kill_agent(&mut at).await?;
        std::fs::remove_file(at.path("agent.log"))?;
    }
    // With another key nothing opens, the key of the agent's own SVID neither: it would have to join again.
    std::fs::write(&key, flipped(&key_bytes, 0))?;
    at.launch_agent(&[])?;
    let mut agent = at.agent.take().context("launched")?;
    agent.ends_with(74, "bring back the sealing key").await?;
    // Untouched, it serves.
    restore()?;
    at.start_agent(&[]).await?;
    given(&at, WORKLOAD).await?;
    Ok(())
}

#[tokio::test]
async fn a_killed_agent_serves_at_once_while_its_server_is_dead_and_is_well_when_it_is_back()
-> anyhow::Result<()> {
    let (mut at, serial) = killed().await?;
    let begun = Instant::now();
    at.launch_agent(&[])?;
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let response = loop {
        tick.tick().await;
        if let Ok(response) = fetch(&at).await {
            break response;
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "{}", at.logs());
    };
    let took = begun.elapsed();
    println!(
        "from exec to the first X.509-SVID, the server dead: {} ms",
        took.as_millis()
    );
    ensure!(
        verified(&response, WORKLOAD)? == serial,
        "what was sealed is served"
    );
    let svids = at.json(&["svid", "x509"]).await?;
    ensure!(
        svids[0]["spiffe_id"] == WORKLOAD,
        "another process gets it too: {svids}"
    );
    let health = is_well(&at, "degraded").await?;
    let unreachable = until("health says that the server is unreachable", async || {
        let text = detail(&self::health(&at).await.ok()?, "sync");
        text.contains("unreachable since").then_some(text)
    });
    unreachable.await.with_context(|| health.to_string())?;
    at.start_server().await?;
    is_well(&at, "serving").await?;
    at.entry("spiffe://example.org/agent/later", &[&own_uid()], &[])
        .await?;
    given(&at, "spiffe://example.org/agent/later").await?;
    Ok(())
}

#[tokio::test]
async fn an_expired_svid_is_refused_with_the_reason_and_renewed_when_the_server_is_back() -> anyhow::Result<()>
{
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &["--x509-svid-ttl", "8s"])
        .await?;
    let serial = given(&at, WORKLOAD).await?;
    sealed(&at, WORKLOAD, None).await?;
    kill_server(&mut at).await?;
    kill_agent(&mut at).await?;
    let started = now();
    at.start_agent(&[]).await?;
    let refused = until("the SVID ends", async || match fetch(&at).await {
        Ok(response) => {
            assert!(
                verified(&response, WORKLOAD).is_ok(),
                "an SVID that does not verify was served"
            );
            None
        }
        Err(refused) => Some(refused.to_string()),
    })
    .await?;
    ensure!(refused.contains("server unreachable"), "{refused}");
    ensure!(now() >= started, "the clock went back");
    // A start changes nothing about it.
    kill_agent(&mut at).await?;
    at.start_agent(&[]).await?;
    let refused = fetch(&at)
        .await
        .err()
        .context("an expired SVID was served")?
        .to_string();
    ensure!(refused.contains("server unreachable"), "{refused}");
    at.start_server().await?;
    ensure!(given(&at, WORKLOAD).await? != serial, "the SVID is a new one");
    is_well(&at, "serving").await?;
    Ok(())
}

#[tokio::test]
async fn a_ban_wipes_what_was_sealed() -> anyhow::Result<()> {
    let mut at = Deployment::start().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let serial = given(&at, WORKLOAD).await?;
    sealed(&at, WORKLOAD, Some(&serial)).await?;
    let agent = agent_id(&at)?.to_string();
    at.json(&["agent", "ban", "--spiffe-id", &agent]).await?;
    let mut daemon = at.agent.take().context("the agent runs")?;
    daemon.ends_with(77, "an operator banned this agent").await?;
    ensure!(
        files(&at.path("agent/sealed"))?.is_empty(),
        "something is still sealed"
    );
    ensure!(!at.path("agent/seal.key").exists(), "the key is still there");
    kill_server(&mut at).await?;
    at.launch_agent(&[])?;
    // Banned, it has nothing to serve.
    let mut daemon = at.agent.take().context("launched")?;
    daemon.ends_with(78, "nothing to join with").await?;
    Ok(())
}

/// How the agent began to follow the server's changes, each time: whether it went on from a revision.
fn begun(at: &Deployment) -> Vec<bool> {
    let log = at.agent.as_ref().map_or_else(String::new, |agent| agent.log());
    let begun = log
        .lines()
        .filter(|line| line.contains("following the server's changes"));
    begun
        .map(|line| line.contains("revision=") && !line.contains("reason="))
        .collect()
}

#[tokio::test]
async fn a_restarted_agent_goes_on_from_the_revision_that_it_sealed() -> anyhow::Result<()> {
    let (kept, gone, later) = (
        WORKLOAD,
        "spiffe://example.org/agent/gone",
        "spiffe://example.org/agent/later",
    );
    for kill in [false, true] {
        let mut at = Deployment::start().await?;
        at.entry(kept, &[&own_uid()], &[]).await?;
        at.entry(gone, &[&own_uid()], &["--entry-id", "gone"]).await?;
        for id in [kept, gone] {
            let serial = given(&at, id).await?;
            sealed(&at, id, Some(&serial)).await?;
        }
        ensure!(begun(&at) == [false], "the first time it gets its whole set");
        match kill {
            true => kill_agent(&mut at).await?,
            false => drop(at.agent.take().context("no agent runs")?.terminate().await?),
        }
        at.json(&["entry", "delete", "--entry-id", "gone"]).await?;
        at.entry(later, &[&own_uid()], &[]).await?;
        at.start_agent(&[]).await?;
        for id in [kept, later] {
            given(&at, id).await?;
        }
        let response = fetch(&at).await?;
        ensure!(response.svids.len() == 2, "{gone} is still served");
        ensure!(begun(&at) == [false, true], "killed: {kill}\n{}", at.logs());
    }
    Ok(())
}

/// A file system of its own at a path, gone at the end.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)?;
        let options = "size=512k,mode=0700";
        nix::mount::mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options),
        )?;
        Ok(Self(path.to_owned()))
    }

    /// Takes all the room that is left.
    fn fill(&self) -> anyhow::Result<PathBuf> {
        let filler = self.0.join("filler");
        let mut file = std::fs::File::create(&filler)?;
        while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
        Ok(filler)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _busy = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_keeps_nobody_from_being_served_and_is_told() {
    require!(Need::Root);
    full_disk().await.unwrap();
}

async fn full_disk() -> anyhow::Result<()> {
    let mut at = Deployment::server_alone("").await?;
    let small = Small::mount(&at.path("agent"))?;
    at.configure_agent("sync_interval = \"1s\"\n");
    at.join().await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    let serial = given(&at, WORKLOAD).await?;
    sealed(&at, WORKLOAD, Some(&serial)).await?;
    let filler = small.fill()?;
    let later = "spiffe://example.org/agent/later";
    at.entry(later, &[&own_uid()], &[]).await?;
    let serial = given(&at, later).await?;
    let health = is_well(&at, "degraded").await?;
    let told = detail(&health, "seal");
    ensure!(told.contains("No space left"), "{health}");
    given(&at, WORKLOAD).await?;
    std::fs::remove_file(filler)?;
    is_well(&at, "serving").await?;
    sealed(&at, later, Some(&serial)).await?;
    // What was sealed is whole.
    kill_server(&mut at).await?;
    kill_agent(&mut at).await?;
    at.start_agent(&[]).await?;
    given(&at, later).await?;
    kill_agent(&mut at).await
}
