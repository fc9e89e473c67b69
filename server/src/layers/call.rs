//! What is known of one call while it goes through the stack; handlers find it in the request.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use time::OffsetDateTime;
use tonic::{Code, Status};
use uuid::Uuid;
use vouchsafe_audit::{Draft, Facts, Outcome};
use vouchsafe_identity::SpiffeId;

use crate::caller::{Caller, Peer, Scope};
use crate::usecases::Origin;

/// Longest value of a fact in a record, in bytes.
const MAX_FACT_BYTES: usize = 64 * 1024;

/// One call.
#[derive(Debug)]
pub struct Call {
    /// Unique; the caller gets it as `x-request-id`.
    pub request_id: String,
    /// The caller's W3C trace context, if it sent a valid one.
    pub traceparent: Option<String>,
    /// When it came, by the server's clock.
    pub at: OffsetDateTime,
    /// The method as the table spells it, or what the caller asked for.
    pub method: Cow<'static, str>,
    /// The other end of the connection.
    pub peer: Arc<Peer>,
    caller: OnceLock<Caller>,
    facts: Mutex<Facts>,
}

impl Call {
    pub(super) fn new(
        method: Cow<'static, str>,
        peer: Arc<Peer>,
        traceparent: Option<String>,
        at: OffsetDateTime,
    ) -> Self {
        Self {
            request_id: Uuid::now_v7().to_string(),
            traceparent,
            at,
            method,
            peer,
            caller: OnceLock::new(),
            facts: Mutex::default(),
        }
    }

    /// The call of a request.
    ///
    /// # Errors
    /// A status when the request did not come through the stack.
    pub fn of(extensions: &http::Extensions) -> Result<Arc<Self>, Box<Status>> {
        let call = extensions.get::<Arc<Self>>().map(Arc::clone);
        call.ok_or_else(|| {
            Box::new(Status::internal(
                "the call did not come through the server's layers",
            ))
        })
    }

    pub(super) fn admit(&self, caller: Caller) {
        // Only the authorize layer calls this, once a call.
        let _already = self.caller.set(caller);
    }

    /// The caller, once it was let through.
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.get()
    }

    /// By which right the call was let through.
    pub fn scope(&self) -> Scope {
        self.caller.get().map_or(Scope::None, |caller| caller.scope)
    }

    /// The agent that calls.
    ///
    /// # Errors
    /// A status when the caller was not let through as an agent.
    pub fn agent(&self) -> Result<&SpiffeId, Box<Status>> {
        let agent = self.caller.get().and_then(|caller| caller.agent.as_ref());
        let denied = || Box::new(Status::permission_denied("the caller is not an agent"));
        agent.map(|node| &node.value.id).ok_or_else(denied)
    }

    /// Notes a fact for the call's record.
    pub fn fact(&self, name: &'static str, value: impl Into<String>) {
        let mut value: String = value.into();
        if value.len() > MAX_FACT_BYTES {
            value.truncate(value.floor_char_boundary(MAX_FACT_BYTES));
            value.push('…');
        }
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.insert(name.into(), value);
    }

    /// The call as the origin of changes.
    pub fn origin(&self) -> Origin {
        Origin {
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
            principal: self.peer.principal(),
            scope: self.scope().name(),
            at: self.at,
        }
    }

    pub(super) fn draft(&self, code: Code, reason: Option<String>) -> Draft {
        Draft {
            at: self.at,
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
            principal: self.peer.principal(),
            scope: self.scope().name().into(),
            action: self.method.clone(),
            outcome: outcome(code),
            code: Some(format!("{code:?}").into()),
            reason,
            facts: std::mem::take(&mut *self.facts.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// Whether a code stands for done, for refused or for failed.
pub(super) fn outcome(code: Code) -> Outcome {
    match code {
        Code::Ok => Outcome::Done,
        Code::Unknown
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::DeadlineExceeded
        | Code::Aborted => Outcome::Failed,
        _ => Outcome::Refused,
    }
}

/// A `traceparent` that keeps to W3C Trace Context §3.2; others are as if they were not there.
pub(super) fn traceparent(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex =
        |part: &str, len| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let nonzero = |part: &str| part.bytes().any(|b| b != b'0');
    let good = version == "00"
        && parts.next().is_none()
        && hex(trace, 32)
        && nonzero(trace)
        && hex(parent, 16)
        && nonzero(parent)
        && hex(flags, 2);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_is_kept() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(good).as_deref(), Some(good));
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(traceparent(bad), None, "{bad}");
        }
    }
}
