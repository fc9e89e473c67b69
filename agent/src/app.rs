//! The whole agent, put together: the one place where implementations are chosen.

mod launch;
mod listeners;
mod restore;
mod serve;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use vouchsafe_attestors::{NodeProver, WorkloadAttestor};
use vouchsafe_node_attestors::join_token::{Prover, Token};
use vouchsafe_runtime::handed::HandedError;
use vouchsafe_runtime::keys::DiskKeys;
use vouchsafe_runtime::metrics::MetricsError;
use vouchsafe_runtime::notify::Notifier;
use vouchsafe_runtime::telemetry::LogLevel;
use vouchsafe_runtime::telemetry::traces::{TraceSender, Traces};
use vouchsafe_runtime::tls::{self, BundleHandle, ChannelTimes, PeerRule, SvidHandle, TlsError};
use vouchsafe_runtime::uds::BindError;
use vouchsafe_runtime::{
    Clock, ExitCode, Handed, KeyError, Readiness, ReadyGuard, TaskFailed, TaskFailures, TaskGroup,
};
use vouchsafe_workload_attestors::{
    AgentNamespaces, MAX_READ_TIME, Measurer, ProcessAttestor, ProcessConfig, Reads, SUBORDINATE_UIDS,
    UnixAttestor, UnixConfig,
};

use crate::admin::{Admin, Pulse};
use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::cache::slots::Lane;
use crate::cache::{JwtCache, Shelf, X509Cache, distrust, issuer};
use crate::caller::{CallPlaces, ExecWatch, Gate, PresenceRule};
use crate::config::{BadConfig, Config, TokenFileError, read_token};
use crate::knowledge::KnowledgeBase;
use crate::metrics::{MeteredAuthority, Metrics};
use crate::node::attest::SERVER_PATH;
use crate::node::state::{StateDir, StateError};
use crate::node::{Node, NodeError, OwnSvid};
use crate::runs::Runs;
use crate::runs::admission::RunAuthority;
use crate::sealed::{Keeper, Seal, SealKeyError};
use crate::status::Status;
use crate::sync::polling::Polling;
use crate::sync::source::Source;
use crate::upstream::{Authority, Upstream};
use crate::workload::Parts;
use crate::workload::hold::Holding;
use restore::Held;

/// Every user may open the workload socket: who connects is measured.
const WORKLOAD_MODE: u32 = 0o666;
/// The admin socket is the operator's.
const ADMIN_MODE: u32 = 0o600;
/// The variable by which systemd names the folder of a service's credentials.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// How long open calls may take to end when the agent stops.
const DRAIN: Duration = Duration::from_secs(10);

/// What the agent has from its host; tests replace it.
#[derive(Debug, Clone)]
pub struct Host {
    /// Tells the time.
    pub clock: Clock,
    /// The log's level.
    pub log: LogLevel,
    /// Hears that the agent is up.
    pub notifier: Notifier,
    /// Folder of the credentials that the service manager hands over, if it does.
    pub credentials: Option<PathBuf>,
    /// Listening sockets that a service manager handed over.
    pub handed: Handed,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            log: LogLevel::default(),
            notifier: Notifier::from_environment(),
            credentials: vouchsafe_runtime::config::environment(CREDENTIALS_DIRECTORY).map(PathBuf::from),
            handed: Handed::default(),
        }
    }
}

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The Workload API.
    pub workload_socket: PathBuf,
    /// For the operator.
    pub admin_socket: PathBuf,
    /// Where runs are launched, if they are.
    pub launch_socket: Option<PathBuf>,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
}

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The configuration does not go together.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The token file gives no token.
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    /// The bundle file cannot be used.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// What the service manager handed over cannot be used.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// Metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The folder of the agent's state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key manager failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no key to seal the state with.
    #[error(transparent)]
    SealKey(#[from] SealKeyError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The agent's own namespaces cannot be read.
    #[error("cannot read the agent's own namespaces under /proc")]
    Namespaces(#[source] std::io::Error),
    /// Reflection or another part of the API could not be set up.
    #[error("cannot set up the API: {0}")]
    Api(String),
    /// Runs cannot be launched as configured.
    #[error("runs cannot be launched: {0}")]
    Launch(String),
    /// The agent's identity ended.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// A part ended that had to go on.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

impl AppError {
    /// With what the process ends, so that a supervisor can tell what to do.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_)
            | Self::Handed(_)
            | Self::Bootstrap(_)
            | Self::TokenFile(_)
            | Self::SealKey(SealKeyError::NoCredentials(_)) => ExitCode::Config,
            Self::Bind(_)
            | Self::Metrics(_)
            | Self::State(_)
            | Self::Key(_)
            | Self::SealKey(_)
            | Self::Launch(_)
            | Self::Namespaces(_) => ExitCode::Io,
            Self::Tls(_) | Self::Api(_) | Self::Task(_) => ExitCode::Software,
            Self::Node(error) => match error {
                NodeError::NothingToJoinWith => ExitCode::Config,
                NodeError::Expelled(_) | NodeError::NotAdmitted(_) | NodeError::Expired(_) => {
                    ExitCode::NoPermission
                }
                NodeError::State(_)
                | NodeError::Key(_)
                | NodeError::KeyMissing(_)
                | NodeError::KeyUnusable(_) => ExitCode::Io,
                NodeError::Tls(_) | NodeError::Request(_) => ExitCode::Software,
            },
        }
    }
}

/// The agent, built and listening.
#[derive(Debug)]
pub struct App {
    addresses: Addresses,
    config: Config,
    host: Host,
    bound: listeners::Bound,
    metrics: Metrics,
    trace_sender: TraceSender,
    node: Node,
    parts: Parts,
    upstream: Upstream,
    own: watch::Receiver<Option<Arc<OwnSvid>>>,
    keeper: Option<Keeper>,
    launch: Option<launch::Launch>,
    execs: ExecWatch,
    group: TaskGroup,
    failures: TaskFailures,
}

impl App {
    /// Binds every listener, takes hold of the state and puts the parts together. Nothing is served before
    /// [`App::run`]. `token` counts more than the one of the configuration.
    ///
    /// # Errors
    /// [`AppError`] names what is in the way.
    pub async fn build(mut config: Config, host: Host, token: Option<Token>) -> Result<Self, AppError> {
        config.check()?;
        let bootstrap = Bootstrap::of(&config)?;
        let state = StateDir::open(&config.data_dir)?;
        let prover = prover(&mut config, token, &state)?;
        let bound = listeners::bind(&config, &host).await?;
        let addresses = bound.addresses();
        let (traces, trace_sender) =
            Traces::prepare(&config.traces, "vouchsafe-agent").map_err(BadConfig::from)?;
        let metrics = Metrics::new(&traces);

        let (svid, bundles) = (SvidHandle::new(), BundleHandle::new());
        let upstream = upstream(&config, &host.clock, &svid, &bundles)?.traced(traces);
        let knowledge = KnowledgeBase::new(config.trust_domain.clone(), None);
        let x509 = X509Cache::new(config.cache.x509_svids);
        let status = Arc::new(Status::new(host.clock.clone()));
        let runs = runs(&config, &metrics, &upstream);
        let (own, own_seen) = watch::channel(None);
        let held = Held::of(&knowledge, &x509, &runs, &status);
        let (seal, of_runs) = held.restore(&config, &host, &state)?;
        let keeper = seal
            .clone()
            .map(|seal| held.keeper(seal, own_seen.clone(), &host.clock));
        let node = Node {
            trust_domain: config.trust_domain.clone(),
            address: config.server_address.clone(),
            bootstrap,
            prover,
            keys: keys(&state, seal.as_ref())?,
            state,
            svid,
            bundles,
            upstream: upstream.clone(),
            knowledge: knowledge.clone(),
            x509: x509.clone(),
            seal,
            clock: host.clock.clone(),
            own,
        };
        node.check()?;
        let (group, failures) = TaskGroup::new();
        let parts = Parts {
            gate: Arc::new(gate(&config, runs.clone())?),
            attestations: metrics.attestations.clone(),
            knowledge,
            svids: shelf(&config, &metrics, x509, Arc::new(upstream.clone())),
            runs,
            holding: Holding::new(config.hold_unmatched.get(), config.limits.max_held_calls_per_uid),
            status,
            clock: host.clock.clone(),
            stopping: group.stopping(),
        };
        let with = launch::With {
            upstream: &upstream,
            own: &own_seen,
            of_runs,
        };
        let launch = launch::assemble(&config, &host, &parts, with, &group).await?;
        let execs = tokio::task::spawn_blocking(ExecWatch::start)
            .await
            .map_err(|e| AppError::Api(e.to_string()))?;
        Ok(Self {
            addresses,
            config,
            host,
            bound,
            metrics,
            trace_sender,
            node,
            parts,
            upstream,
            own: own_seen,
            keeper,
            launch,
            execs,
            group,
            failures,
        })
    }

    /// Where the agent listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `signal` resolves (to the reason) or a part fails.
    ///
    /// # Errors
    /// [`AppError`], why the agent could not go on.
    pub async fn run(self, signal: impl Future<Output = &'static str>) -> Result<(), AppError> {
        let Addresses {
            workload_socket,
            admin_socket,
            ..
        } = &self.addresses;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            trust_domain = %self.config.trust_domain,
            server = %self.config.server_address,
            workload_socket = %workload_socket.display(),
            admin_socket = %admin_socket.display(),
            "agent is starting"
        );
        let ended: Arc<OnceLock<NodeError>> = Arc::default();
        let (group, failures, notifier) = self.start(&ended)?;
        let outcome = vouchsafe_runtime::run::run(group, failures, signal, DRAIN).await;
        notifier.stopping();
        match (Arc::into_inner(ended).and_then(OnceLock::into_inner), outcome) {
            (Some(error), _) => Err(error.into()),
            (None, outcome) => Ok(outcome?),
        }
    }

    /// Starts every task. What ends the agent's identity is left in `ended`.
    fn start(
        self,
        ended: &Arc<OnceLock<NodeError>>,
    ) -> Result<(TaskGroup, TaskFailures, Notifier), AppError> {
        let (group, readiness) = (self.group, Readiness::new());
        // What was sealed is served before the agent has reached its server.
        let first = |name| (!self.parts.knowledge.get().complete).then(|| readiness.guard(name));
        let (joined, synced) = (first("identity"), first("entries"));
        let execs = self.execs;
        let pulse = Pulse {
            status: Arc::clone(&self.parts.status),
            own: self.own.clone(),
            execs: execs.clone(),
            gate: Arc::clone(&self.parts.gate),
        };
        let admin = Admin {
            parts: self.parts.clone(),
            pulse,
            log: self.host.log.clone(),
        };
        if let Some(exporter) = self.bound.exporter {
            let (parts, pulse) = (self.parts.clone(), admin.pulse.clone());
            exporter.serve(self.metrics.registry(parts, pulse, self.host.clock.now()), &group);
        }
        self.trace_sender.run(&group);
        let limits = &self.config.limits;
        let measured = (self.parts.clone(), self.metrics.calls.clone());
        serve::workload(self.bound.workload, measured, execs.clone(), limits, &group)?;
        serve::admin(self.bound.admin, admin, limits, &group)?;
        if let (Some(listener), Some(launch)) = (self.bound.launch, self.launch) {
            let measured = (self.parts.clone(), &self.metrics);
            launch.start(listener, measured, execs.clone(), limits, &group)?;
        }

        identify(self.node, joined, Arc::clone(ended), &group);
        for (name, shelf) in [
            ("distrust", &self.parts.svids),
            ("distrust of runs", self.parts.runs.shelf()),
        ] {
            let (knowledge, own) = (self.parts.knowledge.clone(), self.own.clone());
            let (x509, jwt) = (shelf.x509.clone(), Arc::clone(&shelf.jwt));
            let clock = self.host.clock.clone();
            endless(&group, name, distrust::watch(knowledge, x509, jwt, own, clock));
        }
        let interval = self.config.sync_interval.get();
        let polling = Polling::new(self.upstream.clone(), interval, self.host.clock.clone());
        let source = Source::new(self.upstream, polling);
        let (mut own, parts, clock) = (self.own, self.parts.clone(), self.host.clock.clone());
        endless(&group, "sync", async move {
            let valid = |own: &Option<Arc<OwnSvid>>| {
                own.as_ref().is_some_and(|own| !own.lifetime.is_over(clock.now()))
            };
            if own.wait_for(valid).await.is_ok() {
                crate::sync::follow(Box::new(source), parts.knowledge, parts.status, clock, synced).await;
            }
        });
        if let Some(keeper) = self.keeper {
            let stopping = group.stopping();
            group.essential("seal", async move {
                keeper.run(stopping).await;
                Ok::<(), std::convert::Infallible>(())
            });
        }
        endless(&group, "svid cache", serve::follow(self.parts.clone()));
        issue(&self.parts, &self.host.clock, &group);
        let status = self.parts.status;
        endless(&group, "exec watch", execs.run());
        let notifier = self.host.notifier.clone();
        notifier.watchdog(&group);
        endless(&group, "readiness", async move {
            readiness.ready().await;
            tracing::info!("agent is ready");
            notifier.ready();
            restore::tell(&notifier, &status).await;
        });
        Ok((group, self.failures, self.host.notifier))
    }
}

/// Keeps the agent's identity. What ends it is left in `ended`.
fn identify(node: Node, joined: Option<ReadyGuard>, ended: Arc<OnceLock<NodeError>>, group: &TaskGroup) {
    let stopping = group.stopping();
    group.essential("identity", async move {
        let outcome = tokio::select! {
            () = stopping.cancelled() => Ok(()),
            outcome = node.run(joined) => outcome,
        };
        outcome.map_err(|error| {
            let text = error.to_string();
            let _already = ended.set(error);
            text
        })
    });
}

/// Has the SVIDs issued that are asked for, and ahead of them those that will be.
fn issue(parts: &Parts, clock: &Clock, group: &TaskGroup) {
    let (entries, runs) = (&parts.svids, parts.runs.shelf());
    for (name, lane, shelf) in [
        ("urgent x509 issuer", Lane::Urgent, entries),
        ("x509 issuer", Lane::Ahead, entries),
        ("urgent x509 issuer of runs", Lane::Urgent, runs),
        ("x509 issuer of runs", Lane::Ahead, runs),
    ] {
        let (x509, authority) = (shelf.x509.clone(), Arc::clone(&shelf.authority));
        endless(group, name, issuer::issue(x509, lane, authority, clock.clone()));
    }
}

/// Spawns a task that ends only when the group stops.
fn endless(group: &TaskGroup, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let stopping = group.stopping();
    group.essential(name, async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = task => {}
        }
        Ok::<(), std::convert::Infallible>(())
    });
}

fn prover(
    config: &mut Config,
    token: Option<Token>,
    state: &StateDir,
) -> Result<Option<Arc<dyn NodeProver>>, AppError> {
    let configured = config.join_token.take().map(|token| token.0);
    let token = match (token.or(configured), &config.join_token_file) {
        (Some(token), _) => Some(token),
        (None, Some(path)) => match read_token(path) {
            Ok(token) => Some(token),
            // The token in it was used at the first start: it may be gone, or hold anything.
            Err(_) if state.load_svid()?.is_some() => None,
            Err(error) => return Err(error.into()),
        },
        (None, None) => None,
    };
    Ok(token.map(|token| Arc::new(Prover::new(token)) as Arc<dyn NodeProver>))
}

fn upstream(
    config: &Config,
    clock: &Clock,
    svid: &SvidHandle,
    bundles: &BundleHandle,
) -> Result<Upstream, AppError> {
    let server = config
        .trust_domain
        .with_path(SERVER_PATH)
        .map_err(|e| AppError::Api(e.to_string()))?;
    let tls = tls::client_config(Some(svid), bundles, clock, PeerRule::Exact(server))?;
    let address = config.server_address.clone();
    Ok(Upstream::new(move || {
        tls::channel(&address, Arc::clone(&tls), ChannelTimes::default())
    }))
}

fn shelf(config: &Config, metrics: &Metrics, x509: X509Cache, authority: Arc<dyn Authority>) -> Shelf {
    Shelf {
        x509,
        jwt: Arc::new(JwtCache::new(config.cache.jwt_svids)),
        authority: MeteredAuthority::around(authority, metrics.svids.clone()),
    }
}

/// The keys of the agent's own SVID.
fn keys(state: &StateDir, seal: Option<&Seal>) -> Result<Arc<DiskKeys>, KeyError> {
    let keys = DiskKeys::open_sealed(&state.keys_folder(), seal.map(Seal::keys));
    Ok(Arc::new(keys?))
}

/// No runs yet.
fn runs(config: &Config, metrics: &Metrics, upstream: &Upstream) -> Runs {
    let authority = Arc::new(RunAuthority(upstream.clone()));
    let x509 = X509Cache::new(config.cache.x509_svids);
    Runs::new(shelf(config, metrics, x509, authority))
}

fn gate(config: &Config, runs: Runs) -> Result<Gate, AppError> {
    let reads = Reads::new(MAX_READ_TIME, config.limits.max_attestations_per_uid);
    let reads = Arc::new(reads.with_subordinate_uids(Path::new(SUBORDINATE_UIDS)));
    let hash_limit_bytes = config.attest.hash_limit.get();
    let attestors: Vec<Arc<dyn WorkloadAttestor>> = vec![
        Arc::new(UnixAttestor::new(
            UnixConfig { hash_limit_bytes },
            Arc::clone(&reads),
        )),
        Arc::new(ProcessAttestor::new(
            ProcessConfig {
                hash_limit_bytes,
                ..ProcessConfig::default()
            },
            Arc::clone(&reads),
        )),
    ];
    let namespaces = AgentNamespaces::of_self().map_err(AppError::Namespaces)?;
    let presence = PresenceRule::new(
        config.attest.presence_timeout.get(),
        config.attest.presence_exempt_uids.clone(),
    );
    let places = CallPlaces::new(config.limits.max_streams_per_uid);
    let measurer = Measurer::new(attestors, reads);
    Ok(Gate::new(measurer, namespaces, presence, places, runs))
}
