//! Puts the server together: the one place where implementations are chosen.
//!
//! [`App::build`] binds every listener before it does anything else, and returns when the server serves.

mod error;
mod identity;
mod listeners;
mod upkeep;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vouchsafe_attestors::NodeVerifier;
use vouchsafe_ca::{CaConfig, CaManager};
use vouchsafe_node_attestors::join_token;
use vouchsafe_runtime::keys::{DiskKeys, MemoryKeys};
use vouchsafe_runtime::notify::Notifier;
use vouchsafe_runtime::telemetry::LogLevel;
use vouchsafe_runtime::telemetry::traces::Traces;
use vouchsafe_runtime::{Clock, Handed, KeyManager, TaskFailed, TaskFailures, TaskGroup, run};
use vouchsafe_store::sled::{SledConfig, SledStore};
use vouchsafe_store::{AuditSink, AuditWriter, MemoryStore, SharedStore};

use crate::api::{self, Parts};
use crate::authorize::Authorizer;
use crate::config::{BadConfig, Config, KeyManagerKind, StoreKind};
use crate::index::Index;
use crate::layers::Layers;
use crate::layers::anonymous::AnonymousCalls;
use crate::layers::places::Places;
use crate::layers::rates::Rates;
use crate::metrics::{Issued, MeteredStore, Metrics, State};
use crate::usecases::classes::Classes;
use crate::usecases::issuing::Issuing;
use crate::usecases::nodes::Nodes;
use crate::usecases::registry::Registry;
use crate::usecases::runs::{Leases, Runs, Times};
use crate::usecases::tokens::Tokens;

pub use error::AppError;
pub(crate) use error::make_data_dir;

/// How long calls that are under way may take after the server is told to stop (SPIRE's number).
const DRAIN: Duration = Duration::from_secs(10);
/// How long a call waits for a place in the audit log.
const AUDIT_WAIT: Duration = Duration::from_secs(2);

/// What the server gets from its surroundings; the only thing that tests replace.
#[derive(Debug, Clone)]
pub struct Host {
    /// The time.
    pub clock: Clock,
    /// The log's level.
    pub log: LogLevel,
    /// Hears that the server is up.
    pub notifier: Notifier,
    /// Listening sockets that a service manager handed over.
    pub handed: Handed,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            log: LogLevel::default(),
            notifier: Notifier::new(None),
            handed: Handed::default(),
        }
    }
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// The TLS listener.
    pub listen: SocketAddr,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Where metrics are served, if they are.
    pub metrics: Option<SocketAddr>,
}

/// A server that serves.
#[derive(Debug)]
pub struct App {
    addresses: Addresses,
    notifier: Notifier,
    group: TaskGroup,
    failures: TaskFailures,
}

impl App {
    /// Builds and starts a server.
    ///
    /// # Errors
    /// [`AppError`] names what cannot be had: an address, the store, a key. Nothing goes on running then.
    pub async fn build(config: Config, host: Host) -> Result<Self, AppError> {
        config.check()?;
        let bound = listeners::bind(&config, &host.handed).await?;
        let (group, failures) = TaskGroup::new();
        let addresses = bound.addresses()?;
        if let Err(error) = start(&config, &host, &group, bound).await {
            group.stop();
            group.drain(DRAIN).await;
            return Err(error);
        }
        tracing::info!(
            trust_domain = %config.trust_domain,
            listen = %addresses.listen,
            admin_socket = %addresses.admin_socket.display(),
            version = env!("CARGO_PKG_VERSION"),
            "the server serves"
        );
        host.notifier.watchdog(&group);
        host.notifier.ready();
        host.notifier
            .status(&format!("serves trust domain {}", config.trust_domain));
        Ok(Self {
            addresses,
            notifier: host.notifier,
            group,
            failures,
        })
    }

    /// Where it listens; a port 0 of the config is a real one here.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `signal` resolves or a part fails; then lets calls end.
    ///
    /// # Errors
    /// [`TaskFailed`] names the part that failed.
    pub async fn run(self, signal: impl Future<Output = &'static str>) -> Result<(), TaskFailed> {
        let signal = async {
            let reason = signal.await;
            self.notifier.stopping();
            reason
        };
        run::run(self.group, self.failures, signal, DRAIN).await
    }
}

/// Starts every part in the order in which they need each other.
async fn start(
    config: &Config,
    host: &Host,
    group: &TaskGroup,
    mut bound: listeners::Bound,
) -> Result<(), AppError> {
    let (traces, sender) = Traces::prepare(&config.traces, "vouchsafe-server").map_err(BadConfig::from)?;
    sender.run(group);
    let (metrics, clock) = (Metrics::new(traces), &host.clock);
    let (store, keys) = open(config).await?;
    let store = MeteredStore::around(store, metrics.commits.clone());
    let ca = CaManager::start(ca_config(config), Arc::clone(&store), keys, clock.clone()).await?;
    let index = Index::load(&store).await?;
    let audit = start_audit(config, clock, group, &store);
    let rates = Arc::new(Rates::new(&config.limits, &metrics.refused));
    let callers = Places::new(config.limits.max_calls_per_caller);
    let state = State {
        index: Arc::clone(&index),
        ca: Arc::clone(&ca),
        audit: audit.sink.clone(),
        callers: callers.clone(),
    };
    bound.export(metrics.registry(state, clock.now()), group);
    let parts = parts(
        config,
        host,
        group,
        (&store, &index, &ca, &rates),
        &metrics.issued,
    );
    spawn(group, "certificate authority", Arc::clone(&ca).run());
    spawn(group, "index", Arc::clone(&index).follow(Arc::clone(&store)));
    spawn(group, "upkeep", upkeep::run(parts.clone()));
    let layers = Layers {
        clock: clock.clone(),
        audit: audit.sink,
        anonymous: audit.anonymous,
        authorizer: Authorizer::new(index, parts.nodes.clone(), config.admin_ids.clone()),
        bundle: ca.bundle_changes(),
        rates,
        callers,
        limits: config.limits.clone(),
        metrics,
    };
    let longest_away = config.agent_svid_ttl();
    let identity = identity::ServerIdentity::start(&config.trust_domain, ca, clock.clone(), longest_away)?;
    let tls = identity.tls(&config.trust_domain)?;
    spawn(group, "server identity", identity.run());
    let routes = api::routes(parts)?;
    bound.serve(&config.limits, group, tls, (&layers, routes), audit.served);
    Ok(())
}

/// Opens the store and the key manager that the config names.
async fn open(config: &Config) -> Result<(SharedStore, Arc<dyn KeyManager>), AppError> {
    let dir = config.data_dir.clone();
    let (store_kind, key_kind) = (config.store, config.key_manager);
    let open = move || -> Result<(SharedStore, Arc<dyn KeyManager>), AppError> {
        if store_kind == StoreKind::Sled || key_kind == KeyManagerKind::Disk {
            make_data_dir(&dir)?;
        }
        let store: SharedStore = match store_kind {
            StoreKind::Sled => Arc::new(SledStore::open(&dir.join("store"), &SledConfig::default())?),
            StoreKind::Memory => Arc::new(MemoryStore::new(&Uuid::new_v4().to_string())),
        };
        let keys: Arc<dyn KeyManager> = match key_kind {
            KeyManagerKind::Disk => Arc::new(DiskKeys::open(&dir.join("keys"))?),
            KeyManagerKind::Memory => Arc::new(MemoryKeys::new()),
        };
        Ok((store, keys))
    };
    tokio::task::spawn_blocking(open)
        .await
        .map_err(AppError::Interrupted)?
}

fn ca_config(config: &Config) -> CaConfig {
    let ca = CaConfig {
        ca_ttl: config.ca_ttl.get(),
        x509_svid_ttl: config.default_x509_svid_ttl.get(),
        jwt_svid_ttl: config.default_jwt_svid_ttl.get(),
        jwt_issuer: config.jwt_issuer.clone(),
        ..CaConfig::new(config.trust_domain.clone())
    };
    let longest = ca.longest_whole_ttl();
    for (key, ttl) in [
        ("default_x509_svid_ttl", ca.x509_svid_ttl),
        ("default_jwt_svid_ttl", ca.jwt_svid_ttl),
        ("agent_ttl", config.agent_svid_ttl()),
    ] {
        if ttl > longest {
            tracing::warn!(
                key,
                ttl_seconds = ttl.as_secs(),
                longest_seconds = longest.as_secs(),
                "SVIDs issued shortly before an authority ends will be shorter than configured: raise ca_ttl"
            );
        }
    }
    ca
}

/// The parts that carry out calls.
fn parts(
    config: &Config,
    host: &Host,
    group: &TaskGroup,
    (store, index, ca, rates): (&SharedStore, &Arc<Index>, &Arc<CaManager>, &Arc<Rates>),
    issued: &Issued,
) -> Parts {
    let trust_domain = config.trust_domain.clone();
    let tokens = Tokens::new(trust_domain.clone(), Arc::clone(store));
    let join_token = join_token::Verifier::new(trust_domain.clone(), Arc::new(tokens.clone()));
    let verifiers: Vec<Arc<dyn NodeVerifier>> = vec![Arc::new(join_token)];
    let times = Times {
        x509_svid_ttl: config.default_x509_svid_ttl.get(),
        jwt_svid_ttl: config.default_jwt_svid_ttl.get(),
        keep_ended_runs: config.keep_ended_runs.get(),
    };
    let runs = Runs::new(trust_domain.clone(), Arc::clone(store), Arc::clone(index), times);
    Parts {
        clock: host.clock.clone(),
        started_at: host.clock.now(),
        log: host.log.clone(),
        index: Arc::clone(index),
        registry: Registry::new(
            trust_domain.clone(),
            Arc::clone(store),
            Arc::clone(index),
            config.asserted_entries,
        ),
        nodes: Nodes::new(
            trust_domain.clone(),
            Arc::clone(store),
            Arc::clone(index),
            Arc::clone(ca),
            verifiers,
            config.agent_svid_ttl(),
            issued.clone(),
        ),
        tokens,
        classes: Classes::new(
            trust_domain.clone(),
            Arc::clone(store),
            Arc::clone(index),
            runs.clone(),
        ),
        leases: Leases::new(runs.clone(), Arc::clone(ca)),
        runs,
        issuing: Issuing::new(
            trust_domain.clone(),
            Arc::clone(index),
            Arc::clone(ca),
            issued.clone(),
        ),
        trust_domain,
        ca: Arc::clone(ca),
        store: Arc::clone(store),
        rates: Arc::clone(rates),
        limits: config.limits.clone(),
        whole_sets: places(config.limits.max_whole_sets),
        stopping: group.stopping(),
        tasks: group.clone(),
    }
}

fn places(count: u32) -> Arc<Semaphore> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

/// The audit log's front: where records go, and what the listeners hold until their last call has ended.
struct AuditFront {
    sink: AuditSink,
    anonymous: Arc<AnonymousCalls>,
    served: mpsc::Sender<()>,
}

/// Starts the writer of the audit log. It ends last: after the listeners, and after what was gathered is written.
fn start_audit(config: &Config, clock: &Clock, group: &TaskGroup, store: &SharedStore) -> AuditFront {
    let limit = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let queue = vouchsafe_store::AuditConfig {
        queue_records: limit(config.audit.max_waiting_records),
        longest_wait: AUDIT_WAIT,
    };
    let (sink, writer) = AuditWriter::new(Arc::clone(store), &queue);
    let anonymous = AnonymousCalls::new(limit(config.audit.max_anonymous_sources_per_minute));
    let (served, mut all_served) = mpsc::channel::<()>(1);
    let (quiet, gathered) = (CancellationToken::new(), CancellationToken::new());
    let gathering = Arc::clone(&anonymous).run(clock.clone(), sink.clone(), quiet.clone());
    let gathered_too = gathered.clone();
    let stopping = group.stopping();
    group.essential("audit gathering", async move {
        let watch = async {
            stopping.cancelled().await;
            // Nothing is ever sent: the last listener's end closes the channel.
            let _closed = all_served.recv().await;
            quiet.cancel();
        };
        let (ended, ()) = tokio::join!(gathering, watch);
        gathered_too.cancel();
        ended
    });
    group.essential("audit writer", writer.run(gathered.cancelled_owned()));
    AuditFront {
        sink,
        anonymous,
        served,
    }
}

/// Spawns a task that must go on until the group stops.
fn spawn<E: Display + Send + 'static>(
    group: &TaskGroup,
    name: &'static str,
    task: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let stopping = group.stopping();
    group.essential(name, async move {
        tokio::select! {
            () = stopping.cancelled() => Ok(()),
            ended = task => ended,
        }
    });
}
