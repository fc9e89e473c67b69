//! The way of spans to the collector: a bounded queue that no call ever waits for, and one task that empties it.
//!
//! A collector that is away, slow or refuses costs spans and nothing else; each is counted.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use crate::tasks::TaskGroup;

/// Most spans that wait; further ones are dropped.
pub(super) const MAX_WAITING: usize = 4096;
/// Most spans in one request.
const MAX_BATCH: usize = 512;
/// How long a request waits for more spans than the first.
const GATHER: Duration = Duration::from_secs(1);
/// Longest time for one request.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);
/// When the process ends: how long the last calls may take to end, and the last request to be sent.
const LAST_CALLS: Duration = Duration::from_millis(200);
const LAST_SEND: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Counts spans by what became of them.
#[derive(Debug, Clone)]
pub(super) struct Counted(Family<OutcomeLabel, Counter>);

const SENT: &str = "sent";
const FAILED: &str = "failed";
const DROPPED: &str = "dropped";

impl Default for Counted {
    fn default() -> Self {
        let counted = Self(Family::default());
        for outcome in [SENT, FAILED, DROPPED] {
            counted.add(outcome, 0);
        }
        counted
    }
}

impl Counted {
    fn add(&self, outcome: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "trace_spans",
            "Spans that the collector took (sent), that it did not take (failed), for which the queue had no room (dropped)",
            self.0.clone(),
        );
    }

    #[cfg(test)]
    pub(super) fn of(&self, outcome: &'static str) -> u64 {
        self.0
            .get(&OutcomeLabel { outcome })
            .map_or(0, |counter| counter.get())
    }
}

/// Where spans are put when they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counted: Counted,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counted.add(DROPPED, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends spans once it runs; of traces that are off, nothing.
#[derive(Debug, Default)]
pub struct TraceSender(Option<Sending>);

#[derive(Debug)]
struct Sending {
    spans: mpsc::Receiver<SpanData>,
    client: TraceServiceClient<Channel>,
    resource: ResourceAttributesWithSchema,
    counted: Counted,
    endpoint: String,
    /// Whether the latest request failed.
    failing: bool,
}

/// A queue, and what empties it. It connects when there is something to send.
pub(super) fn queue(endpoint: Endpoint, resource: &Resource, counted: &Counted) -> (Queue, TraceSender) {
    let (put, spans) = mpsc::channel(MAX_WAITING);
    let queue = Queue {
        spans: put,
        counted: counted.clone(),
    };
    let sending = Sending {
        spans,
        endpoint: endpoint.uri().to_string(),
        client: TraceServiceClient::new(endpoint.connect_lazy()),
        resource: resource.into(),
        counted: counted.clone(),
        failing: false,
    };
    (queue, TraceSender(Some(sending)))
}

impl TraceSender {
    /// Sends until the group stops, and then what is left.
    pub fn run(self, group: &TaskGroup) {
        let Some(mut sending) = self.0 else { return };
        tracing::info!(address = sending.endpoint, "calls are traced");
        let stopping = group.stopping();
        group.essential("traces", async move {
            let mut batch = Vec::new();
            loop {
                let stopped = tokio::select! {
                    // First, or a full queue before a silent collector could be chosen again and again.
                    biased;
                    () = stopping.cancelled() => true,
                    () = sending.gather(&mut batch) => false,
                };
                if stopped {
                    tokio::time::sleep(LAST_CALLS).await;
                    while let (true, Ok(span)) = (batch.len() < MAX_WAITING, sending.spans.try_recv()) {
                        batch.push(span);
                    }
                    sending.send(&mut batch, LAST_SEND).await;
                    return Ok::<(), std::convert::Infallible>(());
                }
                sending.send(&mut batch, SEND_TIMEOUT).await;
            }
        });
    }
}

impl Sending {
    /// Waits for spans, and a little for more of them.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        if self.spans.recv_many(batch, MAX_BATCH).await == 0 {
            // Nobody makes spans any more.
            std::future::pending::<()>().await;
        }
        let more = async {
            while batch.len() < MAX_BATCH {
                let room = MAX_BATCH - batch.len();
                if self.spans.recv_many(batch, room).await == 0 {
                    return;
                }
            }
        };
        let _time_is_over = timeout(GATHER, more).await;
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>, within: Duration) {
        let count = batch.len();
        if count == 0 {
            return;
        }
        let resource_spans = group_spans_by_resource_and_scope(std::mem::take(batch), &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let rejected = match timeout(within, self.client.export(request)).await {
            Ok(Ok(answer)) => {
                let partly = answer.into_inner().partial_success;
                let rejected = partly.map_or(0, |partly| partly.rejected_spans);
                Ok(usize::try_from(rejected).unwrap_or(0).min(count))
            }
            Ok(Err(status)) => Err(status.to_string()),
            Err(_elapsed) => Err(format!("no answer within {} s", within.as_secs())),
        };
        let failed = *rejected.as_ref().unwrap_or(&count);
        self.counted.add(SENT, count - failed);
        self.counted.add(FAILED, failed);
        match rejected {
            Ok(_) if self.failing => {
                tracing::info!(
                    address = self.endpoint,
                    "the collector of traces takes spans again"
                );
            }
            Err(error) if !self.failing => tracing::warn!(
                address = self.endpoint,
                error,
                "the collector of traces takes no spans: they are dropped and counted until it does"
            ),
            _ => {}
        }
        self.failing = failed == count;
    }
}
