//! Counts the connections of a TLS listener: those that are open, and those that were refused.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why connections are refused.
pub(super) const MAX_CONNECTIONS: &str = "max_connections";
pub(super) const MAX_CONNECTIONS_PER_SOURCE: &str = "max_connections_per_source";
pub(super) const HANDSHAKE: &str = "handshake";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counts connections. Cheap to clone: all clones count together.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    open: Gauge,
    accepted: Counter,
    refused: Family<ReasonLabel, Counter>,
}

impl Default for ConnectionMetrics {
    fn default() -> Self {
        let refused = Family::default();
        for reason in [MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SOURCE, HANDSHAKE] {
            drop(refused.get_or_create_owned(&ReasonLabel { reason }));
        }
        Self {
            open: Gauge::default(),
            accepted: Counter::default(),
            refused,
        }
    }
}

impl ConnectionMetrics {
    /// Adds what is counted to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "tls_connections",
            "Open connections of the TLS listener, unfinished handshakes among them",
            self.open.clone(),
        );
        registry.register(
            "tls_connections_accepted",
            "Connections that were not closed at once",
            self.accepted.clone(),
        );
        registry.register(
            "tls_connections_refused",
            "Connections that were closed at once, by the limit that was reached, or whose handshake failed",
            self.refused.clone(),
        );
    }

    /// Connections whose handshake failed.
    #[must_use]
    pub fn failed_handshakes(&self) -> u64 {
        self.refused
            .get_or_create(&ReasonLabel { reason: HANDSHAKE })
            .get()
    }

    pub(super) fn opened(&self) {
        self.open.inc();
        self.accepted.inc();
    }

    pub(super) fn closed(&self) {
        self.open.dec();
    }

    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}
