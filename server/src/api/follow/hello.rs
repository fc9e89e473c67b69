//! The first message of a stream, checked.

use tonic::Status;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, ResumePoint};
use vouchsafe_runtime::set_digest::DIGEST_BYTES;
use vouchsafe_store::Revision;

use crate::usecases::following::Resume;
use crate::usecases::nodes::MAX_VERSION_BYTES;

/// The newest version of the protocol that is spoken here.
const NEWEST_VERSION: u32 = 1;
/// The feature by which agents hear of classes and runs.
pub(super) const RUNS: &str = "runs";
/// Longest name of a log of changes, in bytes.
const MAX_LOG_ID_BYTES: usize = 255;

/// What an agent says at first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The version that is spoken.
    pub version: u32,
    /// Whether classes and runs are told.
    pub runs: bool,
    /// Up to where the agent has followed before.
    pub resume: Option<Resume>,
    /// The agent's release.
    pub agent_version: String,
}

/// Reads the first message.
///
/// # Errors
/// `InvalidArgument` says what is wrong with it.
pub fn read(message: Option<FollowRequest>) -> Result<Hello, Status> {
    let Some(Message::Hello(hello)) = message.and_then(|message| message.message) else {
        return Err(Status::invalid_argument("the first message must carry `hello`"));
    };
    if hello.version == 0 {
        return Err(Status::invalid_argument(
            "`hello.version` is 0: the first one is 1",
        ));
    }
    let agent_version = limited("hello.agent_version", hello.agent_version, MAX_VERSION_BYTES)?;
    Ok(Hello {
        version: hello.version.min(NEWEST_VERSION),
        runs: hello.features.iter().any(|feature| feature == RUNS),
        resume: hello.resume.map(resume).transpose()?,
        agent_version,
    })
}

fn resume(point: ResumePoint) -> Result<Resume, Status> {
    let length = point.digest.len();
    let digest = <[u8; DIGEST_BYTES]>::try_from(point.digest).map_err(|_| {
        let text = format!("`hello.resume.digest` has {length} bytes instead of {DIGEST_BYTES}");
        Status::invalid_argument(text)
    })?;
    Ok(Resume {
        log_id: limited("hello.resume.log_id", point.log_id, MAX_LOG_ID_BYTES)?,
        revision: Revision(point.revision),
        digest,
    })
}

fn limited(field: &'static str, text: String, limit: usize) -> Result<String, Status> {
    if text.len() > limit {
        let text = format!(
            "`{field}` of {} bytes is longer than the limit of {limit} bytes",
            text.len()
        );
        return Err(Status::invalid_argument(text));
    }
    Ok(text)
}
