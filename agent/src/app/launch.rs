//! Launching, put together: the folders and the control groups that it needs, and what an earlier life of the agent left.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::watch;
use vouchsafe_launch::cgroups::CgroupRoot;
use vouchsafe_launch::{Config as StarterConfig, Launcher as Starter};
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::uds::GuardedListener;

use super::restore::OfRuns;
use super::{AppError, Host, serve};
use crate::caller::ExecWatch;
use crate::config::{Config, Limits};
use crate::metrics::Metrics;
use crate::node::OwnSvid;
use crate::runs::command::Sockets;
use crate::runs::keeper::{Found, Keeper};
use crate::runs::launching::Launching;
use crate::runs::leases::{Leases, Marks};
use crate::runs::output::Outputs;
use crate::runs::record::Records;
use crate::runs::service::Service;
use crate::upstream::Upstream;
use crate::workload::Parts;

/// The program that stands beside each run.
const SUPERVISOR: &str = "vouchsafe-supervisor";
/// Folders within the one of the agent's state.
const PROCESSES: &str = "runs/processes";
const RECORDS: &str = "runs/records";
const OUTPUTS: &str = "runs/output";
const LEASES: &str = "runs/leases";
/// Digits of the agent's own name for its control groups.
const NAME_DIGITS: usize = 16;

/// What launches, and what was launched before.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) keeper: Keeper,
    pub(super) found: Vec<Found>,
}

impl Launch {
    /// Serves the launch socket, and goes on with the runs that live.
    pub(super) fn start(
        self,
        listener: GuardedListener,
        (parts, metrics): (Parts, &Metrics),
        execs: ExecWatch,
        limits: &Limits,
        group: &TaskGroup,
    ) -> Result<(), AppError> {
        let keeper = self.keeper.clone();
        let service = Service {
            parts,
            keeper,
            launches: metrics.launches.clone(),
        };
        serve::launch(listener, (service, metrics.calls.clone()), execs, limits, group)?;
        group.passing("ends of runs", self.keeper.clone().heed());
        group.passing("launch leases", self.keeper.clone().keep_leases());
        group.passing("runs of before", self.keeper.take_up(self.found));
        Ok(())
    }
}

/// What launching needs beside the parts that answer workloads.
#[derive(Debug)]
pub(super) struct With<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) own: &'a watch::Receiver<Option<Arc<OwnSvid>>>,
    /// From before the agent's last start.
    pub(super) of_runs: OfRuns,
}

/// Puts launching together, where it is configured; finds the runs that live on.
pub(super) async fn assemble(
    config: &Config,
    host: &Host,
    parts: &Parts,
    with: With<'_>,
    group: &TaskGroup,
) -> Result<Option<Launch>, AppError> {
    let Some(socket) = config.launch.socket.clone() else {
        return Ok(None);
    };
    let sockets = Sockets {
        workload: config.workload_socket.clone(),
        launch: socket,
    };
    let starter = starter(config)?;
    let folder = |name: &str| config.data_dir.join(name);
    let unusable = |source| AppError::Launch(format!("the folder of runs cannot be made: {source}"));
    let launching = Launching {
        runs: parts.runs.clone(),
        admission: Arc::new(with.upstream.clone()),
        starter: Arc::new(starter),
        records: Records::open(&folder(RECORDS)).map_err(unusable)?,
        outputs: Outputs::open(&folder(OUTPUTS)).map_err(unusable)?,
        users: Default::default(),
        sockets,
        reported: Default::default(),
        leases: Leases {
            knowledge: parts.knowledge.clone(),
            status: Arc::clone(&parts.status),
            own: with.own.clone(),
            clock: host.clock.clone(),
            marks: Marks::open(&folder(LEASES)).map_err(unusable)?,
        },
    };
    let keeper = Keeper {
        launching,
        ends: Default::default(),
        knowledge: parts.knowledge.clone(),
        clock: host.clock.clone(),
        group: group.clone(),
    };
    let (launching, ends) = (keeper.launching.clone(), keeper.ends.clone());
    let found = tokio::task::spawn_blocking(move || launching.find_again(&ends)).await;
    let found = found.map_err(|error| AppError::Launch(error.to_string()))?;
    let found = found.map_err(|error| AppError::Launch(in_full(&error)))?;
    let launching = &keeper.launching;
    launching.leases.remember(&launching.runs).map_err(unusable)?;
    // What was sealed counts for launching too, until the server is heard.
    launching.runs.lease(&parts.knowledge.get());
    let clock = &host.clock;
    launching
        .runs
        .restore(with.of_runs, clock.now(), || clock.jitter());
    Ok(Some(Launch { keeper, found }))
}

fn starter(config: &Config) -> Result<Starter, AppError> {
    let supervisor = match &config.launch.supervisor {
        Some(path) => path.clone(),
        None => std::env::current_exe()
            .map_err(|error| AppError::Launch(format!("the agent's own program cannot be found: {error}")))?
            .with_file_name(SUPERVISOR),
    };
    if !supervisor.is_file() {
        return Err(AppError::Launch(format!(
            "the program `{}` is missing: install it there, or name it as `launch.supervisor`",
            supervisor.display()
        )));
    }
    let cgroups = match &config.launch.cgroup {
        Some(path) => Some(CgroupRoot::open(path).map_err(|error| AppError::Launch(in_full(&error)))?),
        None => match CgroupRoot::of_self(&name(&config.data_dir)) {
            Ok(root) => Some(root),
            Err(error) => {
                let error = in_full(&error);
                tracing::warn!(
                    error,
                    "no control groups: only runs without isolation can be launched"
                );
                None
            }
        },
    };
    let config = StarterConfig {
        supervisor,
        copies: config.launch.programs_dir.clone(),
        records: config.data_dir.join(PROCESSES),
        cgroups,
        patience: vouchsafe_launch::PATIENCE,
    };
    Starter::new(config).map_err(|error| AppError::Launch(in_full(&error)))
}

/// Tells the control groups of agents of one host apart.
fn name(data_dir: &Path) -> String {
    let path = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
    let mut digits = hex::encode(digest(&SHA256, path.as_os_str().as_encoded_bytes()));
    digits.truncate(NAME_DIGITS);
    format!("vouchsafe-runs-{digits}")
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
