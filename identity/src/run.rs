//! Classes and runs: their names, and the SPIFFE IDs of runs, `<class id>/run/<ulid>`.
//!
//! Everything is read strictly and in one spelling, so that two texts which differ never name the same thing.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{SpiffeId, SpiffeIdError, TrustDomain};

/// Longest name of a class in bytes.
pub const MAX_CLASS_NAME_BYTES: usize = 63;
/// Longest id of a class in bytes, so that the ids of its runs and their children fit.
pub const MAX_CLASS_ID_BYTES: usize = 512;
/// Longest task in bytes.
pub const MAX_TASK_BYTES: usize = 128;
/// Most labels of a run.
pub const MAX_LABELS: usize = 16;
/// Longest key of a label in bytes.
pub const MAX_LABEL_KEY_BYTES: usize = 63;
/// Longest value of a label in bytes.
pub const MAX_LABEL_VALUE_BYTES: usize = 256;

/// The segment between a class and the number of a run; no class id has it.
const RUN: &str = "run";
const CHILD: &str = "child";
/// How much of a text that is refused an error repeats, in characters.
const SHOWN: usize = 100;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Not the name of a class.
    #[error(
        "`{0}` is not a class's name: 1 to {MAX_CLASS_NAME_BYTES} of a-z, 0-9 and `-`, with a letter or digit first and last"
    )]
    ClassName(String),
    /// A class id that is no SPIFFE ID.
    #[error("the class's id is malformed")]
    SpiffeId(#[from] SpiffeIdError),
    /// A class id of another trust domain.
    #[error("class id `{id}` is not a member of trust domain `{trust_domain}`")]
    Foreign {
        /// The id.
        id: SpiffeId,
        /// The trust domain that it should be of.
        trust_domain: TrustDomain,
    },
    /// A class id without a path is the trust domain itself.
    #[error("class id `{0}` has no path")]
    NoPath(SpiffeId),
    /// A class id below `/spire`.
    #[error("class id `{0}` lies under `/spire`, which is reserved for the system")]
    Reserved(SpiffeId),
    /// A class id with a segment that only the ids of runs have.
    #[error("class id `{0}` has a segment `run`: only the ids of runs have one")]
    RunSegment(SpiffeId),
    /// A class id after which the id of a run has no room.
    #[error("a class id of {0} bytes is longer than the limit of {MAX_CLASS_ID_BYTES} bytes")]
    LongClassId(usize),
    /// Not the number of a run.
    #[error("`{0}` is not a run's id: a ULID, 26 of 0-9 and A-Z without I, L, O and U")]
    RunId(String),
    /// Not a task.
    #[error("`{0}` is not a task: 1 to {MAX_TASK_BYTES} letters, digits, `.`, `_`, `:`, `/`, `@` or `-`")]
    Task(String),
    /// Too many labels.
    #[error("{0} labels are more than the limit of {MAX_LABELS}")]
    Labels(usize),
    /// Not the key of a label.
    #[error("`{0}` is not a label's key: 1 to {MAX_LABEL_KEY_BYTES} of a-z, 0-9, `.`, `_` and `-`")]
    LabelKey(String),
    /// Not the value of a label.
    #[error("the value of label `{0}` is not at most {MAX_LABEL_VALUE_BYTES} bytes of printable characters")]
    LabelValue(String),
    /// Not a SHA-256.
    #[error("`{0}` is not a SHA-256: 64 of 0-9 and a-f")]
    Sha256(String),
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Gives a type that is a text its traits, by its `new` and `as_str`.
macro_rules! as_text {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = RunError;

            fn from_str(text: &str) -> Result<Self, RunError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = RunError;

            fn try_from(text: String) -> Result<Self, RunError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.as_str().to_owned()
            }
        }
    };
}

/// The name by which operators know a class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClassName(Box<str>);

impl ClassName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`RunError::ClassName`].
    pub fn new(name: &str) -> Result<Self, RunError> {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = name.as_bytes();
        let good = bytes.len() <= MAX_CLASS_NAME_BYTES
            && bytes
                .iter()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && edge(bytes.first())
            && edge(bytes.last());
        if good {
            Ok(Self(name.into()))
        } else {
            Err(RunError::ClassName(shown(name)))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

as_text!(ClassName);

/// The SPIFFE ID of a class, below which its runs have theirs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClassId(SpiffeId);

impl ClassId {
    /// Checks an id of any trust domain.
    ///
    /// # Errors
    /// [`RunError`] when the id has no path, lies under `/spire`, has a segment `run`, or is longer than
    /// [`MAX_CLASS_ID_BYTES`].
    pub fn new(id: &str) -> Result<Self, RunError> {
        Self::of(SpiffeId::new(id)?)
    }

    /// As [`ClassId::new`].
    ///
    /// # Errors
    /// As [`ClassId::new`].
    pub fn of(id: SpiffeId) -> Result<Self, RunError> {
        if id.path().is_empty() {
            return Err(RunError::NoPath(id));
        }
        if id.is_reserved() {
            return Err(RunError::Reserved(id));
        }
        if id.segments().any(|segment| segment == RUN) {
            return Err(RunError::RunSegment(id));
        }
        if id.as_str().len() > MAX_CLASS_ID_BYTES {
            return Err(RunError::LongClassId(id.as_str().len()));
        }
        Ok(Self(id))
    }

    /// The same, if it belongs to the trust domain.
    ///
    /// # Errors
    /// [`RunError::Foreign`].
    pub fn within(self, trust_domain: &TrustDomain) -> Result<Self, RunError> {
        match self.0.is_member_of(trust_domain) {
            true => Ok(self),
            false => Err(RunError::Foreign {
                id: self.0,
                trust_domain: trust_domain.clone(),
            }),
        }
    }

    /// The class that `id` is, or below whose `/run/` it stands, were there one of that id.
    pub fn owning(id: &SpiffeId) -> Option<Self> {
        let text = id.as_str();
        let path_at = text.len() - id.path().len();
        let mut end = path_at;
        for segment in id.segments() {
            if segment == RUN {
                break;
            }
            end += 1 + segment.len();
        }
        Self::new(text.get(..end)?).ok()
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The id.
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.0
    }
}

as_text!(ClassId);

/// The number of a run: a ULID in its canonical spelling. Made of time and chance, never used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Ulid);

impl RunId {
    /// The number of a run that is admitted at this moment, with random bits.
    pub const fn made(unix_milliseconds: u64, random: u128) -> Self {
        Self(Ulid::from_parts(unix_milliseconds, random))
    }

    /// Reads the canonical spelling, and no other.
    ///
    /// # Errors
    /// [`RunError::RunId`].
    pub fn new(text: &str) -> Result<Self, RunError> {
        let read = Ulid::from_string(text).ok();
        let canonical = read.filter(|ulid| ulid.to_string() == text);
        canonical.map(Self).ok_or_else(|| RunError::RunId(shown(text)))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({})", self.0)
    }
}

impl FromStr for RunId {
    type Err = RunError;

    fn from_str(text: &str) -> Result<Self, RunError> {
        Self::new(text)
    }
}

impl TryFrom<String> for RunId {
    type Error = RunError;

    fn try_from(text: String) -> Result<Self, RunError> {
        Self::new(&text)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

/// What the SPIFFE ID of a run says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RunIdentity {
    /// The class.
    pub class: ClassId,
    /// The run.
    pub run: RunId,
    /// The child, if it is one's.
    pub child: Option<NonZeroU32>,
}

impl RunIdentity {
    /// Most children that a run gives ids of their own, over its whole life: agents give no higher numbers, servers issue
    /// for none.
    pub const MAX_CHILDREN: u32 = 1_000_000;

    /// What an id says, if it is that of a run or of a run's child.
    pub fn parse(id: &SpiffeId) -> Option<Self> {
        let class = ClassId::owning(id)?;
        let mut rest = id
            .as_str()
            .strip_prefix(class.as_str())?
            .strip_prefix('/')?
            .split('/');
        if rest.next() != Some(RUN) {
            return None;
        }
        let run = RunId::new(rest.next()?).ok()?;
        let child = match rest.next() {
            None => None,
            Some(CHILD) => {
                let text = rest.next()?;
                Some(text.parse().ok().filter(|n: &NonZeroU32| n.to_string() == text)?)
            }
            Some(_) => return None,
        };
        rest.next().is_none().then_some(Self { class, run, child })
    }

    /// The id.
    ///
    /// # Errors
    /// [`SpiffeIdError`] never, for the parts have been checked; the type cannot say so.
    pub fn spiffe_id(&self) -> Result<SpiffeId, SpiffeIdError> {
        let (class, run) = (&self.class, self.run);
        match self.child {
            None => SpiffeId::new(&format!("{class}/{RUN}/{run}")),
            Some(child) => SpiffeId::new(&format!("{class}/{RUN}/{run}/{CHILD}/{child}")),
        }
    }
}

/// The unit of work that somebody asked for. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(Box<str>);

impl TaskId {
    /// Checks a task.
    ///
    /// # Errors
    /// [`RunError::Task`].
    pub fn new(text: &str) -> Result<Self, RunError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._:/@-".contains(&b);
        if text.is_empty() || text.len() > MAX_TASK_BYTES || !text.bytes().all(allowed) {
            return Err(RunError::Task(shown(text)));
        }
        Ok(Self(text.into()))
    }

    /// The task as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

as_text!(TaskId);

/// What a launcher notes of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Checks labels.
    ///
    /// # Errors
    /// [`RunError`] when there are too many, or one is too long or has other characters.
    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, RunError> {
        if labels.len() > MAX_LABELS {
            return Err(RunError::Labels(labels.len()));
        }
        let in_key = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
        for (key, value) in &labels {
            if key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || !key.bytes().all(in_key) {
                return Err(RunError::LabelKey(shown(key)));
            }
            if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
                return Err(RunError::LabelValue(key.clone()));
            }
        }
        Ok(Self(labels))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels by key.
    pub const fn get(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = RunError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, RunError> {
        Self::new(labels)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

/// A SHA-256, lower-case hex as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(Box<str>);

impl Sha256 {
    const DIGITS: usize = 64;

    /// Checks a text.
    ///
    /// # Errors
    /// [`RunError::Sha256`].
    pub fn new(text: &str) -> Result<Self, RunError> {
        let good = text.len() == Self::DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match good {
            true => Ok(Self(text.into())),
            false => Err(RunError::Sha256(shown(text))),
        }
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

as_text!(Sha256);

#[cfg(test)]
mod tests;
