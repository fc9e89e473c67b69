//! What the server measures of itself, by the names in docs/metrics.md. Parts that count hold a handle; what is a
//! state and no event is read when it is asked for.

mod store;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use vouchsafe_ca::CaManager;
use vouchsafe_identity::SpiffeId;
use vouchsafe_runtime::metrics::calls::durations;
use vouchsafe_runtime::metrics::{self, CallMeter, Reading, Scrape, count, moment};
use vouchsafe_runtime::telemetry::traces::Traces;
use vouchsafe_runtime::tls::ConnectionMetrics;
use vouchsafe_store::AuditSink;

use crate::authorize::rule;
use crate::index::Index;
use crate::layers::places::Places;
use crate::usecases::nodes::is_agent_id;

pub use store::MeteredStore;

const PREFIX: &str = "vouchsafe_server";
/// How a method is named that stands in no table.
const UNKNOWN: &str = "unknown";

/// Everything that is counted as it happens.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Calls.
    pub calls: CallMeter,
    /// Connections of the TLS listener.
    pub connections: ConnectionMetrics,
    /// Calls over a limit.
    pub refused: Refused,
    /// SVIDs.
    pub issued: Issued,
    /// Writes.
    pub commits: Commits,
}

impl Metrics {
    /// Nothing measured yet. Calls are traced too.
    pub fn new(traces: Traces) -> Self {
        Self {
            calls: CallMeter::new(|path| rule(path).map_or(UNKNOWN, |(name, _)| name), traces),
            connections: ConnectionMetrics::default(),
            refused: Refused::default(),
            issued: Issued::default(),
            commits: Commits::default(),
        }
    }

    /// The registry that is served.
    pub fn registry(&self, state: State, started_at: OffsetDateTime) -> Registry {
        let mut whole = metrics::registry(started_at);
        let registry = whole.sub_registry_with_prefix(PREFIX);
        self.calls.register(registry);
        self.connections.register(registry);
        registry.register(
            "refused_calls",
            "Calls refused because a limit was reached, by the limit's key in the configuration",
            self.refused.0.clone(),
        );
        registry.register(
            "svids_issued",
            "SVIDs signed: x509 and jwt for workloads, agent for agents themselves",
            self.issued.0.clone(),
        );
        registry.register(
            "store_commit_duration_seconds",
            "Time until a write was durable, or was refused",
            self.commits.0.clone(),
        );
        let read = move |scrape: &mut Scrape<'_, '_>| state.read(scrape);
        registry.register_collector(Box::new(Reading(read)));
        whole
    }
}

/// What is read when it is asked for.
#[derive(Debug)]
pub struct State {
    /// Entries and nodes.
    pub index: Arc<Index>,
    /// Authorities.
    pub ca: Arc<CaManager>,
    /// The queue before the audit log.
    pub audit: AuditSink,
    /// Callers with calls under way.
    pub callers: Places<SpiffeId>,
}

impl State {
    fn read(&self, scrape: &mut Scrape<'_, '_>) -> fmt::Result {
        let (entries, nodes) = self.index.sizes();
        scrape.gauge("entries", "Registration entries in the index", count(entries))?;
        scrape.gauge("nodes", "Nodes in the index, banned ones too", count(nodes))?;
        scrape.gauge(
            "index_revision",
            "Revision of the store that the index shows",
            revision(self.index.applied().0),
        )?;
        let (runs, revocations) = self.index.run_counts();
        scrape.gauge("runs", "Runs that live, on all nodes", count(runs))?;
        scrape.gauge(
            "revocations",
            "Ended runs whose SVIDs are revoked",
            count(revocations),
        )?;
        let agents = self.callers.held_by(is_agent_id);
        scrape.gauge(
            "connected_agents",
            "Agents with a call or a stream under way",
            count(agents),
        )?;
        scrape.gauge(
            "audit_waiting_records",
            "Audit records that wait for the disk",
            count(self.audit.waiting()),
        )?;
        let bundle = self.ca.bundle();
        let x509 = bundle.x509_authorities.iter().filter_map(|one| one.expires_at());
        let jwt = bundle.jwt_authorities.iter().filter_map(|one| one.expires_at);
        let last = [
            (KindLabel { kind: "x509" }, x509.max()),
            (KindLabel { kind: "jwt" }, jwt.max()),
        ];
        scrape.gauges(
            "authority_expiry_timestamp_seconds",
            "When the newest published authority of a kind expires, in seconds since 1970",
            last.into_iter()
                .filter_map(|(kind, at)| Some((kind, moment(at?)))),
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "no store comes near 2^53 revisions")]
fn revision(revision: u64) -> f64 {
    revision as f64
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Counts calls over a limit.
#[derive(Debug, Clone, Default)]
pub struct Refused(Family<LimitLabel, Counter>);

impl Refused {
    /// Counts for a limit from now on; without a refusal, it is shown as 0.
    pub fn watch(&self, limit: &'static str) -> Counter {
        self.0.get_or_create_owned(&LimitLabel { limit })
    }
}

/// Which kind of SVID was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SvidKind {
    /// An X.509-SVID of a workload.
    X509,
    /// A JWT-SVID.
    Jwt,
    /// An agent's own.
    Agent,
}

impl SvidKind {
    const ALL: [Self; 3] = [Self::X509, Self::Jwt, Self::Agent];

    const fn name(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::Jwt => "jwt",
            Self::Agent => "agent",
        }
    }
}

/// Counts SVIDs.
#[derive(Debug, Clone)]
pub struct Issued(Family<KindLabel, Counter>);

impl Default for Issued {
    fn default() -> Self {
        let issued = Self(Family::default());
        for kind in SvidKind::ALL {
            issued.add(kind, 0);
        }
        issued
    }
}

impl Issued {
    /// So many more of a kind.
    pub fn add(&self, kind: SvidKind, count: u64) {
        self.0
            .get_or_create(&KindLabel { kind: kind.name() })
            .inc_by(count);
    }
}

/// Measures writes.
#[derive(Debug, Clone)]
pub struct Commits(Family<OutcomeLabel, Histogram>);

impl Default for Commits {
    fn default() -> Self {
        Self(Family::new_with_constructor(durations))
    }
}

impl Commits {
    fn took(&self, outcome: &'static str, time: Duration) {
        self.0
            .get_or_create(&OutcomeLabel { outcome })
            .observe(time.as_secs_f64());
    }
}
