//! Configurations that are refused; that nothing is made when traces are off; that no call waits for a collector.

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::sending::MAX_WAITING;
use super::*;
use crate::tasks::TaskGroup;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const METHOD: &str = "/p.S/M";

fn config(endpoint: &str, sample_ratio: f64) -> TracesConfig {
    TracesConfig {
        endpoint: Some(endpoint.to_owned()),
        sample_ratio,
        allow_remote: false,
    }
}

fn traceparent(flags: &str) -> HeaderMap {
    let value = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, value.parse().unwrap());
    headers.insert("tracestate", HeaderValue::from_static("vendor=x"));
    headers
}

#[test]
fn an_endpoint_is_plain_has_a_port_and_is_on_this_host_and_a_ratio_is_a_share() {
    for bad in [
        "https://127.0.0.1:4317",
        "127.0.0.1:4317",
        "http://localhost",
        "http://localhost:0",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1:1?x",
        "http://user@127.0.0.1:1",
        "unix://relative",
        "",
    ] {
        let refused = config(bad, 1.0).check().unwrap_err();
        assert!(matches!(refused, TracesError::Endpoint(_)), "{bad}: {refused}");
        assert!(refused.to_string().contains(&format!("`{bad}`")), "{refused}");
    }
    for remote in [
        "http://collector:4317",
        "http://192.0.2.1:4317",
        "http://[2001:db8::1]:4317",
        "http://0.0.0.0:1",
    ] {
        let mut config = config(remote, 1.0);
        let refused = config.check().unwrap_err();
        assert!(matches!(refused, TracesError::Remote(_)), "{remote}: {refused}");
        config.allow_remote = true;
        config.check().unwrap();
    }
    for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let refused = config("http://localhost:1", bad).check().unwrap_err();
        assert!(matches!(refused, TracesError::Ratio(_)), "{refused}");
    }
    for good in [
        "http://[::1]:4317",
        "http://127.0.0.9:4317",
        "http://localhost:4317",
        "unix:///run/otlp.sock",
    ] {
        config(good, 0.5).check().unwrap();
    }
    TracesConfig::default().check().unwrap();
}

#[tokio::test]
async fn off_nothing_is_traced_and_nothing_handed_on() {
    let (traces, sender) = Traces::prepare(&TracesConfig::default(), "x").unwrap();
    let (group, _failures) = TaskGroup::new();
    sender.run(&group);
    assert!(traces.incoming(METHOD, &traceparent("01")).is_none());
    assert!(traces.outgoing(METHOD).is_none());
    let inner = async {
        assert!(OnBehalf::current().is_nobody());
        Ok::<_, ()>(1)
    };
    assert_eq!(traces.part("a part", inner).await, Ok(1));
    group.stop();
    assert!(group.drain(std::time::Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_call_hangs_below_its_callers_and_hands_its_own_place_on() {
    let (traces, _sender) = Traces::prepare(&config("http://127.0.0.1:1", 0.0), "x").unwrap();
    for flags in ["01", "00"] {
        let call = traces.incoming(METHOD, &traceparent(flags)).unwrap();
        let onward = call
            .around(async { (traces.outgoing("/p.S/N"), OnBehalf::current()) })
            .await;
        let (Some(onward), caller) = onward else {
            panic!("no span")
        };
        let mut headers = HeaderMap::new();
        onward.inject(&mut headers);
        let value = headers[TRACEPARENT].to_str().unwrap();
        assert!(
            value.starts_with(&format!("00-{TRACE}-")) && value.ends_with(&format!("-{flags}")),
            "{value}"
        );
        assert!(!value.contains("b7ad6b7169203331"), "{value}");
        assert_eq!(headers.len(), 1, "{headers:?}");
        assert!(!caller.is_nobody());
        let elsewhere = caller.does(async { OnBehalf::current() }).await;
        assert!(!elsewhere.is_nobody());
    }
    assert!(
        OnBehalf::current().is_nobody(),
        "a call is under way only where it is polled"
    );
    // What is no traceparent begins a trace of its own, which the ratio of 0 leaves out.
    let mut headers = HeaderMap::new();
    headers.insert(TRACEPARENT, HeaderValue::from_static("00-nonsense"));
    let call = traces.incoming(METHOD, &headers).unwrap();
    assert!(!call.context.span().span_context().is_sampled());
}

#[tokio::test]
async fn spans_beyond_the_queue_are_dropped_and_counted_at_once() {
    // It accepts and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let (traces, sender) = Traces::prepare(&config(&endpoint, 1.0), "x").unwrap();
    let (group, _failures) = TaskGroup::new();
    sender.run(&group);
    let begun = tokio::time::Instant::now();
    let beyond = 3 * MAX_WAITING;
    for _ in 0..beyond {
        drop(traces.incoming(METHOD, &HeaderMap::new()));
        tokio::task::yield_now().await;
    }
    let dropped = traces.counted.of("dropped");
    let least = u64::try_from(beyond - MAX_WAITING - 1024).unwrap();
    assert!(dropped >= least, "{dropped} of {beyond}");
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    group.stop();
    assert!(group.drain(std::time::Duration::from_secs(10)).await);
    assert!(traces.counted.of("failed") > 0);
}

/// A collector that rejects one span of each request.
struct Picky(mpsc::UnboundedSender<usize>);

#[tonic::async_trait]
impl TraceService for Picky {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let spans = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        let _gone = self.0.send(spans.map(|scope| scope.spans.len()).sum());
        let partial_success = Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "one is enough".to_owned(),
        });
        Ok(tonic::Response::new(ExportTraceServiceResponse {
            partial_success,
        }))
    }
}

#[tokio::test]
async fn the_spans_of_the_last_calls_are_sent_before_the_process_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (came, mut spans) = mpsc::unbounded_channel();
    let (group, _failures) = TaskGroup::new();
    group.passing("collector", async move {
        let server = Server::builder().add_service(TraceServiceServer::new(Picky(came)));
        server
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    let (daemon, _failures) = TaskGroup::new();
    let (traces, sender) = Traces::prepare(&config(&endpoint, 1.0), "x").unwrap();
    sender.run(&daemon);
    for _ in 0..5 {
        drop(traces.incoming(METHOD, &HeaderMap::new()));
    }
    daemon.stop();
    assert!(daemon.drain(std::time::Duration::from_secs(10)).await);
    let mut sum = 0;
    while let Ok(count) = spans.try_recv() {
        sum += count;
    }
    assert_eq!(sum, 5);
    assert!(traces.counted.of("sent") + traces.counted.of("failed") == 5);
    assert!(
        traces.counted.of("failed") > 0,
        "what it rejected counts as failed"
    );
    group.stop();
}
