//! The one place where errors become gRPC status codes.
//!
//! The text tells callers what they can do; what went wrong inside goes to the log only. Agents act on
//! `PermissionDeniedDetails`, never on the text.

use std::time::Duration;

use prost::Message;
use prost_types::Any;
use tonic::{Code, Status};
use vouchsafe_attestors::NodeAttestError;
use vouchsafe_ca::{CaError, StepError};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::run::v1::AdmissionRefused;
use vouchsafe_proto::vouchsafe::run::v1::admission_refused::Reason as AdmissionReason;
use vouchsafe_store::StoreError;

use crate::convert::ConvertError;
use crate::usecases::classes::ClassError;
use crate::usecases::issuing::IssuingError;
use crate::usecases::nodes::{AgentRefusal, NodeError};
use crate::usecases::registry::RegistryError;
use crate::usecases::runs::{Refusal, RunsError};
use crate::usecases::tokens::TokenError;

/// Type of [`types::PermissionDeniedDetails`] within `google.protobuf.Any`.
const DETAILS_TYPE: &str = "type.googleapis.com/spire.api.types.PermissionDeniedDetails";

/// Type of [`AdmissionRefused`] within `google.protobuf.Any`.
const ADMISSION_REFUSED_TYPE: &str = "type.googleapis.com/vouchsafe.run.v1.AdmissionRefused";

/// Type of [`RetryInfo`] within `google.protobuf.Any`.
const RETRY_INFO_TYPE: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// `google.rpc.RetryInfo`: how long a caller should wait before it tries again.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// `google.rpc.Status`, which carries details in the header `grpc-status-details-bin`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// An error and all that stands behind it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}

/// The status, with how long the caller should wait before it tries again.
pub fn try_again(status: Status, delay: Duration) -> Status {
    let retry_delay = prost_types::Duration::try_from(delay).ok();
    with_detail(&status, RETRY_INFO_TYPE, &RetryInfo { retry_delay })
}

fn with_detail(status: &Status, type_url: &str, detail: &impl Message) -> Status {
    let rpc = RpcStatus {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: vec![Any {
            type_url: type_url.to_owned(),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(status.code(), status.message(), rpc.encode_to_vec().into())
}

/// Errors that have a place among the status codes.
pub trait ToStatus {
    /// The code and the text for the caller.
    fn to_status(&self) -> Status;

    /// The outcome of one item of a batch.
    fn to_item(&self) -> types::Status {
        let status = self.to_status();
        types::Status {
            code: status.code().into(),
            message: status.message().to_owned(),
        }
    }
}

/// The outcome of an item that was done.
pub fn item_ok() -> types::Status {
    types::Status {
        code: Code::Ok.into(),
        message: "OK".to_owned(),
    }
}

fn bad_request(error: &dyn std::error::Error) -> Status {
    Status::invalid_argument(chain(error))
}

/// For what went wrong inside: the caller learns that it did, the log learns what.
fn internal(code: Code, text: &str, error: &dyn std::error::Error) -> Status {
    tracing::error!(what = text, error = chain(error), "a call could not be answered");
    Status::new(code, format!("{text}; see the server's log"))
}

impl ToStatus for ConvertError {
    fn to_status(&self) -> Status {
        bad_request(self)
    }
}

impl ToStatus for StoreError {
    fn to_status(&self) -> Status {
        // The path stays in the log: not every caller is an operator.
        let (code, text) = match self {
            Self::Full(_) => (
                Code::Unavailable,
                "the disk of the server's store is full: free some space, then try again",
            ),
            Self::ReadOnly(_) => (
                Code::Unavailable,
                "the disk of the server's store is read-only: mount it for writing, then try again",
            ),
            Self::Closed(_) => (
                Code::Unavailable,
                "the store takes no writes after one that failed",
            ),
            Self::BackupUnderWay | Self::BackupOvertaken { .. } => {
                return Status::unavailable(self.to_string());
            }
            Self::Corrupt(_) => (Code::DataLoss, "the server's store is damaged"),
            Self::Locked { .. } => (Code::Unavailable, "the store failed"),
            _ => (Code::Internal, "the store failed"),
        };
        internal(code, text, self)
    }
}

impl ToStatus for CaError {
    fn to_status(&self) -> Status {
        match self {
            Self::Request(_) => bad_request(self),
            Self::NoActiveAuthority(_) => internal(Code::Unavailable, "no authority is active", self),
            Self::Tainted { .. } => {
                tracing::error!(error = chain(self), "a call could not be answered");
                Status::unavailable(self.to_string())
            }
            Self::Store(e) => e.to_status(),
            _ => internal(Code::Internal, "the authority failed", self),
        }
    }
}

impl ToStatus for StepError {
    fn to_status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Starting => Status::unavailable(text),
            Self::NotPrepared { .. } | Self::AlreadyTainted(_) | Self::Untainted(_) | Self::Full(_) => {
                Status::failed_precondition(text)
            }
            Self::Ca(e) => e.to_status(),
            _ => Status::invalid_argument(text),
        }
    }
}

impl ToStatus for RegistryError {
    fn to_status(&self) -> Status {
        match self {
            Self::Rule(e) => bad_request(e),
            Self::OfClass(_) => bad_request(self),
            Self::NotFound(_) => Status::not_found(self.to_string()),
            Self::Similar(_) | Self::IdTaken(_) => Status::already_exists(self.to_string()),
            Self::Busy(_) => Status::aborted(self.to_string()),
            Self::Store(e) => e.to_status(),
        }
    }
}

impl ToStatus for ClassError {
    fn to_status(&self) -> Status {
        match self {
            Self::Rule(e) => bad_request(e),
            Self::NotFound(_) => Status::not_found(self.to_string()),
            Self::Exists(_) | Self::IdTaken(_) => Status::already_exists(self.to_string()),
            Self::EntryWithin { .. } | Self::InUse { .. } => Status::failed_precondition(self.to_string()),
            Self::Changed { .. } | Self::Busy(_) => Status::aborted(self.to_string()),
            Self::Store(e) => e.to_status(),
        }
    }
}

impl ToStatus for Refusal {
    fn to_status(&self) -> Status {
        let reason = match self {
            Self::UnknownClass(_) => AdmissionReason::UnknownClass,
            Self::Disabled(_) => AdmissionReason::ClassDisabled,
            Self::Node { .. } => AdmissionReason::NodeNotAllowed,
            Self::Launcher { .. } | Self::LauncherId(_) => AdmissionReason::LauncherNotAllowed,
            Self::MaxRuns { .. } => AdmissionReason::MaxRuns,
            Self::Changed { .. } => AdmissionReason::ClassChanged,
            Self::Isolation(_) => AdmissionReason::Isolation,
            Self::User { .. } => AdmissionReason::User,
            Self::Parent(_) => AdmissionReason::Parent,
        };
        let detail = AdmissionRefused {
            reason: reason.into(),
            detail: self.to_string(),
        };
        let status = match self {
            Self::MaxRuns { .. } => Status::resource_exhausted(self.to_string()),
            Self::Changed { .. } => Status::failed_precondition(self.to_string()),
            _ => Status::permission_denied(self.to_string()),
        };
        with_detail(&status, ADMISSION_REFUSED_TYPE, &detail)
    }
}

impl ToStatus for RunsError {
    fn to_status(&self) -> Status {
        match self {
            Self::Refused(refusal) => refusal.to_status(),
            Self::Malformed(e) => bad_request(e),
            Self::TooMany(_) => bad_request(self),
            Self::NotFound(_) => Status::not_found(self.to_string()),
            Self::Ended { .. } | Self::NotLeased(_) | Self::Leased(_) => {
                Status::failed_precondition(self.to_string())
            }
            Self::Busy(_) | Self::Crowded(_) => Status::aborted(self.to_string()),
            Self::Ca(e) => e.to_status(),
            Self::Store(e) => e.to_status(),
        }
    }
}

impl ToStatus for TokenError {
    fn to_status(&self) -> Status {
        match self {
            Self::Ttl | Self::Text(_) | Self::Alias(_) | Self::OfClass => bad_request(self),
            Self::Exists => Status::already_exists(self.to_string()),
            Self::Store(e) => e.to_status(),
        }
    }
}

impl ToStatus for IssuingError {
    fn to_status(&self) -> Status {
        match self {
            Self::Request(_) | Self::Csr(_) | Self::Identity(_) => bad_request(self),
            Self::NotAuthorized | Self::NoRun(_) => Status::not_found(self.to_string()),
            Self::RunEnded { .. } => Status::failed_precondition(self.to_string()),
            // The agent is about to say it.
            Self::Unheard(_) => Status::unavailable(self.to_string()),
            Self::NoChildren(_) | Self::OfClass { .. } => Status::permission_denied(self.to_string()),
            Self::Ca(e) => e.to_status(),
        }
    }
}

impl ToStatus for AgentRefusal {
    fn to_status(&self) -> Status {
        let reason = match self {
            Self::Expired(_) => Reason::AgentExpired,
            Self::NotAttested(_) => Reason::AgentNotAttested,
            Self::Banned(_) => Reason::AgentBanned,
            Self::NotActive(_) => Reason::AgentNotActive,
            Self::MustReattest(_) => Reason::AgentMustReattest,
        };
        let details = types::PermissionDeniedDetails {
            reason: reason.into(),
        };
        let status = Status::permission_denied(self.to_string());
        with_detail(&status, DETAILS_TYPE, &details)
    }
}

impl ToStatus for NodeError {
    fn to_status(&self) -> Status {
        match self {
            Self::Request(_) | Self::Csr(_) => bad_request(self),
            Self::UnknownAttestor(_) => Status::failed_precondition(self.to_string()),
            Self::Attest(NodeAttestError::Invalid(_)) => Status::invalid_argument(self.to_string()),
            Self::Attest(NodeAttestError::Denied(_))
            | Self::BannedAtAttestation
            | Self::AttestedBefore(_) => Status::permission_denied(self.to_string()),
            Self::Attest(e) => internal(Code::Internal, "failed to attest", e),
            Self::Refused(e) => e.to_status(),
            Self::NotFound(_) => Status::not_found(self.to_string()),
            Self::Busy(_) => Status::aborted(self.to_string()),
            Self::Ca(e) => e.to_status(),
            Self::Alias(e) => e.to_status(),
            Self::Store(e) => e.to_status(),
        }
    }
}
