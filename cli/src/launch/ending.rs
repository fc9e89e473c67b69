//! How a command of ours ends: as usual, as the program of a run did, or refused by the server.

use prost::Message;
use tonic::Status;
use vouchsafe_proto::vouchsafe::run::v1::AdmissionRefused;
use vouchsafe_proto::vouchsafe::run::v1::admission_refused::Reason;

/// How a command ends that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is done.
    Done,
    /// The program of the run has exited with this.
    Exited(u8),
    /// A signal of this number ended the program of the run, or came before there was one.
    Signalled(i32),
}

/// The server did not admit a run.
#[derive(Debug, thiserror::Error)]
#[error("{detail}{}", self.next_step())]
pub(crate) struct NotAdmitted {
    reason: Reason,
    class: String,
    detail: String,
}

impl NotAdmitted {
    /// What a status says of that, if it is about that.
    pub(super) fn of(class: &str, status: &Status) -> Option<Self> {
        let details = RpcStatus::decode(status.details()).ok()?.details;
        let refused = details
            .into_iter()
            .find(|detail| detail.type_url.ends_with("/vouchsafe.run.v1.AdmissionRefused"))?;
        let refused = AdmissionRefused::decode(refused.value.as_slice()).ok()?;
        Some(Self {
            reason: refused.reason(),
            class: class.to_owned(),
            detail: status.message().to_owned(),
        })
    }

    /// Whether the same launch may be admitted later, with nothing changed.
    pub(crate) fn is_temporary(&self) -> bool {
        matches!(self.reason, Reason::MaxRuns | Reason::ClassChanged)
    }

    fn next_step(&self) -> String {
        let class = &self.class;
        match self.reason {
            // It says so itself.
            _ if self.detail.contains("`vouchsafe ") => String::new(),
            Reason::UnknownClass => "; `vouchsafe class list` shows an operator which there are".to_owned(),
            Reason::MaxRuns => format!("; `vouchsafe run list --class {class}` shows an operator which live"),
            Reason::ClassChanged => "; try again".to_owned(),
            Reason::Unspecified | Reason::Parent => String::new(),
            _ => format!("; `vouchsafe class show {class}` tells an operator what it allows"),
        }
    }
}

/// `google.rpc.Status`, as far as it is needed.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn refused(reason: Reason, code: Code, text: &str) -> Status {
        let detail = AdmissionRefused {
            reason: reason.into(),
            detail: text.to_owned(),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/vouchsafe.run.v1.AdmissionRefused".to_owned(),
            value: detail.encode_to_vec(),
        };
        let details = RpcStatus { details: vec![any] }.encode_to_vec();
        Status::with_details(code, text, details.into())
    }

    #[test]
    fn other_statuses_and_details_that_cannot_be_read_say_nothing_of_admission() {
        for status in [
            Status::permission_denied("no"),
            Status::with_details(Code::PermissionDenied, "no", vec![0xff; 9].into()),
            Status::with_details(
                Code::PermissionDenied,
                "no",
                RpcStatus::default().encode_to_vec().into(),
            ),
        ] {
            assert!(NotAdmitted::of("a", &status).is_none(), "{status}");
        }
    }

    #[test]
    fn a_refusal_says_what_comes_next_and_whether_to_try_again() {
        let of = |reason, text| NotAdmitted::of("a", &refused(reason, Code::PermissionDenied, text)).unwrap();
        let full = of(Reason::MaxRuns, "16 live");
        assert!(full.is_temporary());
        assert_eq!(
            full.to_string(),
            "16 live; `vouchsafe run list --class a` shows an operator which live"
        );
        let launcher = of(Reason::LauncherNotAllowed, "uid 7 may not");
        assert!(!launcher.is_temporary());
        assert!(
            launcher.to_string().contains("`vouchsafe class show a`"),
            "{launcher}"
        );
        let says_itself = of(Reason::NodeNotAllowed, "no: `vouchsafe class update a` decides");
        assert_eq!(says_itself.to_string(), "no: `vouchsafe class update a` decides");
    }
}
