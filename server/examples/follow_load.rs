//! Measures the stream of changes: many agents that follow one server, each over a connection of its own.
//!
//! `cargo run --profile fast -p vouchsafe-server --example follow_load [agents] [changes a second] [seconds]`
//!
//! Server and agents share the process; each has threads of its own, whose CPU time the kernel counts apart.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use vouchsafe_identity::x509::csr;
use vouchsafe_identity::x509::svid::parse_leaf;
use vouchsafe_identity::{Bundle, KeyAlgorithm, LocalKey, SpiffeId, TrustDomain, X509Authority};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, CreateJoinTokenRequest, attest_agent_request,
    attest_agent_response,
};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::entry::v1::BatchCreateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message;
use vouchsafe_proto::vouchsafe::sync::v1::sync_client::SyncClient;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FollowResponse, Hello, follow_request};
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, SvidHandle};
use vouchsafe_server::app::{Addresses, App, Host};
use vouchsafe_server::config::Config;

const SERVER_THREADS: &str = "server";
/// Attestations at a time.
const AT_ONCE: usize = 32;

fn main() -> Result<()> {
    let argument = |n: usize, default: u32| std::env::args().nth(n).map_or(Ok(default), |text| text.parse());
    let (agents, rate, seconds) = (argument(1, 1000)?, argument(2, 100)?, argument(3, 10)?);
    let dir = tempfile::tempdir()?;
    let config: Config = toml::from_str(&format!(
        "trust_domain = \"example.org\"\ndata_dir = \"{0}/data\"\nlisten = \"127.0.0.1:0\"\n\
         admin_socket = \"{0}/server.sock\"\n[limits]\nmax_connections_per_source = 100000\n\
         attestations_per_second_per_source = 100000\nattestation_burst_per_source = 100000\n\
         anonymous_calls_per_second_per_source = 100000\nanonymous_call_burst_per_source = 100000\n\
         max_connection_age = \"1h\"\n",
        dir.path().display()
    ))?;
    let server = threads(SERVER_THREADS)?;
    let app = server.block_on(App::build(config, Host::default()))?;
    let addresses = app.addresses().clone();
    let _running = server.spawn(app.run(std::future::pending()));
    threads("agents")?.block_on(measure(&addresses, agents, rate, seconds))?;
    server.shutdown_background();
    Ok(())
}

fn threads(name: &str) -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).thread_name(name).enable_all().build()?)
}

async fn measure(addresses: &Addresses, agents: u32, rate: u32, seconds: u32) -> Result<()> {
    let bundles = BundleHandle::new();
    bundles.set(bundle(addresses).await?);
    let (heard, mut hears) = mpsc::unbounded_channel();
    let begun = Instant::now();
    let (mut opening, mut ids, mut left) = (JoinSet::new(), Vec::new(), agents);
    let mut followers = JoinSet::new();
    while left > 0 || !opening.is_empty() {
        while left > 0 && opening.len() < AT_ONCE {
            opening.spawn(open(addresses.clone(), bundles.clone()));
            left -= 1;
        }
        if let Some(opened) = opening.join_next().await {
            let (id, stream) = opened??;
            ids.push(id);
            followers.spawn(listen(stream, heard.clone()));
        }
    }
    say(&format!(
        "{agents} agents joined and follow after {:?}",
        begun.elapsed()
    ))?;
    say(&format!("memory of both sides: {} MiB", resident_mib()?))?;
    let span = Duration::from_secs(seconds.into());
    let before = cpu()?;
    tokio::time::sleep(span).await;
    report("at rest", before, span)?;

    let mut entries = EntryClient::new(local(addresses).await?);
    let (before, begun) = (cpu()?, Instant::now());
    let mut ticks = interval(Duration::from_secs(1) / rate);
    let mut delays = Vec::new();
    for n in 0..rate * seconds {
        ticks.tick().await;
        let parent = ids
            .get(usize::try_from(n)? % ids.len())
            .context("there are agents")?;
        create(&mut entries, parent.path(), &format!("/w/{n}"), n).await?;
        let created = Instant::now();
        // Heard before `create` has returned counts as no delay.
        let at: Instant = hears.recv().await.context("the agents listen")?;
        delays.push(at.saturating_duration_since(created));
    }
    report(
        &format!("with {rate} changes a second that concern one each"),
        before,
        begun.elapsed(),
    )?;
    delays.sort_unstable();
    let share = |percent: usize| delays.get((delays.len() * percent / 100).min(delays.len() - 1));
    say(&format!(
        "created to heard: p50 {:?}, p99 {:?}",
        share(50),
        share(99)
    ))?;

    for (n, id) in ids.iter().enumerate() {
        create(&mut entries, id.path(), "/all", u32::try_from(n)?).await?;
        hears.recv().await.context("the agents listen")?;
    }
    let (before, begun) = (cpu()?, Instant::now());
    create(&mut entries, "/all", "/below-all", 1).await?;
    for _ in 0..agents {
        hears.recv().await.context("the agents listen")?;
    }
    report("one change that concerns all", before, begun.elapsed())?;
    say(&format!("heard by all after {:?}", begun.elapsed()))
}

/// Joins, and follows over a connection of its own.
async fn open(addresses: Addresses, bundles: BundleHandle) -> Result<(SpiffeId, Streaming<FollowResponse>)> {
    let clock = Clock::system();
    let channel = |svid: Option<&SvidHandle>| -> Result<Channel> {
        let rule = PeerRule::MemberOf(TrustDomain::new("example.org")?);
        let config = tls::client_config(svid, &bundles, &clock, rule)?;
        let address = addresses.listen.to_string().parse()?;
        Ok(tls::channel(&address, config, ChannelTimes::default()))
    };
    let asked = CreateJoinTokenRequest {
        ttl: 600,
        ..CreateJoinTokenRequest::default()
    };
    let token = AgentClient::new(local(&addresses).await?)
        .create_join_token(asked)
        .await?
        .into_inner()
        .value;
    let key = Arc::new(LocalKey::generate("agent", KeyAlgorithm::EcP256)?);
    let params = attest_agent_request::Params {
        data: Some(types::AttestationData {
            r#type: "join_token".to_owned(),
            payload: token.into_bytes(),
        }),
        params: Some(AgentX509svidParams {
            csr: csr::create(key.as_ref(), None, &[])?,
        }),
    };
    let request = AttestAgentRequest {
        step: Some(attest_agent_request::Step::Params(params)),
    };
    let mut answers = AgentClient::new(channel(None)?)
        .attest_agent(tokio_stream::once(request))
        .await?
        .into_inner();
    let Some(attest_agent_response::Step::Result(result)) =
        answers.message().await?.and_then(|answer| answer.step)
    else {
        anyhow::bail!("a join token knows no challenge");
    };
    let chain = result.svid.context("an SVID")?.cert_chain;
    let id = parse_leaf(chain.first().context("a certificate")?)?.spiffe_id;
    let svid = SvidHandle::new();
    svid.set_signer(&chain, key as _)?;
    let hello = follow_request::Message::Hello(Hello {
        version: 1,
        ..Hello::default()
    });
    let asks = tokio_stream::StreamExt::chain(
        tokio_stream::once(FollowRequest { message: Some(hello) }),
        tokio_stream::pending(),
    );
    let mut stream = SyncClient::new(channel(Some(&svid))?)
        .follow(asks)
        .await?
        .into_inner();
    while let Some(message) = stream.message().await? {
        if matches!(message.message, Some(Message::Page(page)) if page.resume.is_some()) {
            break;
        }
    }
    Ok((id, stream))
}

/// Tells when an entry came.
async fn listen(mut stream: Streaming<FollowResponse>, heard: mpsc::UnboundedSender<Instant>) {
    while let Ok(Some(message)) = stream.message().await {
        let Some(Message::Delta(delta)) = message.message else {
            continue;
        };
        let puts = delta
            .changes
            .iter()
            .filter(|change| matches!(change.kind, Some(Kind::EntryPut(_))));
        for _ in puts {
            let _measured = heard.send(Instant::now());
        }
    }
}

async fn create(client: &mut EntryClient<Channel>, parent: &str, path: &str, n: u32) -> Result<()> {
    let id = |path: &str| {
        Some(types::Spiffeid {
            trust_domain: "example.org".to_owned(),
            path: path.to_owned(),
        })
    };
    let selector = |value: String| types::Selector {
        r#type: "unix".to_owned(),
        value,
    };
    let entry = types::Entry {
        parent_id: id(parent),
        spiffe_id: id(path),
        selectors: vec![
            selector(format!("path:/opt/{n}")),
            selector(format!("sha256:{n:064x}")),
        ],
        ..types::Entry::default()
    };
    let asked = BatchCreateEntryRequest {
        entries: vec![entry],
        output_mask: None,
    };
    let results = client.batch_create_entry(asked).await?.into_inner().results;
    let status = results
        .into_iter()
        .next()
        .and_then(|result| result.status)
        .context("a status")?;
    anyhow::ensure!(status.code == 0, "{}", status.message);
    Ok(())
}

async fn local(addresses: &Addresses) -> Result<Channel> {
    let path = addresses.admin_socket.clone();
    let connect = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    Ok(Endpoint::from_static("http://localhost")
        .connect_with_connector(connect)
        .await?)
}

async fn bundle(addresses: &Addresses) -> Result<Bundle> {
    let mut client = BundleClient::new(local(addresses).await?);
    let got = client.get_bundle(GetBundleRequest::default()).await?.into_inner();
    let mut bundle = Bundle::empty(TrustDomain::new(&got.trust_domain)?);
    bundle.x509_authorities = got
        .x509_authorities
        .into_iter()
        .map(|authority| X509Authority {
            certificate: authority.asn1,
            tainted: false,
        })
        .collect();
    Ok(bundle)
}

/// CPU time that the server's threads have used.
fn cpu() -> Result<Duration> {
    let mut ticks = 0_u64;
    for task in std::fs::read_dir("/proc/self/task")? {
        let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
        let Some((name, rest)) = stat.rsplit_once(") ") else {
            continue;
        };
        if name.ends_with(SERVER_THREADS) {
            let times = rest.split(' ').skip(11).take(2).map(str::parse::<u64>);
            ticks += times.sum::<Result<u64, _>>()?;
        }
    }
    Ok(Duration::from_millis(ticks * 10))
}

fn report(what: &str, before: Duration, span: Duration) -> Result<()> {
    let used = cpu()?.saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / span.as_secs_f64();
    say(&format!(
        "{what}: server CPU {used:?} in {span:?}, {share:.1} % of one core"
    ))
}

fn resident_mib() -> Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .context("statm has a second field")?
        .parse()?;
    Ok(pages * 4096 / 1024 / 1024)
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
