//! Nothing but metrics is served, to nobody but this host; calls count by their trailers.

use std::net::Ipv4Addr;

use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::body::Body;
use tower::{Layer, ServiceExt};

use super::*;
use crate::telemetry::traces::Traces;

const METHOD: &str = "/p.S/M";

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn exporter(group: &TaskGroup) -> SocketAddr {
    let config = MetricsConfig {
        address: Some((Ipv4Addr::LOCALHOST, 0).into()),
        allow_remote: false,
    };
    let exporter = Exporter::bind(&config).await.unwrap().unwrap();
    let address = exporter.address();
    exporter.serve(registry(OffsetDateTime::UNIX_EPOCH), group);
    address
}

#[tokio::test]
async fn nothing_but_metrics_is_served() {
    let (group, _failures) = TaskGroup::new();
    let address = exporter(&group).await;
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("process_resident_memory_bytes "), "{answer}");
    assert!(answer.contains("process_cpu_seconds_total "), "{answer}");
    assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
            "405",
        ),
    ] {
        let answer = ask(address, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    group.stop();
    assert!(group.drain(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn an_address_that_others_reach_must_be_wanted() {
    let mut config = MetricsConfig {
        address: Some(([0, 0, 0, 0], 0).into()),
        allow_remote: false,
    };
    let refused = Exporter::bind(&config).await.unwrap_err().to_string();
    assert!(refused.contains("allow_remote"), "{refused}");
    config.allow_remote = true;
    assert!(Exporter::bind(&config).await.unwrap().is_some());
    assert!(Exporter::bind(&MetricsConfig::default()).await.unwrap().is_none());
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let (group, _failures) = TaskGroup::new();
    let address = exporter(&group).await;
    let config = MetricsConfig {
        address: Some(address),
        allow_remote: false,
    };
    let refused = Exporter::bind(&config).await.unwrap_err().to_string();
    assert!(refused.contains(&address.to_string()), "{refused}");
    group.stop();
}

fn shown(meter: &CallMeter) -> String {
    let mut registry = Registry::default();
    meter.register(&mut registry);
    let mut text = String::new();
    text::encode(&mut text, &registry).unwrap();
    text
}

async fn call(meter: &CallMeter, path: &str, body: Body) -> http::Response<Body> {
    let body = std::sync::Mutex::new(Some(body));
    let inner = tower::service_fn(move |_: http::Request<()>| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(http::Response::new(body)) }
    });
    let request = http::Request::builder().uri(path).body(()).unwrap();
    meter.layer(inner).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn a_call_counts_when_its_trailers_have_gone_out_and_as_cancelled_when_its_caller_left() {
    let name = |path: &str| if path == METHOD { METHOD } else { "unknown" };
    let meter = CallMeter::new(name, Traces::default());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("5"));
    let body = Body::new(
        Full::new(Bytes::from_static(b"x"))
            .with_trailers(async move { Some(Ok(trailers)) })
            .map_err(|never| match never {}),
    );
    let response = call(&meter, METHOD, body).await;
    assert_eq!(meter.under_way(METHOD), 1);
    response.into_body().collect().await.unwrap();
    assert_eq!(meter.under_way(METHOD), 0);
    drop(call(&meter, "/any/thing", Body::empty()).await);
    let text = shown(&meter);
    for line in [
        "call_duration_seconds_count{method=\"/p.S/M\",code=\"NOT_FOUND\"} 1",
        "call_duration_seconds_count{method=\"unknown\",code=\"CANCELLED\"} 1",
    ] {
        assert!(text.contains(line), "{text}");
    }
    assert!(!text.contains("any"), "callers choose no label: {text}");
}
