//! Who may launch, and the server's word for it; while it is away, that of a lease.

use time::OffsetDateTime;
use vouchsafe_identity::{ClassName, RunId, RunIdentity, SpiffeId};
use vouchsafe_proto::vouchsafe::launch::v1::LaunchRequest;
use vouchsafe_proto::vouchsafe::run::v1 as proto;

use super::{Asker, Intended, Launching, LaunchingError, name};
use crate::runs::findings;
use crate::runs::leases::{self, NoLease};
use crate::runs::run;
use crate::upstream::UpstreamError;

/// A run that was admitted; nothing of it runs yet.
#[derive(Debug)]
pub struct AdmittedRun {
    /// Its number.
    pub run: RunId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Until when it may live.
    pub expires_at: OffsetDateTime,
    pub(super) class: ClassName,
    pub(super) inherit: run::Inherit,
    /// How it is launched by a lease, if it is.
    pub(super) unheard: Option<proto::LeasedStart>,
}

impl Launching {
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
        let isolation = match intended.command.isolation {
            vouchsafe_launch::Isolation::Process => proto::Isolation::Process,
            vouchsafe_launch::Isolation::None => proto::Isolation::None,
        };
        let asked = proto::AdmitRunRequest {
            uid: intended.uid,
            isolation: isolation.into(),
            measured_sha256: findings::hash(&intended.command),
            selectors: intended.selectors.iter().map(ToString::to_string).collect(),
            ..asked(request, class, asker)
        };
        let inherit = class
            .spec
            .as_ref()
            .map(proto::ClassSpec::inherit)
            .unwrap_or_default()
            .into();
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

    /// Whether a class as it is known here names who asks. If not, nothing is looked at for it: the server is asked only to
    /// say so, and to note it.
    ///
    /// # Errors
    /// What the launcher is told.
    pub async fn may_ask(
        &self,
        request: &LaunchRequest,
        class: &proto::Class,
        asker: &Asker,
    ) -> Result<(), LaunchingError> {
        let nothing = proto::ClassSpec::default();
        let spec = class.spec.as_ref().unwrap_or(&nothing);
        let asked = proto::AdmitRunRequest {
            uid: asker.uid,
            isolation: spec.isolation,
            ..asked(request, class, asker)
        };
        if leases::may_launch(spec, &asked) {
            return Ok(());
        }
        let none = NoLease::Launcher(class.name.clone());
        match self.ask(&asked).await {
            Err(error) if error.is_temporary() => {
                let away = error.to_string();
                Err(LaunchingError::NoLease { away, none })
            }
            Err(error) => Err(error.into()),
            Ok(admitted) => Err(LaunchingError::AdmittedUnasked(admitted.run_id)),
        }
    }

    async fn ask(&self, asked: &proto::AdmitRunRequest) -> Result<proto::AdmitRunResponse, UpstreamError> {
        self.reported.wait().await?;
        self.admission.admit(asked.clone()).await
    }
}

/// What the server is asked, but for what is not known before the command has been looked at.
fn asked(request: &LaunchRequest, class: &proto::Class, asker: &Asker) -> proto::AdmitRunRequest {
    let nothing = proto::ClassSpec::default();
    let parent = asker.parent.as_ref().map(|run| run.id.to_string());
    proto::AdmitRunRequest {
        class: class.name.clone(),
        class_version: class.version,
        launcher: Some(launcher(asker, class.spec.as_ref().unwrap_or(&nothing))),
        parent_run_id: parent.unwrap_or_default(),
        task: request.task.clone(),
        labels: request.labels.clone(),
        ..Default::default()
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
pub(in crate::runs) fn covers(rule: &str, id: &SpiffeId) -> bool {
    match rule.strip_suffix("/**") {
        Some(prefix) => id
            .as_str()
            .strip_prefix(prefix)
            .is_some_and(|rest| rest.starts_with('/')),
        None => rule == id.as_str(),
    }
}
