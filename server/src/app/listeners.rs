//! The listeners: bound first, served last. TLS and admin socket serve the same services through the same layers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::transport::Server;
use vouchsafe_runtime::metrics::Exporter;
use vouchsafe_runtime::tls::{self, AcceptLimits};
use vouchsafe_runtime::uds::{self, ConnectionLimits, PlainListener, SocketConfig};
use vouchsafe_runtime::{Handed, TaskGroup};

use super::{Addresses, AppError};
use crate::config::{Config, Limits};
use crate::layers::{CallStack, Layers};

/// Mode of the admin socket, and with a group that may open it too.
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;
/// Silence after which a client is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest headers of a call, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Listeners that are bound and not served yet.
pub(super) struct Bound {
    tcp: TcpListener,
    admin: uds::Listener,
    metrics: Option<Exporter>,
}

/// Binds every listener.
pub(super) async fn bind(config: &Config, handed: &Handed) -> Result<Bound, AppError> {
    let address = config.listen;
    let tcp = match handed.tcp(address) {
        Some(tcp) => TcpListener::from_std(tcp),
        None => TcpListener::bind(address).await,
    };
    let tcp = tcp.map_err(|source| AppError::Listen { address, source })?;
    let admin = uds::bind(&SocketConfig {
        path: config.admin_socket.clone(),
        mode: config
            .admin_socket_group
            .as_ref()
            .map_or(OWNER_ONLY, |_| OWNER_AND_GROUP),
        group: config.admin_socket_group.clone(),
        handed: handed.clone(),
    })?;
    let metrics = Exporter::bind(&config.metrics).await?;
    handed.all_taken()?;
    Ok(Bound { tcp, admin, metrics })
}

impl Bound {
    /// The addresses as they are really bound.
    pub(super) fn addresses(&self) -> Result<Addresses, AppError> {
        let unknown = |source| AppError::Listen {
            address: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
            source,
        };
        Ok(Addresses {
            listen: self.tcp.local_addr().map_err(unknown)?,
            admin_socket: self.admin.path().to_owned(),
            metrics: self.metrics.as_ref().map(Exporter::address),
        })
    }

    /// Serves metrics, if that is wanted.
    pub(super) fn export(&mut self, registry: Registry, group: &TaskGroup) {
        if let Some(exporter) = self.metrics.take() {
            exporter.serve(registry, group);
        }
    }

    /// Serves both; `served` is dropped when the last call has ended.
    pub(super) fn serve(
        self,
        limits: &Limits,
        group: &TaskGroup,
        tls: Arc<ServerConfig>,
        (layers, routes): (&Layers, Routes),
        served: mpsc::Sender<()>,
    ) {
        // One stack for both, so that their limits are counted together.
        let stack = layers.stack();
        let connections = tls::incoming_measured(
            self.tcp,
            tls,
            accept_limits(limits),
            &layers.metrics.connections,
            group,
        );
        let mut server = server(limits, &stack).max_connection_age(limits.max_connection_age.get());
        // No grace: with one, tonic says nothing at the age and cuts the connection after the grace. Without, it asks the
        // client to connect anew, and what is under way comes to its end.
        let server = server.add_routes(routes.clone());
        let (stopping, alive) = (group.stopping(), served.clone());
        group.essential("tls listener", async move {
            let ended = server.serve_with_incoming_shutdown(connections, stopping.cancelled_owned());
            let ended = ended.await;
            drop(alive);
            ended
        });
        let connections = PlainListener::new(self.admin, ConnectionLimits::default()).into_incoming();
        let server = server_for_admins(limits, &stack).add_routes(routes);
        let stopping = group.stopping();
        group.essential("admin socket", async move {
            let ended = server.serve_with_incoming_shutdown(connections, stopping.cancelled_owned());
            let ended = ended.await;
            drop(served);
            ended
        });
    }
}

type Layered = Server<tower::layer::util::Stack<CallStack, tower::layer::util::Identity>>;

fn server(limits: &Limits, stack: &CallStack) -> Layered {
    Server::builder()
        .max_concurrent_streams(limits.max_calls_per_connection)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_AFTER))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(stack.clone())
}

fn server_for_admins(limits: &Limits, stack: &CallStack) -> Layered {
    Server::builder()
        .max_concurrent_streams(limits.max_calls_per_connection)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .layer(stack.clone())
}

fn accept_limits(limits: &Limits) -> AcceptLimits {
    let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    AcceptLimits {
        handshake_timeout: limits.handshake_timeout,
        max_pending_handshakes: at_least_one(limits.max_pending_handshakes),
        max_connections: at_least_one(limits.max_connections),
        max_connections_per_source: at_least_one(limits.max_connections_per_source),
    }
}
