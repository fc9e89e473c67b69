//! What happens to a run, as programs are told it.

use serde::Serialize;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_proto::vouchsafe::launch::v1::{Admitted, Ended, Started};
use vouchsafe_proto::vouchsafe::run::v1::Isolation;

use crate::values;

/// An event, as a line of JSON.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum EventView {
    Admitted {
        run: String,
        spiffe_id: String,
        expires_at: String,
    },
    Started(StartedView),
    Ended {
        run: String,
        exited: Option<i32>,
        signalled: Option<i32>,
        reason: Option<String>,
    },
}

/// What runs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StartedView {
    pub(super) run: String,
    pub(super) spiffe_id: String,
    pid: i32,
    uid: u32,
    isolation: &'static str,
    pub(super) weaker: Vec<String>,
    pub(super) dropped_variables: Vec<String>,
}

impl From<&Admitted> for EventView {
    fn from(admitted: &Admitted) -> Self {
        Self::Admitted {
            run: admitted.run_id.clone(),
            spiffe_id: admitted.spiffe_id.clone(),
            expires_at: values::show_time(admitted.expires_at),
        }
    }
}

impl From<Started> for StartedView {
    fn from(started: Started) -> Self {
        let isolation = match started.isolation() {
            Isolation::None => "none",
            _ => "process",
        };
        Self {
            run: started.run_id,
            spiffe_id: started.spiffe_id,
            pid: started.pid,
            uid: started.uid,
            isolation,
            weaker: started.weaker,
            dropped_variables: started.dropped_variables,
        }
    }
}

impl From<&Ended> for EventView {
    fn from(ended: &Ended) -> Self {
        let (exited, signalled) = match ended.outcome {
            Some(Outcome::Exited(code)) => (Some(code), None),
            Some(Outcome::Signalled(signal)) => (None, Some(signal)),
            _ => (None, None),
        };
        Self::Ended {
            run: ended.run_id.clone(),
            exited,
            signalled,
            reason: (!ended.reason.is_empty()).then(|| ended.reason.clone()),
        }
    }
}
