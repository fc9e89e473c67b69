//! Why the server did not do as asked. What an agent must do about it stands in the status details, not in the text.

use prost::Message;
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::types::PermissionDeniedDetails;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;

/// How the type of the details is named in a `google.protobuf.Any`.
const DETAILS_TYPE: &str = "spire.api.types.PermissionDeniedDetails";

/// The server wants nothing more of this agent as it is: it must forget its SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{explanation} ({message})")]
pub struct Refusal {
    /// As the server said it.
    pub reason: Reason,
    /// What that means.
    explanation: &'static str,
    /// The server's text.
    pub message: String,
}

/// Why a call to the server failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The server refuses this agent.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server cannot be reached, or cannot answer now: the same may work later.
    #[error("the server is not available: {0}")]
    Unavailable(String),
    /// The server does not do this, now or later.
    #[error("the server answered {code:?}: {message}")]
    Rejected {
        /// The gRPC status code.
        code: Code,
        /// The server's text.
        message: String,
    },
    /// The answer breaks the protocol.
    #[error("the server's answer cannot be used: {0}")]
    Nonsense(String),
    /// Something on this side failed, such as making a key.
    #[error("{0}")]
    Local(String),
}

impl UpstreamError {
    /// Whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// `google.rpc.Status`, as it stands in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

impl From<Status> for UpstreamError {
    fn from(status: Status) -> Self {
        if let Some(refusal) = refusal(&status) {
            return Self::Refused(refusal);
        }
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal => Self::Unavailable(in_full(&status)),
            code => Self::Rejected {
                code,
                message: status.message().to_owned(),
            },
        }
    }
}

fn refusal(status: &Status) -> Option<Refusal> {
    if status.code() != Code::PermissionDenied {
        return None;
    }
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let ours = details
        .iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(DETAILS_TYPE))?;
    let reason = PermissionDeniedDetails::decode(ours.value.as_slice())
        .ok()?
        .reason();
    let explanation = match reason {
        Reason::AgentExpired => "the server says that the SVID of this agent has expired",
        Reason::AgentNotAttested => "the server does not know this agent: an operator evicted it",
        Reason::AgentNotActive => "the SVID of this agent was replaced by a newer one",
        Reason::AgentBanned => "an operator banned this agent",
        Reason::AgentMustReattest => "the server wants this agent to attest again",
        Reason::Unknown => return None,
    };
    Some(Refusal {
        reason,
        explanation,
        message: status.message().to_owned(),
    })
}

/// A status with its causes: a connection that failed says why only there.
fn in_full(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(reason: Reason, type_url: &str) -> Status {
        let details = PermissionDeniedDetails {
            reason: reason.into(),
        };
        let status = RpcStatus {
            code: Code::PermissionDenied.into(),
            message: "no".to_owned(),
            details: vec![prost_types::Any {
                type_url: type_url.to_owned(),
                value: details.encode_to_vec(),
            }],
        };
        Status::with_details(Code::PermissionDenied, "no", status.encode_to_vec().into())
    }

    #[test]
    fn the_details_decide_and_not_the_text() {
        let url = format!("type.googleapis.com/{DETAILS_TYPE}");
        for reason in [
            Reason::AgentExpired,
            Reason::AgentNotAttested,
            Reason::AgentNotActive,
            Reason::AgentBanned,
            Reason::AgentMustReattest,
        ] {
            let UpstreamError::Refused(refusal) = UpstreamError::from(denied(reason, &url)) else {
                panic!("{reason:?} must be a refusal");
            };
            assert_eq!(refusal.reason, reason);
        }
        let plain = Status::permission_denied("agent is banned");
        assert!(matches!(
            UpstreamError::from(plain),
            UpstreamError::Rejected { .. }
        ));
        let foreign = denied(Reason::AgentBanned, "type.googleapis.com/other");
        assert!(matches!(
            UpstreamError::from(foreign),
            UpstreamError::Rejected { .. }
        ));
    }

    #[test]
    fn details_that_cannot_be_read_are_no_refusal() {
        let status = Status::with_details(Code::PermissionDenied, "no", vec![0xff, 0xff].into());
        assert!(matches!(
            UpstreamError::from(status),
            UpstreamError::Rejected { .. }
        ));
    }

    #[test]
    fn what_may_pass_is_temporary() {
        assert!(UpstreamError::from(Status::unavailable("away")).is_temporary());
        assert!(!UpstreamError::from(Status::invalid_argument("no")).is_temporary());
    }
}
