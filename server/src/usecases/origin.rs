//! The call that stands behind a change.

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_audit::{Draft, Outcome, Principal};

/// Who asked for a change, in which call and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Unique for each call.
    pub request_id: String,
    /// The caller's W3C trace context, if it sent a valid one.
    pub traceparent: Option<String>,
    /// Who asked.
    pub principal: Principal,
    /// By which right.
    pub scope: &'static str,
    /// When, by the server's clock.
    pub at: OffsetDateTime,
}

impl Origin {
    /// A part of the server itself that acts by its own schedule.
    pub fn system(component: &str, at: OffsetDateTime) -> Self {
        Self {
            request_id: Uuid::now_v7().to_string(),
            traceparent: None,
            principal: Principal::System {
                component: component.to_owned(),
            },
            scope: "local",
            at,
        }
    }

    /// The audit record of a change that was made.
    pub fn change<const N: usize>(&self, action: &'static str, facts: [(&'static str, String); N]) -> Draft {
        Draft {
            at: self.at,
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
            principal: self.principal.clone(),
            scope: self.scope.into(),
            action: action.into(),
            outcome: Outcome::Done,
            code: None,
            reason: None,
            facts: facts
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
        }
    }
}
