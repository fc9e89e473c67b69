//! `vouchsafe.launch.v1.Launch`, on the launch socket. Callers are made out as on the Workload API.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use vouchsafe_identity::{ClassName, RunId};
use vouchsafe_launch::{InForce, Outcome};
use vouchsafe_proto::vouchsafe::launch::v1 as api;
use vouchsafe_proto::vouchsafe::launch::v1::launch_server::Launch;
use vouchsafe_proto::vouchsafe::run::v1 as run_api;
use vouchsafe_workload_attestors::lineage;

use super::keeper::{Keeper, Kept, Over, tell};
use super::launching::{AdmittedRun, Asker, Begun, Intended, LaunchingError};
use super::run::{Cause, Launcher};
use super::{Run, Standing};
use crate::caller::{Caller, Connection};
use crate::metrics::Launches;
use crate::workload::{Parts, identities};

/// Events that wait for a launcher that does not read.
const WAITING: usize = 16;
/// Bytes of one message of output.
const CHUNK_BYTES: usize = 32 * 1024;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Makes out callers.
    pub parts: Parts,
    /// Keeps what was launched.
    pub keeper: Keeper,
    /// Counts what comes of it.
    pub launches: Launches,
}

type Events = mpsc::Sender<Result<api::LaunchEvent, Status>>;
/// A stream of messages for one caller.
pub type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Launch for Service {
    type LaunchStream = Messages<api::LaunchEvent>;
    type FollowStream = Messages<api::LaunchEvent>;
    type ReadOutputStream = Messages<api::OutputChunk>;

    async fn launch(
        &self,
        request: Request<api::LaunchRequest>,
    ) -> Result<Response<Self::LaunchStream>, Status> {
        let caller = self.parts.caller(&request).await?;
        let asker = self.asker(&caller).await?;
        let request = request.into_inner();
        let descriptors = caller.connection.peer.take_descriptors();
        let (events, waiting) = mpsc::channel(WAITING);
        let service = self.clone();
        // Whoever has asked may be gone before all is done; what was begun is brought to its end nevertheless.
        self.keeper.group.passing("launch", async move {
            let launched = service
                .begin(&request, &caller, &asker, descriptors, &events)
                .await;
            service.launches.add(&launched);
            if let Err(status) = launched {
                tracing::info!(
                    class = request.class,
                    uid = asker.uid,
                    error = status.message(),
                    "no run was launched"
                );
                let _launcher_is_gone = events.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn follow(
        &self,
        request: Request<api::FollowRunRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let caller = self.parts.caller(&request).await?;
        let id = run_id(&request.get_ref().run_id)?;
        self.may(&caller, id)?;
        let (events, waiting) = mpsc::channel(WAITING);
        if let Some(run) = self
            .keeper
            .launching
            .runs
            .get(id)
            .filter(|run| run.cause().is_none())
        {
            let _there_is_room = events.try_send(Ok(admitted(&run)));
        }
        let keeper = self.keeper.clone();
        self.keeper.group.passing("follower of a run", async move {
            tokio::select! {
                () = events.closed() => {}
                over = keeper.ends.wait(id) => {
                    let _follower_is_gone = events.send(Ok(ended(&over))).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn signal(
        &self,
        request: Request<api::SignalRequest>,
    ) -> Result<Response<api::SignalResponse>, Status> {
        let caller = self.parts.caller(&request).await?;
        let api::SignalRequest { run_id: id, signal } = request.into_inner();
        let id = run_id(&id)?;
        self.may(&caller, id)?;
        let signal = Signal::try_from(signal)
            .map_err(|_| Status::invalid_argument(format!("`{signal}` is not a signal")))?;
        self.parts.may_answer(&caller).await?;
        let run = self.keeper.launching.runs.get(id);
        let sent = run.map(|run| run.main().signal(signal));
        match sent {
            Some(Ok(())) => Ok(Response::new(api::SignalResponse {})),
            _ => Err(Status::failed_precondition(format!("run {id} has ended"))),
        }
    }

    async fn read_output(
        &self,
        request: Request<api::ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let caller = self.parts.caller(&request).await?;
        let api::ReadOutputRequest { run_id: id, follow } = request.into_inner();
        let id = run_id(&id)?;
        self.may(&caller, id)?;
        let file = self.keeper.launching.outputs.read(id).map_err(|_| {
            Status::not_found(format!(
                "nothing is kept of what run {id} says: its output went to its launcher"
            ))
        })?;
        self.parts.may_answer(&caller).await?;
        let (chunks, waiting) = mpsc::channel(WAITING);
        let keeper = self.keeper.clone();
        self.keeper.group.passing("output of a run", async move {
            copy(file, id, follow, &keeper, &chunks).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }
}

impl Service {
    /// Who asks for a run.
    async fn asker(&self, caller: &Caller) -> Result<Asker, Status> {
        let credentials = caller.connection.peer.credentials();
        let (uid, gid) = (credentials.uid, credentials.gid);
        let parent = match &caller.standing {
            Standing::Outside => None,
            Standing::Of(member) if member.main => Some(Arc::clone(&member.run)),
            Standing::Of(member) => {
                let text = format!("within run {} only the main process may launch", member.run.id);
                return Err(Status::permission_denied(text));
            }
        };
        let spiffe_ids = match &parent {
            Some(run) => vec![run.spiffe_id.clone()],
            None => {
                let known = self.parts.known().await?;
                let entries = identities(&known, caller).unwrap_or_default();
                entries.iter().map(|entry| entry.spiffe_id.clone()).collect()
            }
        };
        let connection = Arc::clone(&caller.connection);
        let looked = tokio::task::spawn_blocking(move || {
            let groups = groups(&connection)?;
            Ok::<_, Status>((groups, lineage(connection.process()?)))
        });
        let looked = looked
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let (groups, lineage) = looked?;
        let named = move || nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
        let user = tokio::task::spawn_blocking(named).await;
        Ok(Asker {
            uid,
            gid,
            groups,
            user: user.ok().and_then(Result::ok).flatten().map(|user| user.name),
            spiffe_ids,
            lineage,
            parent,
        })
    }

    async fn begin(
        &self,
        request: &api::LaunchRequest,
        caller: &Caller,
        asker: &Asker,
        descriptors: Option<[std::os::fd::OwnedFd; 3]>,
        events: &Events,
    ) -> Result<(), Status> {
        let launching = &self.keeper.launching;
        let output = descriptors.is_none();
        let class = self.class(&request.class).await?;
        let (intended, admitted_run) = match self.admit(request, caller, asker, class).await {
            // What was pushed is a moment behind.
            Err(error) if error.is_class_changed() => {
                let class = launching.admission.class(&request.class).await;
                let class = Arc::new(class.map_err(LaunchingError::from)?);
                self.admit(request, caller, asker, class).await?
            }
            admitted => admitted?,
        };
        let id = admitted_run.run;
        let _launcher_may_be_gone = events.send(Ok(told(&admitted_run))).await;
        let begun = {
            let (launching, request, asker) = (launching.clone(), request.clone(), asker.clone());
            blocking(move || launching.begin(&request, &asker, intended, admitted_run, descriptors)).await
        };
        let Begun {
            run,
            launched,
            uid,
            place,
            dropped,
            in_force,
            unheard,
        } = match begun {
            Ok(begun) => begun,
            Err(error) => {
                launching.runs.drop_lease(id);
                self.never_started(id);
                return Err(error.into());
            }
        };
        let pid = run.main().pid().unwrap_or_default();
        tracing::info!(run_id = %id, class = %run.class, spiffe_id = %run.spiffe_id, pid, uid, launcher_uid = asker.uid, by_lease = unheard.is_some(), "a run has been launched");
        let _launcher_may_be_gone = events.send(Ok(started(&run, pid, uid, in_force, dropped))).await;
        let by_lease = unheard.is_some();
        let kept = Kept {
            run,
            launched,
            place,
            output,
            unheard,
        };
        self.follow_begun(request, kept, events);
        if !by_lease {
            self.say_started(id, pid);
        }
        Ok(())
    }

    /// Holds the request against the class and has the run admitted.
    async fn admit(
        &self,
        request: &api::LaunchRequest,
        caller: &Caller,
        asker: &Asker,
        class: Arc<run_api::Class>,
    ) -> Result<(Intended, AdmittedRun), LaunchingError> {
        let launching = &self.keeper.launching;
        let may_ask = launching.may_ask(request, &class, asker).await;
        if let Err(LaunchingError::AdmittedUnasked(run)) = &may_ask
            && let Ok(run) = RunId::new(run)
        {
            self.never_started(run);
        }
        may_ask?;
        let intended = {
            let (launching, request) = (launching.clone(), request.clone());
            let (class, asker) = (Arc::clone(&class), asker.clone());
            blocking(move || launching.intend(&request, &class, &asker)).await?
        };
        // Who is another program by now asks for nothing.
        self.parts
            .may_answer(caller)
            .await
            .map_err(LaunchingError::Caller)?;
        let admitted = launching.admit(request, &class, asker, &intended).await?;
        Ok((intended, admitted))
    }

    /// A class as the server pushed it, else as it says when it is asked.
    async fn class(&self, name: &str) -> Result<Arc<run_api::Class>, LaunchingError> {
        let known = self.parts.knowledge.get();
        let pushed = ClassName::new(name)
            .ok()
            .and_then(|name| known.classes.get(&name));
        match pushed {
            Some(class) => Ok(Arc::clone(class)),
            None => Ok(Arc::new(self.keeper.launching.admission.class(name).await?)),
        }
    }

    /// Follows a run that has just begun, and tells its launcher of the end.
    fn follow_begun(&self, request: &api::LaunchRequest, kept: Kept, events: &Events) {
        let id = kept.run.id;
        let (ends, listener) = (self.keeper.ends.clone(), events.clone());
        let detached = request.detached;
        let gone = events.clone();
        self.keeper.keep(kept, async move {
            match detached {
                true => std::future::pending().await,
                false => gone.closed().await,
            }
        });
        self.keeper.group.passing("launcher of a run", async move {
            let over = ends.wait(id).await;
            let _launcher_is_gone = listener.send(Ok(ended(&over))).await;
        });
    }

    fn say_started(&self, run: RunId, pid: i32) {
        let keeper = self.keeper.clone();
        self.keeper.group.passing("start of a run", async move {
            if let Err(error) = keeper.launching.admission.started(run, pid, None).await {
                // The server ends it as never started, which the agent hears.
                tracing::warn!(run_id = %run, %error, "the server did not hear that a run was started");
            }
        });
    }

    fn never_started(&self, run: RunId) {
        let keeper = self.keeper.clone();
        self.keeper.group.passing("end of a run", async move {
            tell(keeper.launching.admission.as_ref(), run, None, &keeper.clock).await;
        });
    }

    /// Whether a caller may follow a run and send it signals: who launched it, and root.
    fn may(&self, caller: &Caller, id: RunId) -> Result<(), Status> {
        let unknown = || {
            Status::not_found(format!(
                "run {id} does not live on this node, and has not ended lately"
            ))
        };
        let uid = caller.connection.peer.credentials().uid;
        let parent = match &caller.standing {
            Standing::Outside => None,
            Standing::Of(member) if member.main => Some(member.run.id),
            Standing::Of(_) => return Err(unknown()),
        };
        let living = self.keeper.launching.runs.get(id).map(|run| run.launcher.clone());
        let launcher = living.or_else(|| self.keeper.ends.of(id).map(|over| over.launcher));
        let root = uid == 0 && parent.is_none();
        // Who may not is told what a run that does not exist would be.
        match launcher {
            Some(launcher) if root || launcher == (Launcher { uid, parent }) => Ok(()),
            _ => Err(unknown()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LaunchingError> + Send + 'static,
) -> Result<T, LaunchingError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LaunchingError::Caller(Status::internal(error.to_string())))?
}

fn run_id(text: &str) -> Result<RunId, Status> {
    RunId::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The further groups of a caller.
fn groups(connection: &Connection) -> Result<Vec<u32>, Status> {
    let pid = connection.peer.credentials().pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status
        .map_err(|error| Status::unavailable(format!("the caller's groups cannot be read: {error}")))?;
    if !connection.peer.is_alive() {
        return Err(Status::unavailable("the calling process has ended"));
    }
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap_or_default();
    Ok(line
        .split_whitespace()
        .filter_map(|gid| gid.parse().ok())
        .collect())
}

fn event(event: api::launch_event::Event) -> api::LaunchEvent {
    api::LaunchEvent { event: Some(event) }
}

fn told(admitted: &AdmittedRun) -> api::LaunchEvent {
    event(api::launch_event::Event::Admitted(api::Admitted {
        run_id: admitted.run.to_string(),
        spiffe_id: admitted.spiffe_id.to_string(),
        expires_at: admitted.expires_at.unix_timestamp(),
    }))
}

fn admitted(run: &Run) -> api::LaunchEvent {
    event(api::launch_event::Event::Admitted(api::Admitted {
        run_id: run.id.to_string(),
        spiffe_id: run.spiffe_id.to_string(),
        expires_at: run.expires_at().unix_timestamp(),
    }))
}

fn started(run: &Run, pid: i32, uid: u32, in_force: InForce, dropped: Vec<String>) -> api::LaunchEvent {
    let isolation = match in_force.execute_only {
        true => run_api::Isolation::Process,
        false => run_api::Isolation::None,
    };
    let lacks = [
        (
            in_force.execute_only,
            "other processes of its user can read its memory, and its key",
        ),
        (in_force.other_uid, "it shares its user with its launcher"),
        (
            in_force.cgroup,
            "its children are not told from other processes of its user",
        ),
    ];
    let weaker = lacks
        .into_iter()
        .filter(|(has, _)| !has)
        .map(|(_, text)| text.to_owned());
    event(api::launch_event::Event::Started(api::Started {
        run_id: run.id.to_string(),
        spiffe_id: run.spiffe_id.to_string(),
        pid,
        uid,
        isolation: isolation.into(),
        weaker: weaker.collect(),
        dropped_variables: dropped,
    }))
}

fn ended(over: &Over) -> api::LaunchEvent {
    let outcome = match over.outcome {
        Outcome::Exited(code) => api::ended::Outcome::Exited(code),
        Outcome::Signalled(signal) => api::ended::Outcome::Signalled(signal),
        Outcome::Lost => api::ended::Outcome::Unknown(true),
    };
    let reason = match &over.cause {
        Cause::Over => String::new(),
        cause => cause.to_string(),
    };
    event(api::launch_event::Event::Ended(api::Ended {
        run_id: over.run.to_string(),
        outcome: Some(outcome),
        reason,
    }))
}

/// Sends what a run has said, and goes on until it has ended, if that is wanted.
async fn copy(
    file: std::fs::File,
    run: RunId,
    follow: bool,
    keeper: &Keeper,
    chunks: &mpsc::Sender<Result<api::OutputChunk, Status>>,
) {
    let file = Arc::new(file);
    loop {
        let over = !follow || keeper.ends.of(run).is_some() || keeper.launching.runs.get(run).is_none();
        loop {
            let from = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; CHUNK_BYTES];
                let count = from.as_ref().read(&mut bytes)?;
                bytes.truncate(count);
                Ok::<_, std::io::Error>(bytes)
            });
            let output = match read.await {
                Ok(Ok(output)) if output.is_empty() => break,
                Ok(Ok(output)) => output,
                _ => return,
            };
            if chunks.send(Ok(api::OutputChunk { output })).await.is_err() {
                return;
            }
        }
        if over {
            return;
        }
        tokio::select! {
            () = chunks.closed() => return,
            _over = keeper.ends.wait(run) => {}
            () = keeper.clock.sleep(LOOK_AGAIN) => {}
        }
    }
}

/// How often it is looked whether a run has said more.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(250);
