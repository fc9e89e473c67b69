//! Why the server did not do as asked. What an agent must do about it stands in the status details, not in the text.

use std::time::Duration;

use prost::Message;
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::types::PermissionDeniedDetails;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::run::v1::{AdmissionRefused, admission_refused};

/// How the type of the details is named in a `google.protobuf.Any`.
const DETAILS_TYPE: &str = "spire.api.types.PermissionDeniedDetails";
/// How the reason is named there for which a run is not admitted.
const ADMISSION_TYPE: &str = "vouchsafe.run.v1.AdmissionRefused";
/// How the hint when to come again is named there.
const RETRY_TYPE: &str = "google.rpc.RetryInfo";
/// A server that says to stay away for longer is not obeyed for longer.
const LONGEST_HINT: Duration = Duration::from_secs(300);

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
    /// The server has too much to do and says when to come again.
    #[error("the server is busy: {message}")]
    Busy {
        /// The server's text.
        message: String,
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// The server does not do this, now or later.
    #[error("the server answered {code:?}: {message}")]
    Rejected {
        /// The gRPC status code.
        code: Code,
        /// The server's text.
        message: String,
    },
    /// The server does not admit a run; the status says why, to programs too.
    #[error("the server does not admit the run: {}", status.message())]
    NotAdmitted {
        /// For programs.
        reason: admission_refused::Reason,
        /// As the server sent it.
        status: Box<Status>,
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
        matches!(self, Self::Unavailable(_) | Self::Busy { .. })
    }

    /// How long the server wants to be left alone, if it said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
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

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

impl From<Status> for UpstreamError {
    fn from(status: Status) -> Self {
        if let Some(refusal) = refusal(&status) {
            return Self::Refused(refusal);
        }
        if let Some(refused) = detail::<AdmissionRefused>(&status, ADMISSION_TYPE) {
            let status =
                Status::with_details(status.code(), status.message(), status.details().to_vec().into());
            return Self::NotAdmitted {
                reason: refused.reason(),
                status: Box::new(status),
            };
        }
        if let Some(retry_after) = retry_after(&status) {
            return Self::Busy {
                message: status.message().to_owned(),
                retry_after,
            };
        }
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
            // The authority of the SVID that this connection shows was revoked; another SVID may be on its way.
            | Code::Unauthenticated => Self::Unavailable(in_full(&status)),
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
    let reason = detail::<PermissionDeniedDetails>(status, DETAILS_TYPE)?.reason();
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

/// When to come again, where the server sheds load and says so. Of calls that would fail again it means nothing.
fn retry_after(status: &Status) -> Option<Duration> {
    if !matches!(status.code(), Code::Unavailable | Code::ResourceExhausted) {
        return None;
    }
    let delay = detail::<RetryInfo>(status, RETRY_TYPE)?.retry_delay?;
    Some(Duration::try_from(delay).ok()?.min(LONGEST_HINT))
}

/// The first of a status's details that is of this type.
fn detail<T: Message + Default>(status: &Status, name: &str) -> Option<T> {
    let details = RpcStatus::decode(status.details()).ok()?.details;
    let named = details
        .iter()
        .find(|any| any.type_url.rsplit('/').next() == Some(name))?;
    T::decode(named.value.as_slice()).ok()
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

    fn hinted(code: Code, seconds: i64) -> UpstreamError {
        let delay = prost_types::Duration { seconds, nanos: 0 };
        let info = RetryInfo {
            retry_delay: Some(delay),
        };
        let status = RpcStatus {
            code: code.into(),
            message: "later".to_owned(),
            details: vec![prost_types::Any {
                type_url: format!("type.googleapis.com/{RETRY_TYPE}"),
                value: info.encode_to_vec(),
            }],
        };
        Status::with_details(code, "later", status.encode_to_vec().into()).into()
    }

    #[test]
    fn a_busy_server_is_left_alone_for_as_long_as_it_says_within_reason() {
        let told = hinted(Code::ResourceExhausted, 7);
        assert!(told.is_temporary());
        assert_eq!(told.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(
            hinted(Code::Unavailable, 1_000_000).retry_after(),
            Some(LONGEST_HINT)
        );
        assert_eq!(hinted(Code::Unavailable, -5).retry_after(), None);
        assert_eq!(hinted(Code::InvalidArgument, 7).retry_after(), None);
        assert_eq!(
            UpstreamError::from(Status::unavailable("away")).retry_after(),
            None
        );
    }

    #[test]
    fn what_may_pass_is_temporary() {
        assert!(UpstreamError::from(Status::unavailable("away")).is_temporary());
        assert!(UpstreamError::from(Status::unauthenticated("its authority was revoked")).is_temporary());
        assert!(!UpstreamError::from(Status::invalid_argument("no")).is_temporary());
    }
}
