//! `vouchsafe.sync.v1` as a state machine without IO: each message of the server goes in, what is news and what to
//! answer comes out.
//!
//! The digest counts what the server told, entries that cannot be used included: those are remembered by their version
//! alone. What was learned from each message must be in the [`Knowledge`] that comes with the next.

mod gathering;
mod pending;
mod runs;

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_identity::TrustDomain;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::sync::v1 as api;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Request;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message as Response;
use vouchsafe_runtime::set_digest::{DIGEST_BYTES, ItemDigest, SetDigest};

use crate::entry::{Entry, EntryId, EntryVersion};
use crate::knowledge::{Knowledge, News, Resume};
use crate::sync::protocol::MAX_ENTRIES;
use crate::upstream::{UpstreamError, convert};
use gathering::Gathering;
use pending::Pending;
pub use runs::{class_digest, revocation_digest, run_digest};

/// The newest version of the protocol that is spoken here.
pub const VERSION: u32 = 1;
/// The feature by which classes and runs are heard of.
pub const RUNS: &str = "runs";
/// Most entries and bundles of one page.
pub const MAX_PAGE: usize = 500;

/// Why the stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A version that was not offered.
    #[error("version {0} of the protocol, where {VERSION} is the newest that this agent speaks")]
    Version(u32),
    /// A message of another kind than due.
    #[error("{came} where {due} was due")]
    OutOfTurn {
        /// What came.
        came: &'static str,
        /// What was due.
        due: &'static str,
    },
    /// Changes were announced to an agent that has nothing that could change.
    #[error("changes are announced where this agent has no resume point")]
    NothingToFollow,
    /// A page beyond the whole set.
    #[error("a page after the last one")]
    PageAfterLast,
    /// A page with more than [`MAX_PAGE`] entries and bundles.
    #[error("a page of {0} entries and bundles, more than the limit of {MAX_PAGE}")]
    PageTooLarge(usize),
    /// More entries than the agent takes.
    #[error("more than {MAX_ENTRIES} entries")]
    TooMany,
    /// A resume point in another log than was announced.
    #[error("a resume point in log `{came}`, where `{announced}` was announced")]
    OtherLog {
        /// The log of the resume point.
        came: String,
        /// The log of the stream.
        announced: String,
    },
    /// A resume point before the last one.
    #[error("revision {came} after revision {last}")]
    Backwards {
        /// The revision that came.
        came: u64,
        /// The revision before.
        last: u64,
    },
    /// A digest of another length.
    #[error("a digest of {0} bytes, where {DIGEST_BYTES} are due")]
    DigestLength(usize),
    /// What the server holds for this agent is not what it told, also when it told all.
    #[error("what the server tells differs twice in a row from the digest that it gives")]
    Digest,
    /// The server does not serve the agent's trust domain.
    #[error("no bundle of trust domain `{0}`, which is configured")]
    NoOwnBundle(TrustDomain),
    /// A trust domain that is not one.
    #[error("a bundle that cannot be used: {0}")]
    Bundle(String),
    /// A name of a class, or an id of a run, that is not one.
    #[error("a class or run that cannot be used: {0}")]
    Run(#[from] vouchsafe_identity::run::RunError),
}

/// What came of a message.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    /// To be learned before the next message.
    pub news: Option<News>,
    /// To be sent.
    pub reply: Option<api::FollowRequest>,
    /// Why the stream must end once that is done.
    pub fault: Option<ProtocolError>,
}

/// One stream.
#[derive(Debug)]
pub struct Following {
    trust_domain: TrustDomain,
    state: State,
    /// Where the agent stands, as the server told it; `None` before the first whole set.
    resume: Option<Resume>,
    log_id: Arc<str>,
    /// Whether the server tells of classes and runs.
    runs: bool,
    doubt: Doubt,
}

#[derive(Debug)]
enum State {
    /// The welcome is due.
    Opening,
    /// Pages of a whole set are due.
    Whole(Gathering),
    /// Changes may come.
    Changes(Pending),
}

/// Whether the agent's set is thought to be what the server holds for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// A whole set was asked for, since the digest differed.
    Asked,
    /// It has come.
    Answered,
}

/// An entry as the server told it.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Usable(Arc<Entry>),
    Unusable(EntryVersion),
    Gone,
}

impl Following {
    /// Begins a stream; also gives the first message.
    pub fn begin(known: &Knowledge) -> (Self, api::FollowRequest) {
        let following = Self {
            trust_domain: known.trust_domain.clone(),
            state: State::Opening,
            resume: known.resume.clone(),
            log_id: "".into(),
            runs: false,
            doubt: Doubt::None,
        };
        let resume = known.resume.as_ref().map(|resume| api::ResumePoint {
            log_id: resume.log_id.to_string(),
            revision: resume.revision,
            digest: resume.digest.as_bytes().to_vec(),
        });
        let hello = api::Hello {
            version: VERSION,
            features: vec![RUNS.to_owned()],
            resume,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let message = Some(Request::Hello(hello));
        (following, api::FollowRequest { message })
    }

    /// Whether the server has something to say before the agent can wait for changes.
    pub fn is_catching_up(&self) -> bool {
        !matches!(self.state, State::Changes(_))
    }

    /// Takes in a message. `known` is what was learned of all before it.
    ///
    /// # Errors
    /// [`ProtocolError`] when the server does not keep to the protocol; the stream is over then.
    pub fn hear(&mut self, message: api::FollowResponse, known: &Knowledge) -> Result<Heard, ProtocolError> {
        match message.message {
            Some(Response::Welcome(welcome)) => self.welcome(welcome, known).map(|()| Heard::default()),
            Some(Response::Page(page)) => self.page(page),
            Some(Response::Delta(delta)) => self.delta(delta, known),
            // A kind of message of a later version.
            None if matches!(self.state, State::Opening) => Err(ProtocolError::OutOfTurn {
                came: "an unknown message",
                due: "a welcome",
            }),
            None => Ok(Heard::default()),
        }
    }

    fn welcome(&mut self, welcome: api::Welcome, known: &Knowledge) -> Result<(), ProtocolError> {
        if !matches!(self.state, State::Opening) {
            return Err(ProtocolError::OutOfTurn {
                came: "a second welcome",
                due: "a page or changes",
            });
        }
        if welcome.version == 0 || welcome.version > VERSION {
            return Err(ProtocolError::Version(welcome.version));
        }
        self.log_id = welcome.log_id.as_str().into();
        self.runs = welcome.features.iter().any(|feature| feature == RUNS);
        let revision = self.resume.as_ref().map(|resume| resume.revision);
        let reason = whole_for(welcome.full_reason);
        tracing::info!(revision, reason, "following the server's changes");
        if welcome.full_reason != NO_REASON {
            self.state = State::Whole(Gathering::new(welcome.full_reason));
            return Ok(());
        }
        let resume = self.resume.as_ref().ok_or(ProtocolError::NothingToFollow)?;
        if resume.log_id != self.log_id {
            return Err(self.other_log(&resume.log_id));
        }
        let mut pending = Pending::default();
        if !self.runs {
            // The server's digest counts none of them, and nobody says when they end.
            pending.no_runs(known);
        }
        self.state = State::Changes(pending);
        Ok(())
    }

    fn page(&mut self, page: api::Page) -> Result<Heard, ProtocolError> {
        let gathering = match &mut self.state {
            State::Opening => {
                return Err(ProtocolError::OutOfTurn {
                    came: "a page",
                    due: "a welcome",
                });
            }
            // Each reason begins a set anew; the one in the welcome needs no repetition.
            State::Whole(gathering) if page.full_reason == NO_REASON => gathering,
            State::Changes(_) if page.full_reason == NO_REASON => return Err(ProtocolError::PageAfterLast),
            State::Whole(_) | State::Changes(_) => {
                self.state = State::Whole(Gathering::new(page.full_reason));
                return self.page(api::Page {
                    full_reason: NO_REASON,
                    ..page
                });
            }
        };
        let of_runs = page.classes.len() + page.runs.len() + page.revocations.len();
        let count = page.entries.len() + page.bundles.len() + of_runs;
        if count > MAX_PAGE {
            return Err(ProtocolError::PageTooLarge(count));
        }
        for entry in page.entries {
            let (id, told) = told(entry, &self.trust_domain);
            gathering.entry(id, told)?;
        }
        for bundle in page.bundles {
            gathering.bundle(bundle_of(bundle)?);
        }
        if self.runs {
            gathering.runs(page.classes, page.runs, page.revocations)?;
        }
        let Some(point) = page.resume else {
            return Ok(Heard::default());
        };
        let gathered = std::mem::take(gathering);
        let answers_doubt = gathered.reason == i32::from(api::FullReason::Digest);
        if !gathered.has_bundle_of(&self.trust_domain) {
            return Err(ProtocolError::NoOwnBundle(self.trust_domain.clone()));
        }
        let (mut whole, digest, unusable) = gathered.finish();
        if self.doubt == Doubt::Asked && answers_doubt {
            self.doubt = Doubt::Answered;
        }
        self.state = State::Changes(Pending::default());
        // The whole set counts by itself: where the server stood before says nothing.
        self.resume = None;
        let (reply, fault) = self.stand_at(point, digest, unusable)?;
        whole.resume = self.resume.clone().filter(|_| reply.is_none() && fault.is_none());
        Ok(Heard {
            news: Some(News::Whole(whole)),
            reply,
            fault,
        })
    }

    fn delta(&mut self, delta: api::Delta, known: &Knowledge) -> Result<Heard, ProtocolError> {
        let out_of_turn = |due| ProtocolError::OutOfTurn { came: "changes", due };
        let pending = match &mut self.state {
            State::Opening => return Err(out_of_turn("a welcome")),
            State::Whole(_) => return Err(out_of_turn("a page")),
            State::Changes(pending) => pending,
        };
        for change in delta.changes {
            pending.add(change, known, self.runs)?;
        }
        let Some(point) = delta.resume else {
            return Ok(Heard::default());
        };
        let pending = std::mem::take(pending);
        let (digest, unusable) = match &self.resume {
            Some(resume) => (resume.digest, Arc::clone(&resume.unusable)),
            None => return Err(ProtocolError::NothingToFollow),
        };
        let (mut changes, digest, unusable) = pending.finish(known, digest, unusable);
        let (reply, fault) = self.stand_at(point, digest, unusable)?;
        let agrees = reply.is_none() && fault.is_none() && self.doubt != Doubt::Asked;
        changes.resume = self.resume.clone().filter(|_| agrees);
        Ok(Heard {
            news: Some(News::Changes(changes)),
            reply,
            fault,
        })
    }

    /// The agent has come to a resume point with a set of that digest. What to send if it is another one than the
    /// server's, and why to end the stream if that was so before.
    fn stand_at(
        &mut self,
        point: api::ResumePoint,
        digest: SetDigest,
        unusable: Arc<BTreeMap<EntryId, EntryVersion>>,
    ) -> Result<(Option<api::FollowRequest>, Option<ProtocolError>), ProtocolError> {
        if *point.log_id != *self.log_id {
            return Err(self.other_log(&point.log_id));
        }
        let last = self.resume.as_ref().map_or(0, |resume| resume.revision);
        if point.revision < last {
            return Err(ProtocolError::Backwards {
                came: point.revision,
                last,
            });
        }
        if point.digest.len() != DIGEST_BYTES {
            return Err(ProtocolError::DigestLength(point.digest.len()));
        }
        self.resume = Some(Resume {
            log_id: Arc::clone(&self.log_id),
            revision: point.revision,
            digest,
            unusable,
        });
        match (point.digest == digest.as_bytes(), self.doubt) {
            // What was on its way when the whole set was asked for proves nothing.
            (_, Doubt::Asked) => Ok((None, None)),
            (true, Doubt::None | Doubt::Answered) => {
                self.doubt = Doubt::None;
                Ok((None, None))
            }
            (false, Doubt::None) => {
                self.doubt = Doubt::Asked;
                let message = Some(Request::Resync(api::Resync {}));
                Ok((Some(api::FollowRequest { message }), None))
            }
            (false, Doubt::Answered) => Ok((None, Some(ProtocolError::Digest))),
        }
    }

    fn other_log(&self, came: &str) -> ProtocolError {
        ProtocolError::OtherLog {
            came: came.to_owned(),
            announced: self.log_id.to_string(),
        }
    }
}

/// `FULL_REASON_UNSPECIFIED`: reasons are compared by number, so that those of later versions count as reasons too.
const NO_REASON: i32 = 0;

/// Why the whole set comes, for the log; `None`: only changes do.
fn whole_for(reason: i32) -> Option<&'static str> {
    match api::FullReason::try_from(reason) {
        Ok(api::FullReason::Unspecified) => None,
        Ok(api::FullReason::First) => Some("first"),
        Ok(api::FullReason::Pruned) => Some("pruned"),
        Ok(api::FullReason::TooMany) => Some("too many changes"),
        Ok(api::FullReason::Digest) => Some("digest"),
        Ok(api::FullReason::Slow) => Some("slow"),
        Err(_) => Some("unknown"),
    }
}

/// Reads an entry; one that cannot be used is told of in the log.
fn told(entry: types::Entry, trust_domain: &TrustDomain) -> (EntryId, Told) {
    let id = EntryId::from(entry.id.as_str());
    let version = EntryVersion {
        revision: entry.revision_number,
        created_at: entry.created_at,
    };
    match convert::entry_of(entry, trust_domain) {
        Ok(entry) => (id, Told::Usable(Arc::new(entry))),
        Err(error) => {
            tracing::warn!(entry_id = %id, %error, "an entry of the server cannot be used and is left out");
            (id, Told::Unusable(version))
        }
    }
}

fn bundle_of(bundle: types::Bundle) -> Result<vouchsafe_identity::Bundle, ProtocolError> {
    convert::bundle(bundle).map_err(|error| match error {
        UpstreamError::Nonsense(text) => ProtocolError::Bundle(text),
        other => ProtocolError::Bundle(other.to_string()),
    })
}

fn domain_of(name: &str) -> Result<TrustDomain, ProtocolError> {
    TrustDomain::new(name).map_err(|error| ProtocolError::Bundle(error.to_string()))
}

fn entry_digest(id: &EntryId, version: EntryVersion) -> ItemDigest {
    ItemDigest::of_entry(id.as_str(), version.revision, version.created_at)
}

#[cfg(test)]
mod tests;
