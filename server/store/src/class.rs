//! Classes: agent programs that an operator approved, what each is and what its runs may at most do.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{ClassId, ClassName, Sha256, SpiffeId, SpiffeIdError};

use crate::{StoreError, Versioned};

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// By which operators know it.
    pub name: ClassName,
    /// Below which its runs have their ids.
    pub id: ClassId,
    /// Grows by one with each update, from 1.
    pub version: u64,
    /// What the operator says of it.
    pub spec: ClassSpec,
    /// When it was made.
    #[serde(with = "time::serde::timestamp")]
    pub created_at: OffsetDateTime,
    /// When it was last updated.
    #[serde(with = "time::serde::timestamp")]
    pub updated_at: OffsetDateTime,
}

impl Class {
    /// Whether a leased run of this class may still be launched: the class is as it was, and gives leases.
    pub fn leases(&self, run: &crate::Run) -> bool {
        let offline = self.spec.offline.is_some() && !self.spec.disabled;
        offline && run.class == self.name && run.class_version == self.version
    }
}

/// What an operator says of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassSpec {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What is started.
    pub program: Program,
    /// Files that are measured before it is started.
    #[serde(default)]
    pub files: Vec<MeasuredFile>,
    /// As which user runs run.
    #[serde(default)]
    pub user: RunUser,
    /// Variables of loader and interpreter that a launcher may set.
    #[serde(default)]
    pub env_allow: Vec<String>,
    /// On which nodes.
    #[serde(default)]
    pub nodes: ClassNodes,
    /// Who may launch.
    #[serde(default)]
    pub launchers: Vec<LauncherRule>,
    /// The longest life of a run, in seconds.
    pub max_ttl_seconds: u32,
    /// Live runs at a time, over all nodes.
    pub max_runs: u32,
    /// What the SVIDs of its runs say.
    #[serde(default)]
    pub svids: SvidPolicy,
    /// What keeps children from a run's memory.
    #[serde(default)]
    pub isolation: Isolation,
    /// Whether files may be within the reach of the run's own user.
    #[serde(default)]
    pub allow_mutable_files: bool,
    /// What becomes of the other processes when the main one ends.
    #[serde(default)]
    pub on_end: OnEnd,
    /// What the kernel withholds.
    #[serde(default)]
    pub harden: Harden,
    /// No new runs.
    #[serde(default)]
    pub disabled: bool,
    /// How a run is told which model to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
    /// What may be launched while the server is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offline: Option<Offline>,
}

/// How a run is told which model to use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// The argument that says it.
    pub argument: String,
    /// Names, or beginnings of names that end with `*`; none: any.
    #[serde(default)]
    pub allowed: Vec<String>,
}

/// Launch leases of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offline {
    /// How many each node holds.
    pub runs: u32,
    /// How long one holds that is not renewed, in seconds.
    pub for_seconds: u32,
}

/// What SVIDs of a run say and how long they live; a run keeps what it was admitted with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SvidPolicy {
    /// Life of X.509-SVIDs in seconds; 0 = the server's default.
    #[serde(default)]
    pub x509_ttl_seconds: u32,
    /// Life of JWT-SVIDs in seconds; 0 = the server's default.
    #[serde(default)]
    pub jwt_ttl_seconds: u32,
    /// Which other processes of a run get an identity.
    #[serde(default)]
    pub inherit: Inherit,
    /// Audiences whose tokens say run, class and task.
    #[serde(default)]
    pub claims_audiences: Vec<String>,
    /// Audiences whose tokens have the class's id as subject.
    #[serde(default)]
    pub class_sub_audiences: Vec<String>,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// An interpreter, or a native program.
    pub executable: MeasuredFile,
    /// What the interpreter runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Arguments that each run has.
    #[serde(default)]
    pub fixed_args: Vec<String>,
    /// Whether a launcher may add some.
    #[serde(default)]
    pub extra_args: bool,
}

/// What an interpreter runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A script.
    Script(MeasuredFile),
    /// A module by its name.
    Module {
        /// The name.
        name: String,
        /// Its file, where it is measured.
        file: Option<MeasuredFile>,
    },
}

/// A file that must have these contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredFile {
    /// Absolute.
    pub path: String,
    /// Of its contents.
    pub sha256: Sha256,
    /// What it is to the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<FileRole>,
}

/// What a file is to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileRole {
    /// The lock file of its packages.
    Lock,
    /// A list of installed files.
    Record,
    /// A prompt.
    Prompt,
    /// A tool manifest.
    Tools,
    /// A skill.
    Skill,
    /// A model, or what says which one.
    Model,
    /// Anything else.
    Other,
}

/// As which user runs run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunUser {
    /// As the launcher.
    #[default]
    Caller,
    /// As this one.
    Fixed {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
    },
    /// Each as one of these.
    Pool {
        /// The first.
        first_uid: u32,
        /// The last.
        last_uid: u32,
    },
}

impl RunUser {
    /// Whether a run may have this user; of the launcher's nothing is known here.
    pub const fn allows(self, uid: u32) -> bool {
        match self {
            Self::Caller => true,
            Self::Fixed { uid: fixed, .. } => fixed == uid,
            Self::Pool { first_uid, last_uid } => first_uid <= uid && uid <= last_uid,
        }
    }
}

/// On which nodes a class may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassNodes {
    /// On all.
    Any,
    /// On those with these ids or aliases.
    These(Vec<SpiffeId>),
}

impl Default for ClassNodes {
    fn default() -> Self {
        Self::These(Vec::new())
    }
}

/// Which processes beside the main one get an identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inherit {
    /// None.
    #[default]
    None,
    /// All, the run's.
    Children,
    /// All, each its own.
    Derived,
}

/// What keeps children from a run's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// An execute-only copy, and a user of its own where the agent may give one.
    #[default]
    Process,
    /// Nothing.
    None,
}

impl Isolation {
    /// The name in records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::None => "none",
        }
    }
}

/// What becomes of the other processes when the main one ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnEnd {
    /// They are killed.
    #[default]
    Kill,
    /// They are left.
    Leave,
}

/// What the kernel withholds from a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Harden {
    /// No privileges by exec.
    #[serde(default)]
    pub no_new_privs: bool,
    /// Below which it may read; with `write_paths` empty too, files are not held.
    #[serde(default)]
    pub read_paths: Vec<String>,
    /// Below which it may read and write.
    #[serde(default)]
    pub write_paths: Vec<String>,
    /// TCP ports to which it may connect; `None`: to all.
    #[serde(default)]
    pub connect_ports: Option<Vec<u16>>,
    /// TCP ports that it may bind; `None`: all.
    #[serde(default)]
    pub bind_ports: Option<Vec<u16>>,
}

/// Who may launch: a user or group of a node, or a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LauncherRule {
    /// A user by number.
    Uid(u32),
    /// A user by the name that the node knows.
    User(Box<str>),
    /// A group by number.
    Gid(u32),
    /// One SPIFFE ID.
    Id(SpiffeId),
    /// All SPIFFE IDs below this one.
    Below(SpiffeId),
}

/// Why a text is no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LauncherRuleError {
    /// Of no form that is known.
    #[error(
        "`{0}` is not a launcher: write `uid:N`, `user:NAME`, `gid:N`, a SPIFFE ID, or one with `/**` at its end"
    )]
    Form(String),
    /// A SPIFFE ID that is malformed.
    #[error("a launcher's SPIFFE ID is malformed")]
    SpiffeId(#[from] SpiffeIdError),
}

impl LauncherRule {
    /// Reads a text.
    ///
    /// # Errors
    /// [`LauncherRuleError`].
    pub fn new(text: &str) -> Result<Self, LauncherRuleError> {
        let form = || LauncherRuleError::Form(text.chars().take(100).collect());
        let number = |digits: &str| {
            let read: u32 = digits.parse().map_err(|_| form())?;
            // One spelling each; and the last number stands for nobody.
            (read.to_string() == digits && read != u32::MAX)
                .then_some(read)
                .ok_or_else(form)
        };
        if let Some(digits) = text.strip_prefix("uid:") {
            return number(digits).map(Self::Uid);
        }
        if let Some(digits) = text.strip_prefix("gid:") {
            return number(digits).map(Self::Gid);
        }
        if let Some(name) = text.strip_prefix("user:") {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-$@".contains(&b);
            let good = !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed);
            return good.then(|| Self::User(name.into())).ok_or_else(form);
        }
        if !text.starts_with("spiffe://") {
            return Err(form());
        }
        match text.strip_suffix("/**") {
            Some(above) => Ok(Self::Below(SpiffeId::new(above)?)),
            None => Ok(Self::Id(SpiffeId::new(text)?)),
        }
    }
}

impl fmt::Display for LauncherRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "uid:{uid}"),
            Self::User(name) => write!(f, "user:{name}"),
            Self::Gid(gid) => write!(f, "gid:{gid}"),
            Self::Id(id) => id.fmt(f),
            Self::Below(id) => write!(f, "{id}/**"),
        }
    }
}

impl TryFrom<String> for LauncherRule {
    type Error = LauncherRuleError;

    fn try_from(text: String) -> Result<Self, LauncherRuleError> {
        Self::new(&text)
    }
}

impl From<LauncherRule> for String {
    fn from(principal: LauncherRule) -> Self {
        principal.to_string()
    }
}

/// Reads classes.
#[async_trait]
pub trait ClassReader: Send + Sync {
    /// One class, or `None`.
    async fn class(&self, name: &ClassName) -> Result<Option<Versioned<Class>>, StoreError>;
    /// Up to `limit` classes with names after `after`, in order of name.
    async fn classes(
        &self,
        after: Option<&ClassName>,
        limit: usize,
    ) -> Result<Vec<Versioned<Class>>, StoreError>;
}
