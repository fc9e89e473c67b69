//! Traces, received by a collector made of OpenTelemetry's own Python package: one trace from a workload's call through the
//! agent to the server that signs. Off, nothing is sent; with the collector away, nothing else suffers.

#![expect(
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::Instant;
use tonic::Request;
use vouchsafe_proto::workload::{JwtsvidRequest, X509svidRequest};
use vouchsafe_tests::clients::{self, Client};
use vouchsafe_tests::daemons::{Deployment, TRUST_DOMAIN, own_uid};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;
use vouchsafe_tests::workload::{connect, next};

type Outcome = anyhow::Result<()>;

const WORKLOAD: &str = "spiffe://example.org/traced";
const AUDIENCE: &str = "spiffe://example.org/somebody";
/// What a workload that is traced sends, and the parts of it.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn section(endpoint: &str, ratio: f64) -> String {
    format!("[traces]\nendpoint = \"{endpoint}\"\nsample_ratio = {ratio:?}\n")
}

/// A request on behalf of the workload's own span.
fn traced<T>(message: T, trace: &str, sampled: bool) -> anyhow::Result<Request<T>> {
    let mut request = Request::new(message);
    let flags = u8::from(sampled);
    request
        .metadata_mut()
        .insert("traceparent", format!("00-{trace}-{SPAN}-{flags:02x}").parse()?);
    // What vendors add is taken from no caller.
    request
        .metadata_mut()
        .insert("tracestate", "vendor=chosen-by-the-caller".parse()?);
    Ok(request)
}

async fn collector(address: &str) -> anyhow::Result<(Client, u64)> {
    let mut command = clients::python("collect_traces");
    command.arg(address);
    let mut collector = Client::spawn(command)?;
    let listening = collector.expect("listening").await?;
    let port = listening["port"].as_u64().context("a port")?;
    Ok((collector, port))
}

fn text<'a>(span: &'a Value, key: &str) -> &'a str {
    span[key].as_str().unwrap_or_default()
}

/// Reads spans until there is one of each of these services and names in a trace; gives the spans of that trace.
async fn spans_of(
    collector: &mut Client,
    trace: &str,
    wanted: &[(&str, &str)],
    all: &mut Vec<Value>,
) -> anyhow::Result<BTreeMap<(String, String), Value>> {
    let mut found = BTreeMap::new();
    loop {
        if wanted
            .iter()
            .all(|(service, name)| found.contains_key(&((*service).to_owned(), (*name).to_owned())))
        {
            return Ok(found);
        }
        let span = collector
            .expect("span")
            .await
            .with_context(|| format!("so far: {found:#?}"))?;
        all.push(span.clone());
        if text(&span, "trace_id") == trace {
            let key = (
                text(&span, "service").to_owned(),
                format!("{} {}", text(&span, "kind"), text(&span, "name")),
            );
            found.insert(key, span);
        }
    }
}

/// Each is the child of the one before it, the first one of the workload's.
fn assert_chain(found: &BTreeMap<(String, String), Value>, chain: &[(&str, &str)]) {
    let mut parent = SPAN.to_owned();
    for (service, name) in chain {
        let span = &found[&((*service).to_owned(), (*name).to_owned())];
        assert_eq!(text(span, "parent"), parent, "{span:#}");
        text(span, "span_id").clone_into(&mut parent);
        assert!(
            span["nanoseconds"].as_i64().is_some_and(|time| time > 0),
            "{span:#}"
        );
    }
}

/// Spans say what was called and how it ended, and nothing else.
fn assert_discreet(spans: &[Value], secrets: &[&str]) {
    let allowed = ["rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"];
    for span in spans {
        let attributes = span["attributes"]
            .as_object()
            .unwrap_or_else(|| panic!("{span:#}"));
        assert!(
            attributes.keys().all(|key| allowed.contains(&key.as_str())),
            "{span:#}"
        );
        assert_eq!(
            (&span["events"], &span["links"]),
            (&0.into(), &0.into()),
            "{span:#}"
        );
        assert_eq!(text(span, "trace_state"), "", "{span:#}");
        let whole = span.to_string();
        for secret in secrets {
            assert!(!whole.contains(secret), "`{secret}` in {span:#}");
        }
    }
}

const AGENT: &str = "vouchsafe-agent";
const SERVER: &str = "vouchsafe-server";
const SIGNING_JWT: &str = "SPAN_KIND_SERVER spire.api.server.svid.v1.SVID/NewJWTSVID";
const ASKING_X509: &str = "SPAN_KIND_CLIENT spire.api.server.svid.v1.SVID/BatchNewX509SVID";
const SIGNING_X509: &str = "SPAN_KIND_SERVER spire.api.server.svid.v1.SVID/BatchNewX509SVID";
const ATTEST: &str = "SPAN_KIND_INTERNAL attest the caller";

#[tokio::test]
async fn one_trace_shows_the_call_of_a_workload_the_agent_and_the_server_that_signs() {
    require!(Need::Python);
    one_trace().await.unwrap();
}

async fn one_trace() -> Outcome {
    let (mut collector, port) = collector("127.0.0.1:0").await?;
    let endpoint = format!("http://127.0.0.1:{port}");
    // Only what callers want traced is.
    let agent = format!("sync_interval = \"1s\"\n{}", section(&endpoint, 0.0));
    let at = Deployment::configured(&section(&endpoint, 0.0), &agent).await?;
    at.entry(WORKLOAD, &[&own_uid()], &["--disable-x509-svid-prefetch"])
        .await?;
    let mut seen = Vec::new();

    let mut workload = connect(&at.workload_socket()).await?;
    let message = JwtsvidRequest {
        audience: vec![AUDIENCE.to_owned()],
        spiffe_id: String::new(),
    };
    until("the entry has come", async || {
        let request = traced(message.clone(), TRACE, false).ok()?;
        workload.clone().fetch_jwtsvid(request).await.ok()
    })
    .await?;
    // The first token is in the cache, for its own audience.
    let message = JwtsvidRequest {
        audience: vec![format!("{AUDIENCE}/else")],
        ..message
    };
    let issued = workload
        .fetch_jwtsvid(traced(message.clone(), TRACE, true)?)
        .await?;
    let token = issued.into_inner().svids.first().context("an SVID")?.svid.clone();
    let chain = [
        (AGENT, "SPAN_KIND_SERVER SpiffeWorkloadAPI/FetchJWTSVID"),
        (AGENT, "SPAN_KIND_CLIENT spire.api.server.svid.v1.SVID/NewJWTSVID"),
        (SERVER, SIGNING_JWT),
    ];
    let wanted: Vec<_> = chain.into_iter().chain([(AGENT, ATTEST)]).collect();
    let found = spans_of(&mut collector, TRACE, &wanted, &mut seen).await?;
    assert_chain(&found, &chain);
    assert_chain(&found, &[chain[0], (AGENT, ATTEST)]);
    let server = &found[&(SERVER.to_owned(), SIGNING_JWT.to_owned())];
    let expected = serde_json::json!({
        "rpc.system": "grpc",
        "rpc.service": "spire.api.server.svid.v1.SVID",
        "rpc.method": "NewJWTSVID",
        "rpc.grpc.status_code": 0,
    });
    assert_eq!(server["attributes"], expected);

    // An X.509-SVID is had by another task of the agent, on behalf of the call that waits for it.
    let other = TRACE.replace("0af7", "1bf7");
    let mut stream = workload
        .fetch_x509svid(traced(X509svidRequest {}, &other, true)?)
        .await?
        .into_inner();
    let first = next(&mut stream).await?;
    ensure!(first.svids.len() == 1, "{} SVIDs", first.svids.len());
    drop(stream);
    let chain = [
        (AGENT, "SPAN_KIND_SERVER SpiffeWorkloadAPI/FetchX509SVID"),
        (AGENT, ASKING_X509),
        (SERVER, SIGNING_X509),
    ];
    let found = spans_of(&mut collector, &other, &chain, &mut seen).await?;
    assert_chain(&found, &chain);

    // A call whose caller does not want it traced is not.
    let quiet = TRACE.replace("0af7", "2cf7");
    workload
        .fetch_x509_bundles(traced(Default::default(), &quiet, false)?)
        .await?;
    let last = TRACE.replace("0af7", "3df7");
    workload.fetch_jwtsvid(traced(message, &last, true)?).await?;
    let name = [(AGENT, "SPAN_KIND_SERVER SpiffeWorkloadAPI/FetchJWTSVID")];
    spans_of(&mut collector, &last, &name, &mut seen).await?;
    assert!(
        seen.iter().all(|span| text(span, "trace_id") != quiet),
        "{seen:#?}"
    );

    assert_discreet(&seen, &[&token, TRUST_DOMAIN, "chosen-by-the-caller", &own_uid()]);
    Ok(())
}

#[tokio::test]
async fn what_begins_in_the_agent_is_traced_by_its_own_share_to_a_unix_socket() {
    require!(Need::Python);
    own_traces().await.unwrap();
}

async fn own_traces() -> Outcome {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("otlp.sock");
    let (mut collector, _) = collector(&format!("unix:{}", socket.display())).await?;
    let endpoint = format!("unix://{}", socket.display());
    let agent = format!("sync_interval = \"1s\"\n{}", section(&endpoint, 1.0));
    let at = Deployment::configured("", &agent).await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    loop {
        let span = collector.expect("span").await?;
        let is_it = text(&span, "name").ends_with("/BatchNewX509SVID");
        if is_it && text(&span, "service") == AGENT && text(&span, "parent").is_empty() {
            return Ok(());
        }
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_does_not_answer_slows_nobody_and_is_told_of_once() -> Outcome {
    // One accepts connections and never says anything; at the other one nobody listens.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let nobody = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let server = section(&format!("http://{}", silent.local_addr()?), 1.0);
    let agent = format!(
        "sync_interval = \"1s\"\n{}",
        section(&format!("http://{nobody}"), 1.0)
    );
    let mut at = Deployment::configured(&server, &agent).await?;
    at.entry(WORKLOAD, &[&own_uid()], &[]).await?;
    until("the command line gets its SVID", async || {
        at.json(&["svid", "x509"]).await.ok()
    })
    .await?;
    let told = "the collector of traces takes no spans";
    until("both have told of it", async || {
        let times = at.logs().matches(told).count();
        (times == 2).then_some(())
    })
    .await?;
    let mut workload = connect(&at.workload_socket()).await?;
    let begun = Instant::now();
    for _ in 0..300 {
        let mut stream = workload.fetch_x509svid(X509svidRequest {}).await?.into_inner();
        next(&mut stream).await?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let mut logs = String::new();
    for daemon in [at.agent.take(), at.server.take()] {
        let mut daemon = daemon.context("it runs")?;
        let status = daemon.terminate().await?;
        logs.push_str(&daemon.log());
        ensure!(status.success(), "{status}: {logs}");
    }
    ensure!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    ensure!(logs.matches(told).count() == 2, "{logs}");
    Ok(())
}
