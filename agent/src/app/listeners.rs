//! The agent's listeners: all of them bound before anything else is done, and served last.

use std::path::PathBuf;

use vouchsafe_runtime::Handed;
use vouchsafe_runtime::metrics::Exporter;
use vouchsafe_runtime::uds::{self, GuardedListener, PlainListener, SocketConfig};

use super::{ADMIN_MODE, Addresses, AppError, Host, WORKLOAD_MODE};
use crate::config::Config;

/// Bound and not served yet.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) workload: GuardedListener,
    pub(super) admin: PlainListener,
    pub(super) launch: Option<GuardedListener>,
    pub(super) exporter: Option<Exporter>,
}

/// Binds all of them, or takes over those that a service manager holds.
pub(super) async fn bind(config: &Config, host: &Host) -> Result<Bound, AppError> {
    let limits = config.limits.connections();
    let workload = socket(config.workload_socket.clone(), WORKLOAD_MODE, &host.handed);
    let workload = GuardedListener::bind(&workload, limits)?;
    let launch = config.launch.socket.clone().map(|path| {
        let socket = socket(path, WORKLOAD_MODE, &host.handed);
        GuardedListener::bind(&socket, limits).map(GuardedListener::keeping_descriptors)
    });
    let launch = launch.transpose()?;
    let admin = uds::bind(&socket(config.admin_socket(), ADMIN_MODE, &host.handed))?;
    host.handed.all_taken()?;
    Ok(Bound {
        workload,
        admin: PlainListener::new(admin, limits),
        launch,
        exporter: Exporter::bind(&config.metrics).await?,
    })
}

impl Bound {
    /// Where they listen.
    pub(super) fn addresses(&self) -> Addresses {
        Addresses {
            workload_socket: self.workload.path().to_owned(),
            admin_socket: self.admin.path().to_owned(),
            launch_socket: self.launch.as_ref().map(|launch| launch.path().to_owned()),
            metrics: self.exporter.as_ref().map(Exporter::address),
        }
    }
}

fn socket(path: PathBuf, mode: u32, handed: &Handed) -> SocketConfig {
    SocketConfig {
        path,
        mode,
        group: None,
        handed: handed.clone(),
    }
}
