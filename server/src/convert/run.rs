//! Runs as messages.

use time::OffsetDateTime;
use vouchsafe_identity::{Labels, RunId, RunIdentity, Selector, Sha256, SpiffeId, TaskId};
use vouchsafe_proto::vouchsafe::run::v1 as proto;
use vouchsafe_store::Run;
use vouchsafe_store::run::{EndReason, Ended};

use super::ConvertError;
use super::class;
use crate::index::{Revoked, RunFilter};
use crate::usecases::runs::{Admission, Launcher, LeasedStart};

/// Most groups of a launcher: the kernel's own limit.
const MAX_GIDS: usize = 65_536;
/// Most selectors of a run: of its files, its program and those above its launcher.
const MAX_SELECTORS: usize = 320;
const SELECTOR_TYPES: [&str; 3] = ["ai", "process", "unix"];

/// The id of a run.
pub fn run_id(text: &str) -> Result<RunId, ConvertError> {
    if text.is_empty() {
        return Err(ConvertError::Missing("run_id"));
    }
    Ok(RunId::new(text)?)
}

/// A revocation.
pub fn revocation(revoked: &Revoked) -> proto::Revocation {
    let Revoked {
        revocation,
        spiffe_id,
    } = revoked;
    proto::Revocation {
        run_id: revocation.run.to_string(),
        spiffe_id: spiffe_id.clone(),
        revoked_at: revocation.at.unix_timestamp(),
        until: revocation.until.unix_timestamp(),
        x509_serials: revocation.x509_serials.clone(),
        jwt_ids: revocation.jwt_ids.clone(),
    }
}

/// What an agent asks to be admitted.
pub fn admission(message: proto::AdmitRunRequest) -> Result<Admission, ConvertError> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let launcher = message.launcher.ok_or(ConvertError::Missing("launcher"))?;
    if launcher.gids.len() > MAX_GIDS {
        return Err(ConvertError::Range {
            field: "launcher.gids",
            value: i64::try_from(launcher.gids.len()).unwrap_or(i64::MAX),
        });
    }
    let malformed = |source| ConvertError::SpiffeId {
        field: "launcher.spiffe_id",
        source,
    };
    let id = given(&launcher.spiffe_id).map(|id| SpiffeId::new(&id).map_err(malformed));
    Ok(Admission {
        class: class::name(&message.class)?,
        class_version: message.class_version,
        launcher: Launcher {
            uid: launcher.uid,
            gids: launcher.gids,
            user: given(&launcher.user),
            spiffe_id: id.transpose()?,
        },
        parent: given(&message.parent_run_id)
            .map(|id| RunId::new(&id))
            .transpose()?,
        task: given(&message.task).map(|task| TaskId::new(&task)).transpose()?,
        labels: Labels::new(message.labels)?,
        uid: message.uid,
        isolation: class::isolation(message.isolation)?,
        measured_sha256: given(&message.measured_sha256)
            .map(|sha256| Sha256::new(&sha256))
            .transpose()?,
        selectors: selectors(&message.selectors)?,
    })
}

/// What was measured of a run.
fn selectors(texts: &[String]) -> Result<Vec<Selector>, ConvertError> {
    if texts.len() > MAX_SELECTORS {
        return Err(ConvertError::Range {
            field: "selectors",
            value: i64::try_from(texts.len()).unwrap_or(i64::MAX),
        });
    }
    let known = |selector: &Selector| SELECTOR_TYPES.contains(&selector.kind());
    texts
        .iter()
        .map(|text| match text.parse::<Selector>() {
            Ok(selector) if known(&selector) => Ok(selector),
            Ok(selector) => Err(ConvertError::SelectorType(selector.kind().to_owned())),
            Err(error) => Err(error.into()),
        })
        .collect()
}

/// How a run was launched by a lease.
pub fn leased_start(message: proto::LeasedStart) -> Result<LeasedStart, ConvertError> {
    let out_of_range = |_| ConvertError::Range {
        field: "leased.started_at",
        value: message.started_at,
    };
    Ok(LeasedStart {
        at: OffsetDateTime::from_unix_timestamp(message.started_at).map_err(out_of_range)?,
        admission: admission(
            message
                .admission
                .ok_or(ConvertError::Missing("leased.admission"))?,
        )?,
    })
}

/// How a run ended, as its agent says.
pub fn outcome(message: proto::EndRunRequest) -> Result<EndReason, ConvertError> {
    use proto::end_run_request::Outcome;
    Ok(match message.outcome {
        None => return Err(ConvertError::Missing("outcome")),
        Some(Outcome::Exited(code)) => EndReason::Exited(code),
        Some(Outcome::Signalled(signal)) => EndReason::Signalled(signal),
        Some(Outcome::NeverStarted(_)) => EndReason::NeverStarted,
    })
}

/// Which runs are wanted.
pub fn filter(message: &proto::ListRunsRequest) -> Result<RunFilter, ConvertError> {
    let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned());
    let malformed = |source| ConvertError::SpiffeId {
        field: "node",
        source,
    };
    Ok(RunFilter {
        class: given(&message.class).map(|text| class::name(&text)).transpose()?,
        node: given(&message.node)
            .map(|text| SpiffeId::new(&text).map_err(malformed))
            .transpose()?,
        task: given(&message.task).map(|task| TaskId::new(&task)).transpose()?,
    })
}

/// The states that are wanted; empty: all.
pub fn states(message: &proto::ListRunsRequest) -> Result<Vec<proto::RunState>, ConvertError> {
    let state = |value: &i32| match proto::RunState::try_from(*value) {
        Ok(proto::RunState::Unspecified) | Err(_) => Err(ConvertError::Unknown {
            field: "states",
            value: *value,
        }),
        Ok(state) => Ok(state),
    };
    message.states.iter().map(state).collect()
}

/// In which state a run is.
pub fn state(run: &Run) -> proto::RunState {
    match (&run.ended, &run.started) {
        (Some(_), _) => proto::RunState::Ended,
        (None, Some(_)) => proto::RunState::Running,
        (None, None) if run.lease.is_some() => proto::RunState::Leased,
        (None, None) => proto::RunState::Admitted,
    }
}

/// A run as a message has it, with what is counted while it lives.
pub fn message(run: &Run, (issued, last_svid_at): (u64, i64)) -> proto::Run {
    let identity = RunIdentity {
        class: run.class_id.clone(),
        run: run.id,
        child: None,
    };
    let ended = run.ended.as_ref();
    proto::Run {
        run_id: run.id.to_string(),
        spiffe_id: identity.spiffe_id().map(String::from).unwrap_or_default(),
        class: run.class.to_string(),
        class_id: run.class_id.to_string(),
        class_version: run.class_version,
        node: run.node.to_string(),
        launcher: run.launcher.clone(),
        parent_run_id: run.parent.map(String::from).unwrap_or_default(),
        task: run.task.as_ref().map(ToString::to_string).unwrap_or_default(),
        labels: run.labels.get().clone(),
        uid: run.uid,
        isolation: class::isolation_message(run.isolation),
        measured_sha256: run
            .measured_sha256
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        selectors: run.selectors.iter().map(ToString::to_string).collect(),
        state: state(run).into(),
        admitted_at: run.admitted_at.unix_timestamp(),
        expires_at: run.expires_at.unix_timestamp(),
        started_at: run.started.map_or(0, |started| started.at.unix_timestamp()),
        pid: run.started.map_or(0, |started| started.pid),
        end: ended.map(end_message),
        svids_issued: ended.map_or(issued, |ended| ended.svids_issued),
        last_svid_at,
    }
}

fn end_message(ended: &Ended) -> proto::RunEnd {
    use proto::run_end::{Expired, Killed, Lost, NeverStarted, Reason};
    let reason = match &ended.reason {
        EndReason::Exited(code) => Some(Reason::Exited(*code)),
        EndReason::Signalled(signal) => Some(Reason::Signalled(*signal)),
        EndReason::Killed(by) => Some(Reason::Killed(Killed { by: by.clone() })),
        EndReason::Expired => Some(Reason::Expired(Expired {})),
        EndReason::NeverStarted => Some(Reason::NeverStarted(NeverStarted {})),
        EndReason::Lost => Some(Reason::Lost(Lost {})),
        _ => None,
    };
    proto::RunEnd {
        at: ended.at.unix_timestamp(),
        reason,
        svids_end_at: ended.svids_end_at.unix_timestamp(),
    }
}
