//! Whether a run may be: class, node, launcher, user, isolation, and a free place.

use uuid::Uuid;
use vouchsafe_identity::{ClassName, Labels, RunId, RunIdentity, Selector, Sha256, SpiffeId, TaskId};
use vouchsafe_store::class::{Isolation, LauncherRule, RunUser};
use vouchsafe_store::{ChangeKind, Class, Commit, CommitError, Expect, Key, Record, Run, Versioned};

use super::{Runs, RunsError, facts, whole};
use crate::usecases::Origin;

/// How often another place is tried when others take those that looked free.
const MAX_ATTEMPTS: usize = 64;

/// Who asks, as the agent saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launcher {
    /// The user.
    pub uid: u32,
    /// Its groups.
    pub gids: Vec<u32>,
    /// The user's name on that node.
    pub user: Option<String>,
    /// The launcher's SPIFFE ID, where it has one.
    pub spiffe_id: Option<SpiffeId>,
}

/// What an agent asks to be admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Of which class.
    pub class: ClassName,
    /// By which version of it the agent measured.
    pub class_version: u64,
    /// Who asks.
    pub launcher: Launcher,
    /// The run whose main process asks.
    pub parent: Option<RunId>,
    /// For what.
    pub task: Option<TaskId>,
    /// What the launcher notes.
    pub labels: Labels,
    /// As which user.
    pub uid: u32,
    /// What the agent can bring to bear.
    pub isolation: Isolation,
    /// Of all that was measured.
    pub measured_sha256: Option<Sha256>,
    /// What was measured, and who was above the launcher.
    pub selectors: Vec<Selector>,
}

/// A run that was admitted.
#[derive(Debug)]
pub struct Admitted {
    /// The run.
    pub run: Run,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// The class by which it was admitted.
    pub class: Class,
}

/// Why a run may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such class.
    #[error("class `{0}` is not known")]
    UnknownClass(ClassName),
    /// It takes no new runs.
    #[error("class `{0}` is disabled")]
    Disabled(ClassName),
    /// Not on this node.
    #[error(
        "class `{class}` may not run on node `{node}`: an operator has to name the node, or an alias of it"
    )]
    Node {
        /// Which class.
        class: ClassName,
        /// Which node.
        node: SpiffeId,
    },
    /// Not by this launcher.
    #[error("{launcher} may not launch class `{class}`: an operator has to name it among the launchers")]
    Launcher {
        /// Which class.
        class: ClassName,
        /// Who asked.
        launcher: String,
    },
    /// All places are taken.
    #[error("class `{class}` has {max_runs} live runs, which is its limit")]
    MaxRuns {
        /// Which class.
        class: ClassName,
        /// The limit.
        max_runs: u32,
    },
    /// The agent measured by another version.
    #[error("class `{class}` is at version {version}, not {asked}: measure anew")]
    Changed {
        /// Which class.
        class: ClassName,
        /// Its version.
        version: u64,
        /// What the agent knew.
        asked: u64,
    },
    /// Less isolation than the class demands.
    #[error("class `{0}` demands isolation `process`, which this agent cannot give")]
    Isolation(ClassName),
    /// Not as this user.
    #[error("runs of class `{class}` may not have uid {uid}")]
    User {
        /// Which class.
        class: ClassName,
        /// Which user.
        uid: u32,
    },
    /// The run that asks is none of this node's.
    #[error("run `{0}`, which asks, does not live on this node")]
    Parent(RunId),
    /// The launcher's id is none that this agent may serve.
    #[error("`{0}`, which is said to ask, has no entry that this agent may serve")]
    LauncherId(SpiffeId),
}

impl Runs {
    /// Admits a run for a node, if its class lets it be.
    ///
    /// # Errors
    /// [`RunsError::Refused`] says why not.
    pub async fn admit(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        asked: &Admission,
    ) -> Result<Admitted, RunsError> {
        for _ in 0..MAX_ATTEMPTS {
            let class = self.index.class(&asked.class);
            let class = class.ok_or_else(|| Refusal::UnknownClass(asked.class.clone()))?;
            let launcher = self.may_launch(origin, node, &class.value, asked)?;
            let run = self.place(origin, node, &class.value, asked, launcher)?;
            let spiffe_id = spiffe_id(&run)?;
            let commit = new_run(&class, &run).audit(origin.change("run.admit", facts(&run)));
            match self.store.commit(commit).await {
                Ok(revision) => {
                    self.index.wait_for(revision).await;
                    let class = class.value.clone();
                    return Ok(Admitted {
                        run,
                        spiffe_id,
                        class,
                    });
                }
                Err(CommitError::Store(e)) => return Err(e.into()),
                // The place was taken, or the class changed: what there is now is in the store, and soon in the index.
                Err(_) => self.caught_up().await,
            }
        }
        Err(RunsError::Crowded(asked.class.clone()))
    }

    /// A class, for a node on which it may run.
    ///
    /// # Errors
    /// [`Refusal`], as an admission would have it.
    pub fn describe(&self, origin: &Origin, node: &SpiffeId, name: &ClassName) -> Result<Class, Refusal> {
        let class = self.index.class(name);
        let class = class.ok_or_else(|| Refusal::UnknownClass(name.clone()))?;
        self.on_node(origin, node, &class.value)?;
        Ok(class.value.clone())
    }

    pub(super) fn on_node(&self, origin: &Origin, node: &SpiffeId, class: &Class) -> Result<(), Refusal> {
        match self.index.is_among(node, &class.spec.nodes, origin.at) {
            true => Ok(()),
            false => Err(Refusal::Node {
                class: class.name.clone(),
                node: node.clone(),
            }),
        }
    }

    /// Whether a class takes new runs on a node that knows this version of it.
    pub(super) fn takes_runs(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        class: &Class,
        version: u64,
    ) -> Result<(), Refusal> {
        if class.spec.disabled {
            return Err(Refusal::Disabled(class.name.clone()));
        }
        self.on_node(origin, node, class)?;
        match version == class.version {
            true => Ok(()),
            false => Err(Refusal::Changed {
                class: class.name.clone(),
                version: class.version,
                asked: version,
            }),
        }
    }

    /// Who launches, for people, if it may.
    pub(super) fn may_launch(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        class: &Class,
        asked: &Admission,
    ) -> Result<String, Refusal> {
        let name = || class.name.clone();
        let spec = &class.spec;
        self.takes_runs(origin, node, class, asked.class_version)?;
        let launcher = self.launcher(origin, node, asked)?;
        if !spec.launchers.iter().any(|rule| launcher.matches(rule)) {
            return Err(Refusal::Launcher {
                class: name(),
                launcher: launcher.text(),
            });
        }
        if spec.isolation == Isolation::Process && asked.isolation == Isolation::None {
            return Err(Refusal::Isolation(name()));
        }
        let own = spec.user != RunUser::Caller || asked.uid == launcher.uid;
        if !own || !spec.user.allows(asked.uid) {
            return Err(Refusal::User {
                class: name(),
                uid: asked.uid,
            });
        }
        Ok(launcher.text())
    }

    /// Who asks, as far as we believe it: a run by its own id alone, and ids only that the agent may serve.
    fn launcher(&self, origin: &Origin, node: &SpiffeId, asked: &Admission) -> Result<Asking, Refusal> {
        if let Some(parent) = asked.parent {
            let live = self.index.run(&parent);
            let live = live.filter(|live| live.run.node == *node && live.run.expires_at > origin.at);
            let live = live.ok_or(Refusal::Parent(parent))?;
            return Ok(Asking {
                uid: live.run.uid,
                local: None,
                id: spiffe_id(&live.run).ok(),
            });
        }
        let launcher = &asked.launcher;
        if let Some(id) = &launcher.spiffe_id
            && !self.index.may_hold(node, id, origin.at)
        {
            return Err(Refusal::LauncherId(id.clone()));
        }
        Ok(Asking {
            uid: launcher.uid,
            local: Some(launcher.clone()),
            id: launcher.spiffe_id.clone(),
        })
    }

    /// The run in a place that looks free.
    fn place(
        &self,
        origin: &Origin,
        node: &SpiffeId,
        class: &Class,
        asked: &Admission,
        launcher: String,
    ) -> Result<Run, Refusal> {
        let run = Run {
            launcher,
            parent: asked.parent,
            task: asked.task.clone(),
            labels: asked.labels.clone(),
            uid: asked.uid,
            isolation: in_force(class, asked),
            measured_sha256: asked.measured_sha256.clone(),
            selectors: asked.selectors.clone(),
            ..self.nobodys(origin, node, class)?
        };
        Ok(run)
    }

    /// A run in a place that looks free, of which is not said yet who launches it for what.
    pub(super) fn nobodys(&self, origin: &Origin, node: &SpiffeId, class: &Class) -> Result<Run, Refusal> {
        let max_runs = class.spec.max_runs;
        let random = Uuid::new_v4().as_u128();
        let free = self.index.free_places(&class.name, max_runs);
        let live = self.index.live_runs(&class.name);
        // Of several that ask at once, each tries another place.
        let chosen = usize::try_from(random % u128::try_from(free.len().max(1)).unwrap_or(1)).unwrap_or(0);
        let room = usize::try_from(max_runs).is_ok_and(|max_runs| live < max_runs);
        let place = free.get(chosen).copied().filter(|_| room);
        let place = place.ok_or_else(|| Refusal::MaxRuns {
            class: class.name.clone(),
            max_runs,
        })?;
        let milliseconds = origin.at.unix_timestamp_nanos() / 1_000_000;
        let admitted_at = whole(origin.at);
        Ok(Run {
            id: RunId::made(u64::try_from(milliseconds).unwrap_or(0), Uuid::new_v4().as_u128()),
            class: class.name.clone(),
            class_id: class.id.clone(),
            class_version: class.version,
            place,
            node: node.clone(),
            launcher: String::new(),
            parent: None,
            task: None,
            labels: Labels::default(),
            uid: 0,
            isolation: class.spec.isolation,
            measured_sha256: None,
            selectors: Vec::new(),
            svids: class.spec.svids.clone(),
            admitted_at,
            expires_at: admitted_at + longest_life(class),
            lease: None,
            started: None,
            ended: None,
        })
    }
}

/// The longest life of a run of a class.
pub(super) fn longest_life(class: &Class) -> std::time::Duration {
    std::time::Duration::from_secs(class.spec.max_ttl_seconds.into())
}

/// What keeps the children of an admitted run from its memory.
pub(super) fn in_force(class: &Class, asked: &Admission) -> Isolation {
    match class.spec.isolation {
        Isolation::None => Isolation::None,
        _ => asked.isolation,
    }
}

/// Who asks.
struct Asking {
    uid: u32,
    /// Its user and groups; a run's do not count.
    local: Option<Launcher>,
    id: Option<SpiffeId>,
}

impl Asking {
    fn matches(&self, rule: &LauncherRule) -> bool {
        let local = self.local.as_ref();
        match rule {
            LauncherRule::Uid(uid) => local.is_some_and(|local| local.uid == *uid),
            LauncherRule::Gid(gid) => local.is_some_and(|local| local.gids.contains(gid)),
            LauncherRule::User(name) => local.is_some_and(|local| local.user.as_deref() == Some(&**name)),
            LauncherRule::Id(id) => self.id.as_ref() == Some(id),
            LauncherRule::Below(above) => {
                let below = |id: &SpiffeId| id != above && id.is_at_or_below(above);
                self.id.as_ref().is_some_and(below)
            }
        }
    }

    fn text(&self) -> String {
        match (&self.id, &self.local) {
            (Some(id), None) => id.to_string(),
            (Some(id), Some(local)) => format!("{id} (uid:{})", local.uid),
            (None, _) => format!("uid:{}", self.uid),
        }
    }
}

/// A new run in its place; nobody else may have changed its class or taken the place.
pub(super) fn new_run(class: &Versioned<Class>, run: &Run) -> Commit {
    Commit::default()
        .expect(Expect::At(Key::Class(run.class.clone()), class.revision))
        .expect(Expect::Absent(Key::Run(run.id)))
        .expect(Expect::Absent(Key::RunPlace(run.class.clone(), run.place)))
        .put(Record::RunPlace(run.class.clone(), run.place, run.id))
        .put(Record::Run(run.clone()))
        .change(ChangeKind::Run(run.id))
}

/// The SPIFFE ID of a run.
pub(super) fn spiffe_id(run: &Run) -> Result<SpiffeId, RunsError> {
    let identity = RunIdentity {
        class: run.class_id.clone(),
        run: run.id,
        child: None,
    };
    let id = identity.spiffe_id();
    id.map_err(|error| vouchsafe_identity::run::RunError::from(error).into())
}
