//! The two listeners: bound first, served last. Both serve the same services through the same layers.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tonic::transport::Server;
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::tls::{self, AcceptLimits};
use vouchsafe_runtime::uds::{self, ConnectionLimits, PlainListener, SocketConfig};

use super::{Addresses, AppError};
use crate::config::{Config, Limits};
use crate::layers::{CallStack, Layers};

/// Mode of the admin socket, and with a group that may open it too.
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;
/// How long a connection that is too old may still finish its calls.
const AGE_GRACE: Duration = Duration::from_secs(60);
/// Silence after which a client is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest headers of a call, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// Listeners that are bound and not served yet.
pub(super) struct Bound {
    tcp: TcpListener,
    admin: uds::Listener,
}

/// Binds both listeners.
pub(super) async fn bind(config: &Config) -> Result<Bound, AppError> {
    let address = config.listen;
    let tcp = TcpListener::bind(address)
        .await
        .map_err(|source| AppError::Listen { address, source })?;
    let admin = uds::bind(&SocketConfig {
        path: config.admin_socket.clone(),
        mode: config
            .admin_socket_group
            .as_ref()
            .map_or(OWNER_ONLY, |_| OWNER_AND_GROUP),
        group: config.admin_socket_group.clone(),
    })?;
    Ok(Bound { tcp, admin })
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
        })
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
        let connections = tls::incoming(self.tcp, tls, accept_limits(limits), group);
        let server = server(limits, &stack).max_connection_age(limits.max_connection_age.get());
        let server = server
            .max_connection_age_grace(AGE_GRACE)
            .add_routes(routes.clone());
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
