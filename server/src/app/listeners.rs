//! The listeners: bound first, served last. TLS and admin socket serve the same services through the same layers.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::service::Routes;
use tower::Layer;
use vouchsafe_runtime::metrics::Exporter;
use vouchsafe_runtime::serving::{self, Settings};
use vouchsafe_runtime::tls::{self, AcceptLimits};
use vouchsafe_runtime::uds::{self, ConnectionLimits, PlainListener, SocketConfig};
use vouchsafe_runtime::{Handed, TaskGroup};

use super::{Addresses, AppError};
use crate::config::{Config, Limits};
use crate::layers::Layers;

/// Mode of the admin socket, and with a group that may open it too.
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;
/// Silence after which a client is asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
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
        let service = stack.layer(routes.prepare());
        let settings = Settings {
            max_calls: limits.max_calls_per_connection,
            max_header_bytes: MAX_HEADER_BYTES,
            keepalive_after: Some(KEEPALIVE_AFTER),
            max_age: Some(limits.max_connection_age.get()),
        };
        let (stopping, alive, behind) = (group.stopping(), served.clone(), service.clone());
        group.essential("tls listener", async move {
            serving::serve(behind, connections, settings, stopping).await;
            drop(alive);
            Ok::<_, Infallible>(())
        });
        let connections = PlainListener::new(self.admin, ConnectionLimits::default()).into_incoming();
        let settings = Settings {
            keepalive_after: None,
            max_age: None,
            ..settings
        };
        let stopping = group.stopping();
        group.essential("admin socket", async move {
            serving::serve(service, connections, settings, stopping).await;
            drop(served);
            Ok::<_, Infallible>(())
        });
    }
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
