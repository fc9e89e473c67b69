//! How a run begins: the class, the command held against it, admission by the server, a process at the gate, its
//! registration, and only then the program.

mod error;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use prost::Message;
use time::OffsetDateTime;
use vouchsafe_identity::{ClassName, RunId, RunIdentity, SpiffeId};
use vouchsafe_launch::{Launched, Launcher as Starter, Plan, Prepared, Stdio, User};
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::run::v1 as proto;

use super::admission::Admission;
use super::command::{Command, Sockets};
use super::keeper::Reported;
use super::leases::{Leases, NoLease};
use super::output::Outputs;
use super::record::{Records, RunRecord};
use super::run::{self, Cause};
use super::users::{Place, Users};
use super::{Run, Runs};
use crate::upstream::UpstreamError;
pub use error::LaunchingError;

/// Who asks for a run, as the agent made out.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The name of the user, if it has one.
    pub user: Option<String>,
    /// Its SPIFFE IDs.
    pub spiffe_ids: Vec<SpiffeId>,
    /// The run whose main process it is.
    pub parent: Option<Arc<Run>>,
}

/// What it takes to launch.
#[derive(Clone)]
pub struct Launching {
    /// The runs that live.
    pub runs: Runs,
    /// The server.
    pub admission: Arc<dyn Admission>,
    /// Starts processes.
    pub starter: Arc<Starter>,
    /// What is kept of runs that live.
    pub records: Records,
    /// What runs say that nobody listens to.
    pub outputs: Outputs,
    /// Uids of pools.
    pub users: Users,
    /// For the run's environment.
    pub sockets: Sockets,
    /// Whether the server has heard which runs live here.
    pub reported: Reported,
    /// For launching while it is away.
    pub leases: Leases,
}

impl std::fmt::Debug for Launching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launching").finish_non_exhaustive()
    }
}

/// A run that was admitted; nothing of it runs yet.
#[derive(Debug)]
pub struct AdmittedRun {
    /// Its number.
    pub run: RunId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Until when it may live.
    pub expires_at: OffsetDateTime,
    class: ClassName,
    inherit: run::Inherit,
    /// How it is launched by a lease, if it is.
    unheard: Option<proto::LeasedStart>,
}

/// A run that runs.
#[derive(Debug)]
pub struct Begun {
    /// The run.
    pub run: Arc<Run>,
    /// Its processes.
    pub launched: Launched,
    /// The user that it has.
    pub uid: u32,
    /// Its uid of a pool.
    pub place: Option<Place>,
    /// Names of variables that were taken out.
    pub dropped: Vec<String>,
    /// What shields it from others of its user.
    pub in_force: vouchsafe_launch::InForce,
    /// How it was launched by a lease, if it was.
    pub unheard: Option<proto::LeasedStart>,
}

/// What is to be started, as whom.
#[derive(Debug)]
pub struct Intended {
    command: Command,
    user: Option<User>,
    uid: u32,
    place: Option<Place>,
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> LaunchingError {
    move |source| LaunchingError::Io { what, source }
}

impl Launching {
    /// Holds a request against the class, and chooses the user. Blocks.
    ///
    /// # Errors
    /// [`LaunchingError`].
    pub fn intend(
        &self,
        request: &LaunchRequest,
        class: &proto::Class,
        asker: &Asker,
    ) -> Result<Intended, LaunchingError> {
        let nothing = proto::ClassSpec::default();
        let spec = class.spec.as_ref().unwrap_or(&nothing);
        let command = Command::of(request, spec, &self.sockets)?;
        let own = nix::unistd::geteuid().as_raw();
        let root = own == 0;
        let (user, place) = match spec.user.as_ref().and_then(|user| user.user.as_ref()) {
            // Who is not root can become nobody else; another's program it must not start as itself.
            None if !root && asker.uid == own => (None, None),
            None if !root => return Err(LaunchingError::OtherUser { own, uid: asker.uid }),
            None => {
                let (uid, gid, groups) = (asker.uid, asker.gid, asker.groups.clone());
                (Some(User { uid, gid, groups }), None)
            }
            Some(proto::run_user::User::Fixed(fixed)) => {
                let (uid, gid, groups) = (fixed.uid, fixed.gid, Vec::new());
                (Some(User { uid, gid, groups }), None)
            }
            Some(proto::run_user::User::Pool(pool)) => {
                let place = self.users.any(pool.first_uid, pool.last_uid);
                let class = name(class)?;
                let place = place.ok_or_else(|| LaunchingError::PoolEmpty {
                    class,
                    first: pool.first_uid,
                    last: pool.last_uid,
                })?;
                let (uid, gid, groups) = (place.uid(), place.uid(), Vec::new());
                (Some(User { uid, gid, groups }), Some(place))
            }
        };
        let uid = user.as_ref().map_or(asker.uid, |user| user.uid);
        Ok(Intended {
            command,
            user,
            uid,
            place,
        })
    }

    /// Has the server admit the run; while it is away, takes a lease.
    ///
    /// # Errors
    /// [`LaunchingError::Admission`], [`LaunchingError::NoLease`].
    pub async fn admit(
        &self,
        request: &LaunchRequest,
        class: &proto::Class,
        asker: &Asker,
        intended: &Intended,
    ) -> Result<AdmittedRun, LaunchingError> {
        let spec = class.spec.clone().unwrap_or_default();
        let isolation = match intended.command.isolation {
            vouchsafe_launch::Isolation::Process => proto::Isolation::Process,
            vouchsafe_launch::Isolation::None => proto::Isolation::None,
        };
        let asked = proto::AdmitRunRequest {
            class: class.name.clone(),
            class_version: class.version,
            launcher: Some(launcher(asker, &spec)),
            parent_run_id: asker
                .parent
                .as_ref()
                .map(|run| run.id.to_string())
                .unwrap_or_default(),
            task: request.task.clone(),
            labels: request.labels.clone(),
            uid: intended.uid,
            isolation: isolation.into(),
            measured_sha256: measured(&intended.command),
        };
        let inherit = spec.inherit().into();
        let away = match self.leases.is_server_away() {
            true => "it has not been reached of late".to_owned(),
            false => match self.ask(&asked).await {
                Ok(answer) => return admitted(&answer, name(class)?, inherit),
                Err(error) if error.is_temporary() => error.to_string(),
                Err(error) => return Err(error.into()),
            },
        };
        let (leases, runs, wanted) = (self.leases.clone(), self.runs.clone(), asked.clone());
        let taken = tokio::task::spawn_blocking(move || leases.take(&runs, &wanted)).await;
        let taken = taken.unwrap_or_else(|error| Err(NoLease::Io(error.to_string())));
        let lease = taken.map_err(|none| LaunchingError::NoLease { away, none })?;
        let identity = RunIdentity::parse(&lease.run);
        let identity =
            identity.ok_or_else(|| LaunchingError::Nonsense(format!("`{}` is no run", lease.run)))?;
        Ok(AdmittedRun {
            run: identity.run,
            spiffe_id: lease.run,
            expires_at: lease.expires_at,
            class: lease.class,
            inherit,
            unheard: Some(proto::LeasedStart {
                admission: Some(asked),
                started_at: self.leases.clock.now().unix_timestamp(),
            }),
        })
    }

    async fn ask(&self, asked: &proto::AdmitRunRequest) -> Result<proto::AdmitRunResponse, UpstreamError> {
        self.reported.wait().await?;
        self.admission.admit(asked.clone()).await
    }

    /// Starts an admitted run. It is registered, here and on disk, before its program runs. Blocks.
    ///
    /// # Errors
    /// [`LaunchingError`]; nothing is left behind then.
    pub fn begin(
        &self,
        request: &LaunchRequest,
        asker: &Asker,
        intended: Intended,
        admitted: AdmittedRun,
        descriptors: Option<[OwnedFd; 3]>,
    ) -> Result<Begun, LaunchingError> {
        let id = admitted.run;
        let output = descriptors.is_none();
        let descriptors = match descriptors {
            Some(descriptors) => descriptors,
            None => self
                .unheard(id)
                .map_err(io_error("making a file for what the run says"))?,
        };
        let Intended {
            command,
            user,
            uid,
            place,
        } = intended;
        let dropped = command
            .dropped
            .iter()
            .map(|name| name.to_string_lossy().into_owned());
        let dropped = dropped.collect();
        let plan = Plan {
            name: id.to_string(),
            program: command.program,
            argv: command.argv,
            env: command.env,
            cwd: command.cwd,
            user,
            stdio: match request.terminal {
                true => Stdio::Terminal(descriptors),
                false => Stdio::Descriptors(descriptors),
            },
            files: command.files,
            immutable: command.immutable,
            isolation: command.isolation,
            on_end: command.on_end,
            harden: command.harden,
        };
        let prepared = self.starter.prepare(plan)?;
        let in_force = prepared.in_force();
        let unheard = admitted.unheard.clone();
        let run = self.register(&prepared, asker, uid, admitted, (request.task.clone(), output))?;
        // From here on its processes are known to be its own.
        match prepared.release() {
            Ok(launched) => Ok(Begun {
                run,
                launched,
                uid,
                place,
                dropped,
                in_force,
                unheard,
            }),
            Err(error) => {
                self.runs.end(&run, Cause::NotStarted);
                self.runs.forget(&run);
                self.records.remove(id);
                self.outputs.remove(id);
                Err(error.into())
            }
        }
    }

    fn register(
        &self,
        prepared: &Prepared,
        asker: &Asker,
        uid: u32,
        admitted: AdmittedRun,
        (task, output): (String, bool),
    ) -> Result<Arc<Run>, LaunchingError> {
        let nonsense = |error: &dyn std::fmt::Display| LaunchingError::Nonsense(error.to_string());
        let main = prepared.main().try_clone().map_err(|error| nonsense(&error))?;
        let group = match prepared.cgroup_id() {
            Some(id) => {
                let pid = main.pid().map_err(|error| nonsense(&error))?;
                let path = super::group_of(&main, pid).map_err(|error| nonsense(&error))?;
                Some((id, path))
            }
            None => None,
        };
        let wanted = prepared.wanted();
        let record = RunRecord {
            run: admitted.run,
            spiffe_id: admitted.spiffe_id,
            class: admitted.class,
            inherit: admitted.inherit,
            launcher_uid: asker.uid,
            parent: asker.parent.as_ref().map(|run| run.id),
            task,
            expires_at: admitted.expires_at.unix_timestamp(),
            uid,
            program: wanted.program,
            non_dumpable: wanted.non_dumpable,
            group,
            output,
            found: 0,
            unheard: admitted.unheard.map(|told| hex::encode(told.encode_to_vec())),
        };
        self.records
            .put(&record)
            .map_err(io_error("writing the record of the run"))?;
        let entered = self.enter(&record, main);
        if entered.is_err() {
            self.records.remove(record.run);
        }
        entered
    }

    /// Takes a run in, as its record says.
    ///
    /// # Errors
    /// [`LaunchingError::Nonsense`].
    pub(super) fn enter(
        &self,
        record: &RunRecord,
        main: vouchsafe_sys::PidFd,
    ) -> Result<Arc<Run>, LaunchingError> {
        let run = Run::new(record, main);
        let run = Arc::new(run.map_err(LaunchingError::Nonsense)?);
        self.runs.enter(Arc::clone(&run));
        Ok(run)
    }

    /// Empty input, and a file for what it says.
    fn unheard(&self, run: RunId) -> io::Result<[OwnedFd; 3]> {
        let says = self.outputs.create(run)?;
        let both = says.try_clone()?;
        Ok([File::open("/dev/null")?.into(), says.into(), both.into()])
    }
}

/// A run that the server admitted.
fn admitted(
    answer: &proto::AdmitRunResponse,
    class: ClassName,
    inherit: run::Inherit,
) -> Result<AdmittedRun, LaunchingError> {
    let nonsense = |error: &dyn std::fmt::Display| LaunchingError::Nonsense(error.to_string());
    let expires_at = OffsetDateTime::from_unix_timestamp(answer.expires_at);
    Ok(AdmittedRun {
        run: RunId::new(&answer.run_id).map_err(|error| nonsense(&error))?,
        spiffe_id: SpiffeId::new(&answer.spiffe_id).map_err(|error| nonsense(&error))?,
        expires_at: expires_at.map_err(|error| nonsense(&error))?,
        class,
        inherit,
        unheard: None,
    })
}

fn name(class: &proto::Class) -> Result<ClassName, LaunchingError> {
    ClassName::new(&class.name).map_err(|error| LaunchingError::Nonsense(error.to_string()))
}

/// The launcher as the server is told it: of several SPIFFE IDs the one that the class names.
fn launcher(asker: &Asker, spec: &proto::ClassSpec) -> proto::Launcher {
    let named = |id: &&SpiffeId| spec.launchers.iter().any(|rule| covers(rule, id));
    let own = asker.parent.as_ref().map(|run| &run.spiffe_id);
    let id = own.or_else(|| asker.spiffe_ids.iter().find(named));
    let id = id.or_else(|| asker.spiffe_ids.first());
    let mut gids = vec![asker.gid];
    gids.extend(asker.groups.iter().filter(|gid| **gid != asker.gid));
    proto::Launcher {
        uid: asker.uid,
        gids,
        user: asker.user.clone().unwrap_or_default(),
        spiffe_id: id.map(ToString::to_string).unwrap_or_default(),
    }
}

/// Whether a class's rule may be about this id. The server decides.
pub(super) fn covers(rule: &str, id: &SpiffeId) -> bool {
    match rule.strip_suffix("/**") {
        Some(prefix) => id
            .as_str()
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('/')),
        None => rule == id.as_str(),
    }
}

/// The hash of all that must be so before the program runs.
fn measured(command: &Command) -> String {
    let mut context = Context::new(&SHA256);
    for file in std::iter::once(&command.program).chain(&command.files) {
        let hash = file.sha256.map(|hash| hash.to_string()).unwrap_or_default();
        context.update(format!("{hash}  {}\n", file.path.display()).as_bytes());
    }
    hex::encode(context.finish())
}
