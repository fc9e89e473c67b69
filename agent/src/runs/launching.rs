//! How a run begins: the class, the command held against it, admission by the server, a process at the gate, its
//! registration, and only then the program.

mod admitting;
mod error;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use prost::Message;
use vouchsafe_identity::{ClassName, RunId, Selector, SpiffeId};
use vouchsafe_launch::{Launched, Launcher as Starter, Plan, Prepared, Stdio, User};
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::run::v1 as proto;

use super::admission::Admission;
use super::command::{Command, Sockets};
use super::findings;
use super::keeper::Reported;
use super::leases::Leases;
use super::output::Outputs;
use super::record::{Records, RunRecord};
use super::run::Cause;
use super::users::{Place, Users};
use super::{Run, Runs};
pub use admitting::AdmittedRun;
pub(super) use admitting::covers;
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
    /// Its program and those above it.
    pub lineage: Vec<Selector>,
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
    selectors: Vec<Selector>,
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
                (Some(User { uid, gid, groups }), Some(self.shared(uid, asker)?))
            }
            Some(proto::run_user::User::Fixed(fixed)) => {
                let (uid, gid, groups) = (fixed.uid, fixed.gid, Vec::new());
                // Another uid than its own only root can give it, which the launcher says.
                let place = root.then(|| self.shared(uid, asker)).transpose()?;
                (Some(User { uid, gid, groups }), place)
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
            selectors: findings::selectors(spec, &command, &asker.lineage),
            command,
            user,
            uid,
            place,
        })
    }

    /// A uid that is not of a pool, or of the pool that the asking run has it of.
    fn shared(&self, uid: u32, asker: &Asker) -> Result<Place, LaunchingError> {
        let by_its_run = asker.parent.is_some() && asker.uid == uid;
        let place = self.users.shared(uid, by_its_run);
        place.ok_or(LaunchingError::UidOfAnother { uid })
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
            selectors,
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
            launcher: Some(User {
                uid: asker.uid,
                gid: asker.gid,
                groups: asker.groups.clone(),
            }),
            isolation: command.isolation,
            on_end: command.on_end,
            harden: command.harden,
        };
        let prepared = self.starter.prepare(plan)?;
        let in_force = prepared.in_force();
        let unheard = admitted.unheard.clone();
        let alone = place.as_ref().is_some_and(Place::is_alone);
        let told = (request.task.clone(), output, selectors);
        let run = self.register(&prepared, asker, (uid, alone), admitted, told)?;
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
        (uid, alone): (u32, bool),
        admitted: AdmittedRun,
        (task, output, selectors): (String, bool, Vec<Selector>),
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
            selectors,
            expires_at: admitted.expires_at.unix_timestamp(),
            uid,
            alone,
            program: wanted.program,
            non_dumpable: wanted.non_dumpable,
            group,
            output,
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
        let run = Run::new(record, main, self.records.children(record.run));
        let run = Arc::new(run.map_err(LaunchingError::Nonsense)?);
        self.runs.enter(Arc::clone(&run));
        Ok(run)
    }

    /// Empty input, and a file for what it says.
    fn unheard(&self, run: RunId) -> io::Result<[OwnedFd; 3]> {
        let says = self.outputs.create(run, |id| self.runs.get(id).is_some())?;
        let both = says.try_clone()?;
        Ok([File::open("/dev/null")?.into(), says.into(), both.into()])
    }
}

fn name(class: &proto::Class) -> Result<ClassName, LaunchingError> {
    ClassName::new(&class.name).map_err(|error| LaunchingError::Nonsense(error.to_string()))
}
