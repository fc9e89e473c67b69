//! Runs: one process tree of a class doing one task, from its admission until some days after its end.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vouchsafe_identity::{ClassId, ClassName, Labels, RunId, Selector, Sha256, SpiffeId, TaskId};

use crate::class::{Isolation, SvidPolicy};
use crate::{StoreError, Versioned};

/// A run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The class's name.
    pub class: ClassName,
    /// The class's id.
    pub class_id: ClassId,
    /// The class's version by which it was admitted.
    pub class_version: u64,
    /// Which of the class's places it takes while it lives, from 1.
    pub place: u32,
    /// The agent that may ask for its SVIDs.
    pub node: SpiffeId,
    /// Who asked for it, for people.
    pub launcher: String,
    /// The run that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<RunId>,
    /// For what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What the launcher notes of it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Its user.
    pub uid: u32,
    /// What keeps its children from its memory.
    pub isolation: Isolation,
    /// Of all that was measured before its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_sha256: Option<Sha256>,
    /// What was measured before its start, and the programs above its launcher then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub selectors: Vec<Selector>,
    /// What its SVIDs say.
    pub svids: SvidPolicy,
    /// When it was admitted.
    #[serde(with = "time::serde::timestamp")]
    pub admitted_at: OffsetDateTime,
    /// When it ends at the latest.
    #[serde(with = "time::serde::timestamp")]
    pub expires_at: OffsetDateTime,
    /// That it may be launched while the server is away; until the server has heard that it was. Until then nobody knows of
    /// launcher, task and user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// That it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Started>,
    /// That it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// A launch lease. It ends when its run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What the node shows for it, a JWT.
    pub token: String,
}

/// The start of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// When.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    /// Its main process, as the agent numbers it.
    pub pid: u32,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When.
    #[serde(with = "time::serde::timestamp")]
    pub at: OffsetDateTime,
    /// How.
    pub reason: EndReason,
    /// When the last of its SVIDs ends at the latest.
    #[serde(with = "time::serde::timestamp")]
    pub svids_end_at: OffsetDateTime,
    /// How many SVIDs it was given, as far as the server has counted.
    #[serde(default)]
    pub svids_issued: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EndReason {
    /// Its main process exited with this code.
    Exited(i32),
    /// A signal ended its main process.
    Signalled(i32),
    /// Somebody had it killed.
    Killed(String),
    /// Its time was over.
    Expired,
    /// It was admitted, and never started.
    NeverStarted,
    /// Its agent no longer had it.
    Lost,
}

impl EndReason {
    /// In one word or two, for records and people.
    pub fn text(&self) -> String {
        match self {
            Self::Exited(code) => format!("exited({code})"),
            Self::Signalled(signal) => format!("signalled({signal})"),
            Self::Killed(by) => format!("killed by {by}"),
            Self::Expired => "expired".to_owned(),
            Self::NeverStarted => "never started".to_owned(),
            Self::Lost => "lost".to_owned(),
        }
    }
}

/// Reads runs.
#[async_trait]
pub trait RunReader: Send + Sync {
    /// One run, or `None`.
    async fn run(&self, id: &RunId) -> Result<Option<Versioned<Run>>, StoreError>;
    /// Up to `limit` runs with ids after `after`, in order of id.
    async fn runs(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<Versioned<Run>>, StoreError>;
}
