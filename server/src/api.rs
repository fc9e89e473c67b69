//! The gRPC services: convert, call a use case, convert. Nothing is decided here.

mod absent;
mod admission;
mod agent;
mod authority;
mod backup;
mod bundle;
mod classes;
mod conversation;
mod entry;
pub mod follow;
mod health;
mod logger;
mod runs;
mod server_admin;
mod svid;
mod sync;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Request, Status};
use vouchsafe_ca::CaManager;
use vouchsafe_identity::TrustDomain;
use vouchsafe_proto::spire::api::server as spire;
use vouchsafe_proto::vouchsafe::run::v1 as run;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_server::ServerAdminServer;
use vouchsafe_proto::vouchsafe::sync::v1::sync_server::SyncServer;
use vouchsafe_runtime::telemetry::LogLevel;
use vouchsafe_runtime::{Clock, TaskGroup};
use vouchsafe_store::SharedStore;

use crate::config::Limits;
use crate::errors::ToStatus;
use crate::index::Index;
use crate::layers::Call;
use crate::layers::rates::Rates;
use crate::usecases::classes::Classes;
use crate::usecases::issuing::Issuing;
use crate::usecases::nodes::Nodes;
use crate::usecases::registry::Registry;
use crate::usecases::runs::{Leases, Runs};
use crate::usecases::tokens::Tokens;

/// What the services call.
#[derive(Clone)]
pub struct Parts {
    /// Whose server this is.
    pub trust_domain: TrustDomain,
    /// Tells the time.
    pub clock: Clock,
    /// The log's level.
    pub log: LogLevel,
    /// When the server started.
    pub started_at: time::OffsetDateTime,
    /// Entries and nodes.
    pub index: Arc<Index>,
    /// Writes entries.
    pub registry: Registry,
    /// Writes nodes.
    pub nodes: Nodes,
    /// Makes join tokens.
    pub tokens: Tokens,
    /// Writes classes.
    pub classes: Classes,
    /// Writes runs.
    pub runs: Runs,
    /// Writes leased runs.
    pub leases: Leases,
    /// Issues SVIDs.
    pub issuing: Issuing,
    /// The authority, for its bundle.
    pub ca: Arc<CaManager>,
    /// The store, for the audit log and bundles.
    pub store: SharedStore,
    /// Counts the items of batches.
    pub rates: Arc<Rates>,
    /// How much callers may ask for.
    pub limits: Limits,
    /// Turns to tell an agent its whole set.
    pub whole_sets: Arc<Semaphore>,
    /// Ends long streams when the server stops.
    pub stopping: CancellationToken,
    /// Runs the streams of agents that follow.
    pub tasks: TaskGroup,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({})", self.trust_domain)
    }
}

/// One service; all services are made of the same parts.
#[derive(Debug, Clone)]
struct Api(Arc<Parts>);

impl std::ops::Deref for Api {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Why reflection cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the descriptors cannot be served by reflection")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// All services.
///
/// # Errors
/// [`ReflectionError`] when the descriptors are damaged.
pub fn routes(parts: Parts) -> Result<Routes, ReflectionError> {
    let largest = parts.limits.max_request_size.as_usize();
    let largest = largest.max(parts.limits.max_anonymous_request_size.as_usize());
    let api = Api(Arc::new(parts));
    let mut routes = RoutesBuilder::default();
    macro_rules! serve {
        ($($server:path),* $(,)?) => {
            $( routes.add_service(<$server>::new(api.clone()).max_decoding_message_size(largest)); )*
        };
    }
    serve!(
        spire::agent::v1::agent_server::AgentServer::<Api>,
        spire::entry::v1::entry_server::EntryServer::<Api>,
        spire::svid::v1::svid_server::SvidServer::<Api>,
        spire::bundle::v1::bundle_server::BundleServer::<Api>,
        spire::trustdomain::v1::trust_domain_server::TrustDomainServer::<Api>,
        spire::localauthority::v1::local_authority_server::LocalAuthorityServer::<Api>,
        spire::logger::v1::logger_server::LoggerServer::<Api>,
        spire::debug::v1::debug_server::DebugServer::<Api>,
        ServerAdminServer::<Api>,
        SyncServer::<Api>,
        run::classes_server::ClassesServer::<Api>,
        run::runs_server::RunsServer::<Api>,
        run::admission_server::AdmissionServer::<Api>,
        tonic_health::pb::health_server::HealthServer::<Api>,
    );
    routes.add_service(reflection().build_v1()?);
    routes.add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(vouchsafe_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// The call that a request belongs to.
fn call<T>(request: &Request<T>) -> Result<Arc<Call>, Status> {
    Call::of(request.extensions()).map_err(|status| *status)
}

/// Any error of ours as a status.
fn refuse<E: ToStatus>(error: E) -> Status {
    error.to_status()
}
