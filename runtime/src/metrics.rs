//! Metrics for Prometheus: where they are served, and what both daemons measure alike.
//!
//! Off unless an address is configured. The listener answers `GET /metrics` and nothing else. No label has values
//! that callers choose.

pub mod calls;
mod process;
pub(crate) mod watched;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::tasks::TaskGroup;

pub use calls::CallMeter;

/// Connections at a time: scrapers are few.
const MAX_CONNECTIONS: usize = 16;
/// Time for one connection, from its first byte to its end.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// After the system refused to accept, this long until the next try.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);
const PATH: &str = "/metrics";
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where metrics are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Address and port, over plain HTTP; none, and nothing is served.
    pub address: Option<SocketAddr>,
    /// Whether the address may be one that other hosts reach.
    pub allow_remote: bool,
}

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetricsError {
    /// Other hosts could read them.
    #[error(
        "`metrics.address` `{0}` can be reached from other hosts, and metrics are served without authentication: use a \
         loopback address, or set `metrics.allow_remote`"
    )]
    Remote(SocketAddr),
    /// The address cannot be had.
    #[error(
        "cannot serve metrics on `{address}`: choose another `metrics.address`, or stop what listens there"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl MetricsConfig {
    /// Checks that only this host can read the metrics, unless the operator wants it otherwise.
    ///
    /// # Errors
    /// [`MetricsError::Remote`] names the address.
    pub fn check(&self) -> Result<(), MetricsError> {
        match self.address {
            Some(address) if !address.ip().is_loopback() && !self.allow_remote => {
                Err(MetricsError::Remote(address))
            }
            _ => Ok(()),
        }
    }
}

/// A listener that is bound and not served yet.
#[derive(Debug)]
pub struct Exporter {
    listener: TcpListener,
    address: SocketAddr,
}

impl Exporter {
    /// Binds the configured address; `None` when there is none.
    ///
    /// # Errors
    /// [`MetricsError`], when it is not loopback and need be, or cannot be had.
    pub async fn bind(config: &MetricsConfig) -> Result<Option<Self>, MetricsError> {
        config.check()?;
        let Some(address) = config.address else {
            return Ok(None);
        };
        let failed = |source| MetricsError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "metrics are served without authentication to whoever reaches this address");
        }
        Ok(Some(Self { listener, address }))
    }

    /// Where it listens; a port 0 of the config is a real one here.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves what the registry holds until the group stops.
    pub fn serve(self, registry: Registry, group: &TaskGroup) {
        tracing::info!(address = %self.address, "metrics are served");
        let registry = Arc::new(registry);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (tasks, stopping) = (group.clone(), group.stopping());
        group.essential("metrics", async move {
            loop {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                    return Ok(());
                };
                let accepted = tokio::select! {
                    () = stopping.cancelled() => return Ok::<(), Infallible>(()),
                    accepted = self.listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        let registry = Arc::clone(&registry);
                        tasks.passing("metrics connection", async move {
                            let _late =
                                tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, registry)).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(REST_AFTER_ERROR).await;
                    }
                }
            }
        });
    }
}

/// A registry with the metrics of the process itself.
pub fn registry(started_at: OffsetDateTime) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process::new(started_at)));
    registry
}

async fn answer(stream: TcpStream, registry: Arc<Registry>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&request, &registry);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a reader of metrics left early");
    }
}

fn respond(request: &Request<Incoming>, registry: &Registry) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, PATH) => encode(registry),
        (_, PATH) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new()),
        _ => (StatusCode::NOT_FOUND, "text/plain", format!("see {PATH}\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

fn encode(registry: &Registry) -> (StatusCode, &'static str, String) {
    let mut body = String::new();
    match text::encode(&mut body, registry) {
        Ok(()) => (StatusCode::OK, CONTENT_TYPE, body),
        Err(fmt::Error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", String::new()),
    }
}

/// Writes values that are read when they are asked for; what a [`Collector`] does in its `encode`.
#[derive(Debug)]
pub struct Scrape<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl<'a, 'b> Scrape<'a, 'b> {
    /// Writes to this encoder.
    pub fn new(encoder: &'a mut DescriptorEncoder<'b>) -> Self {
        Self(encoder)
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// When the encoder takes no more text.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        let encoder = self.0.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(encoder)
    }

    /// A gauge with one value for each set of labels.
    ///
    /// # Errors
    /// When the encoder takes no more text.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, f64)>,
    ) -> fmt::Result {
        let kind = ConstGauge::new(0.0).metric_type();
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// A counter without labels; its name is given without `_total`.
    ///
    /// # Errors
    /// When the encoder takes no more text.
    pub fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let encoder = self
            .0
            .encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(encoder)
    }
}

/// A [`Collector`] of one function.
pub struct Reading<F>(pub F);

impl<F> fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reading")
    }
}

impl<F: Fn(&mut Scrape<'_, '_>) -> fmt::Result + Send + Sync + 'static> Collector for Reading<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Scrape::new(&mut encoder))
    }
}

/// A point in time as Prometheus has it: seconds since 1970.
#[expect(
    clippy::cast_precision_loss,
    reason = "a double holds the seconds of 285 million years"
)]
pub fn moment(at: OffsetDateTime) -> f64 {
    at.unix_timestamp() as f64
}

/// A count as a gauge has it.
#[expect(clippy::cast_precision_loss, reason = "no count here comes near 2^53")]
pub fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
