//! What the agent measures of itself, by the names in docs/metrics.md. Parts that count hold a handle; what is a state
//! and no event is read when it is asked for.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use time::OffsetDateTime;
use tokio::time::Instant;
use tonic::{Code, Status};
use vouchsafe_runtime::metrics::calls::durations;
use vouchsafe_runtime::metrics::{self, CallMeter, Reading, Scrape, count, moment};
use vouchsafe_runtime::telemetry::traces::Traces;

use crate::admin::Pulse;
use crate::caller::CallerError;
use crate::entry::EntryId;
use crate::upstream::{Authority, IssuedJwt, UpstreamError, X509Request};
use crate::workload::Parts;

const PREFIX: &str = "vouchsafe_agent";
/// How a method is named that is none of the Workload API's.
const UNKNOWN: &str = "unknown";
/// What is served on the workload socket and on the launch socket.
const METHODS: [&str; 14] = [
    "/SpiffeWorkloadAPI/FetchX509SVID",
    "/SpiffeWorkloadAPI/FetchX509Bundles",
    "/SpiffeWorkloadAPI/FetchJWTSVID",
    "/SpiffeWorkloadAPI/FetchJWTBundles",
    "/SpiffeWorkloadAPI/ValidateJWTSVID",
    "/SpiffeWorkloadAPI/FetchWITSVID",
    "/SpiffeWorkloadAPI/FetchWITBundles",
    "/vouchsafe.workload.v1.WorkloadInfo/WhoAmI",
    "/vouchsafe.launch.v1.Launch/Launch",
    "/vouchsafe.launch.v1.Launch/Follow",
    "/vouchsafe.launch.v1.Launch/Signal",
    "/vouchsafe.launch.v1.Launch/ReadOutput",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Everything that is counted as it happens.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Calls on the workload socket.
    pub calls: CallMeter,
    /// Measurements of callers.
    pub attestations: Attestations,
    /// SVIDs that the server was asked for.
    pub svids: Svids,
    /// Runs that were asked for.
    pub launches: Launches,
}

impl Metrics {
    /// Nothing measured yet. Calls are traced too.
    pub fn new(traces: &Traces) -> Self {
        Self {
            calls: CallMeter::new(named, traces.clone()),
            attestations: Attestations {
                durations: Family::new_with_constructor(durations),
                traces: traces.clone(),
            },
            svids: Svids::default(),
            launches: Launches::default(),
        }
    }

    /// The registry that is served.
    pub fn registry(&self, parts: Parts, pulse: Pulse, started_at: OffsetDateTime) -> Registry {
        let mut whole = metrics::registry(started_at);
        let registry = whole.sub_registry_with_prefix(PREFIX);
        self.calls.register(registry);
        registry.register(
            "attestation_duration_seconds",
            "Time to measure a caller, by what came of it",
            self.attestations.durations.clone(),
        );
        registry.register(
            "svid_requests",
            "SVIDs of workloads that the server was asked for, new ones and renewals, by kind and outcome",
            self.svids.0.clone(),
        );
        registry.register(
            "launches",
            "Runs that were asked for on the launch socket, by outcome",
            self.launches.0.clone(),
        );
        let read = move |scrape: &mut Scrape<'_, '_>| read(scrape, &parts, &pulse);
        registry.register_collector(Box::new(Reading(read)));
        whole
    }
}

/// A method's own name, or that it has none.
fn named(path: &str) -> &'static str {
    let known = METHODS.into_iter().find(|known| *known == path);
    known.unwrap_or(UNKNOWN)
}

fn read(scrape: &mut Scrape<'_, '_>, parts: &Parts, pulse: &Pulse) -> fmt::Result {
    let known = parts.knowledge.get();
    scrape.gauge(
        "entries",
        "Registration entries that this agent serves",
        count(known.entries.len()),
    )?;
    let held = [
        ("x509", parts.svids.x509.held() + parts.runs.shelf().x509.held()),
        ("jwt", parts.svids.jwt.len() + parts.runs.shelf().jwt.len()),
    ];
    scrape.gauges(
        "cached_svids",
        "SVIDs that are held, by kind",
        held.map(|(kind, held)| (KindLabel { kind }, count(held))),
    )?;
    scrape.gauge("runs", "Runs that live on this node", count(parts.runs.live()))?;
    scrape.gauge(
        "revocations",
        "Ended runs, of any node, whose SVIDs are revoked",
        count(known.revoked.len()),
    )?;
    // A gauge of a time that is not known yet is left out: 0 would be a time.
    let sync = pulse.status.sync();
    let own = pulse.own.borrow().as_ref().map(|own| own.lifetime.not_after);
    for (name, help, at) in [
        (
            "earliest_svid_expiry_timestamp_seconds",
            "When the first of the X.509-SVIDs that are served expires, in seconds since 1970",
            parts
                .svids
                .x509
                .ends(parts.clock.now())
                .map(|(earliest, _)| earliest),
        ),
        (
            "own_svid_expiry_timestamp_seconds",
            "When the agent's own SVID expires, in seconds since 1970",
            own,
        ),
        (
            "last_sync_timestamp_seconds",
            "When the server was last heard, in seconds since 1970",
            sync.last_heard,
        ),
    ] {
        if let Some(at) = at {
            scrape.gauge(name, help, moment(at))?;
        }
    }
    scrape.gauge(
        "server_reachable",
        "1 when the latest try to hear the server succeeded, else 0",
        f64::from(u8::from(sync.reachable)),
    )
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SvidLabels {
    kind: &'static str,
    outcome: &'static str,
}

/// Measures attestations.
#[derive(Debug, Clone)]
pub struct Attestations {
    durations: Family<OutcomeLabel, Histogram>,
    traces: Traces,
}

impl Attestations {
    /// Waits for a measurement, and takes down how long it took and what came of it.
    ///
    /// # Errors
    /// Those of the measurement.
    pub async fn took<T>(
        &self,
        measured: impl Future<Output = Result<T, CallerError>>,
    ) -> Result<T, CallerError> {
        let begun = Instant::now();
        let done = self.traces.part("attest the caller", measured).await;
        let outcome = match &done {
            Ok(_) => "measured",
            Err(CallerError::Gone) => "gone",
            Err(CallerError::Changed) => "changed",
            Err(CallerError::Absent(_)) => "absent",
            Err(CallerError::TooManyCalls { .. }) => "too_many",
            Err(CallerError::NotServed(_)) => "not_served",
            Err(_) => "failed",
        };
        self.durations
            .get_or_create(&OutcomeLabel { outcome })
            .observe(begun.elapsed().as_secs_f64());
        done
    }
}

/// Counts SVIDs that the server was asked for.
#[derive(Debug, Clone)]
pub struct Svids(Family<SvidLabels, Counter>);

impl Default for Svids {
    fn default() -> Self {
        let svids = Self(Family::default());
        for kind in ["x509", "jwt"] {
            for outcome in ["issued", "failed"] {
                svids.add(kind, outcome, 0);
            }
        }
        svids
    }
}

impl Svids {
    fn add(&self, kind: &'static str, outcome: &'static str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.0.get_or_create(&SvidLabels { kind, outcome }).inc_by(count);
    }
}

/// Counts runs that were asked for.
#[derive(Debug, Clone)]
pub struct Launches(Family<OutcomeLabel, Counter>);

impl Default for Launches {
    fn default() -> Self {
        let launches = Self(Family::default());
        for outcome in ["started", "refused", "failed"] {
            drop(launches.0.get_or_create(&OutcomeLabel { outcome }));
        }
        launches
    }
}

impl Launches {
    /// Takes down what came of a launch.
    pub fn add(&self, launched: &Result<(), Status>) {
        let outcome = match launched.as_ref().map_err(Status::code) {
            Ok(()) => "started",
            Err(Code::Unavailable | Code::Internal | Code::Unknown | Code::DeadlineExceeded) => "failed",
            Err(_) => "refused",
        };
        self.0.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// An authority whose answers are counted.
pub struct MeteredAuthority {
    inner: Arc<dyn Authority>,
    svids: Svids,
}

impl fmt::Debug for MeteredAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeteredAuthority")
    }
}

impl MeteredAuthority {
    /// `inner`, counted.
    pub fn around(inner: Arc<dyn Authority>, svids: Svids) -> Arc<dyn Authority> {
        Arc::new(Self { inner, svids })
    }
}

#[async_trait]
impl Authority for MeteredAuthority {
    async fn issue_x509(
        &self,
        requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        let answers = self.inner.issue_x509(requests).await;
        let issued = answers.as_ref().map_or(0, |answers| {
            answers.iter().filter(|answer| answer.is_ok()).count()
        });
        self.svids.add("x509", "issued", issued);
        self.svids
            .add("x509", "failed", requests.len().saturating_sub(issued));
        answers
    }

    async fn issue_jwt(&self, entry: &EntryId, audience: &[String]) -> Result<IssuedJwt, UpstreamError> {
        let answer = self.inner.issue_jwt(entry, audience).await;
        let outcome = if answer.is_ok() { "issued" } else { "failed" };
        self.svids.add("jwt", outcome, 1);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_that_was_refused_is_told_from_one_that_failed() {
        let launches = Launches::default();
        let counted = || {
            ["started", "refused", "failed"]
                .map(|outcome| launches.0.get_or_create(&OutcomeLabel { outcome }).get())
        };
        assert_eq!(counted(), [0, 0, 0]);
        launches.add(&Ok(()));
        launches.add(&Err(Status::permission_denied("")));
        launches.add(&Err(Status::failed_precondition("")));
        launches.add(&Err(Status::unavailable("the server is away")));
        assert_eq!(counted(), [1, 2, 1]);
    }
}
