//! What an operator may do with authorities by hand: prepare, activate, taint, revoke. The rules are SPIRE's; each
//! refusal names the next step.

use time::OffsetDateTime;
use vouchsafe_audit::Draft;
use vouchsafe_identity::Bundle;
use vouchsafe_store::{Commit, JournalRow, Key, SlotState};

use crate::CaError;
use crate::purpose::Purpose;
use crate::record::{record, record_of};
use crate::slots::{Slot, Slots, Tools};

/// What a key signs, as operators name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

impl Kind {
    /// The name in texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X509 => "X.509",
            Self::Jwt => "JWT",
        }
    }
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// Make a key and publish it.
    Prepare,
    /// Let the prepared key of this id sign.
    Activate(&'a str),
    /// Distrust the old key of this id: what it signed is issued anew.
    Taint(&'a str),
    /// Take the tainted key of this id out of the bundle and delete it.
    Revoke(&'a str),
}

/// A signing key that the journal has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Subject key id (hex) of a CA, `kid` of a JWT key.
    pub id: String,
    /// Whether it signs, will sign or has signed.
    pub state: SlotState,
    /// When it was made.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
    /// Whether what it signed is to be issued anew.
    pub tainted: bool,
    /// Whether its private half was gone when it was needed.
    pub lost: bool,
}

impl Authority {
    pub(crate) fn of<P: Purpose>(row: &JournalRow, bundle: &Bundle) -> Self {
        Self {
            id: row.authority_id.clone(),
            state: row.state,
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            tainted: P::tainted(bundle, &row.authority_id) == Some(true),
            lost: row.lost,
        }
    }
}

/// Why a step was not taken. The beginnings of the texts are SPIRE's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// No key signs yet.
    #[error("server is initializing: no authority is active yet")]
    Starting,
    /// An id is needed.
    #[error("no authority ID provided")]
    NoId,
    /// The id is none of this server's.
    #[error(
        "unexpected authority ID: this server has no authority `{0}`; list them with `vouchsafe authority show`"
    )]
    Unexpected(String),
    /// Only what is prepared can be activated.
    #[error("only Prepared authorities can be activated: `{id}` is {state}; prepare another first")]
    NotPrepared {
        /// Which one.
        id: String,
        /// Its state.
        state: &'static str,
    },
    /// What signs cannot be tainted: nothing would sign.
    #[error("unable to taint current local authority: `{0}` signs; activate another first")]
    TaintActive(String),
    /// What has never signed need not be tainted.
    #[error(
        "only Old local authorities can be tainted: `{0}` is prepared; prepare another in its place first, or \
         activate it and then another"
    )]
    TaintPrepared(String),
    /// It has been tainted before.
    #[error("authority `{0}` is already tainted: revoke it when what it signed has been issued anew")]
    AlreadyTainted(String),
    /// What signs cannot be revoked.
    #[error(
        "invalid authority ID: unable to use current authority: `{0}` signs; activate another, then taint this one"
    )]
    RevokeActive(String),
    /// What is prepared cannot be revoked.
    #[error(
        "invalid authority ID: unable to use a prepared authority: prepare another in the place of `{0}`, then taint \
         this one"
    )]
    RevokePrepared(String),
    /// Neither journal nor bundle have it.
    #[error("invalid authority ID: no authority found with provided authority ID `{0}`")]
    RevokeUnknown(String),
    /// What hangs on it has not been issued anew.
    #[error("it is not possible to revoke an untainted authority: taint `{0}` first")]
    Untainted(String),
    /// Each slot holds a key that still counts.
    #[error("{0} old authorities are kept, and there is no room for another: taint and revoke one first")]
    Full(usize),
    /// The authority failed.
    #[error(transparent)]
    Ca(#[from] CaError),
}

const fn state_name(state: SlotState) -> &'static str {
    match state {
        SlotState::Prepared => "prepared",
        SlotState::Active => "active",
        _ => "old",
    }
}

impl<P: Purpose> Slots<P> {
    /// Takes a step that an operator asked for. The answer is the authority that it concerned.
    pub(crate) async fn take(
        &mut self,
        step: Step<'_>,
        tools: Tools<'_>,
        by: &Draft,
    ) -> Result<Authority, StepError> {
        let row = match step {
            Step::Prepare => self.prepare_another(tools, by).await?,
            Step::Activate(id) => self.activate_prepared(id, tools, by).await?,
            Step::Taint(id) => self.taint(id, tools, by).await?,
            Step::Revoke(id) => return self.revoke(id, tools, by).await,
        };
        let (bundle, _) = tools.bundle_for_update().await?;
        Ok(Authority::of::<P>(&row, &bundle))
    }

    async fn prepare_another(&mut self, tools: Tools<'_>, by: &Draft) -> Result<JournalRow, StepError> {
        if self.active().is_none() {
            return Err(StepError::Starting);
        }
        let old = || self.slots.iter().filter(|slot| slot.row.state == SlotState::Old);
        let name = self
            .free_slot(by.at)
            .ok_or_else(|| StepError::Full(old().count()))?;
        self.prepare(tools, by, name).await?;
        let prepared = self.in_state(SlotState::Prepared);
        prepared.map(|slot| slot.row.clone()).ok_or(StepError::Starting)
    }

    async fn activate_prepared(
        &mut self,
        id: &str,
        tools: Tools<'_>,
        by: &Draft,
    ) -> Result<JournalRow, StepError> {
        let row = self.known(id)?.row.clone();
        if row.state != SlotState::Prepared {
            return Err(StepError::NotPrepared {
                id: row.authority_id,
                state: state_name(row.state),
            });
        }
        self.activate(tools, by).await?;
        Ok(JournalRow {
            state: SlotState::Active,
            ..row
        })
    }

    async fn taint(&mut self, id: &str, tools: Tools<'_>, by: &Draft) -> Result<JournalRow, StepError> {
        let slot = self.known(id)?;
        match slot.row.state {
            SlotState::Active => return Err(StepError::TaintActive(id.to_owned())),
            SlotState::Prepared => return Err(StepError::TaintPrepared(id.to_owned())),
            _ => {}
        }
        let commit =
            Commit::default()
                .expect(slot.unchanged())
                .audit(record(by, "authority.taint", &slot.row));
        let taint = |bundle: &mut Bundle| match P::tainted(bundle, id) {
            Some(false) => {
                P::taint(bundle, id);
                Ok(())
            }
            Some(true) => Err(StepError::AlreadyTainted(id.to_owned())),
            None => Err(StepError::Unexpected(id.to_owned())),
        };
        tools.publish(&commit, taint).await?;
        tracing::warn!(
            purpose = P::PURPOSE.name(),
            authority_id = id,
            "authority tainted: what it signed is issued anew"
        );
        Ok(slot.row.clone())
    }

    async fn revoke(&mut self, id: &str, tools: Tools<'_>, by: &Draft) -> Result<Authority, StepError> {
        if id.is_empty() {
            return Err(StepError::NoId);
        }
        let slot = self.find(id);
        match slot.map(|slot| slot.row.state) {
            Some(SlotState::Active) => return Err(StepError::RevokeActive(id.to_owned())),
            Some(SlotState::Prepared) => return Err(StepError::RevokePrepared(id.to_owned())),
            _ => {}
        }
        let commit = match slot {
            Some(slot) => Commit::default()
                .expect(slot.unchanged())
                .delete(Key::Journal(slot.row.key.clone()))
                .audit(record(by, "authority.revoke", &slot.row)),
            // It has left the journal, and the bundle still has it.
            None => Commit::default().audit(record_of(by, "authority.revoke", P::PURPOSE, id)),
        };
        let revoke = |bundle: &mut Bundle| match P::tainted(bundle, id) {
            Some(true) => {
                P::remove_from(bundle, id);
                Ok(())
            }
            Some(false) => Err(StepError::Untainted(id.to_owned())),
            None => Err(StepError::RevokeUnknown(id.to_owned())),
        };
        let expires_at = slot.map_or(by.at, |slot| slot.row.expires_at);
        let issued_at = slot.map_or(by.at, |slot| slot.row.issued_at);
        let (key_id, lost) = slot.map(|slot| (slot.row.key_id.clone(), slot.row.lost)).unzip();
        tools.publish(&commit, revoke).await?;
        self.slots.retain(|slot| slot.row.authority_id != id);
        if let Some(key_id) = key_id {
            tools.forget(&key_id).await;
        }
        tracing::warn!(
            purpose = P::PURPOSE.name(),
            authority_id = id,
            "authority revoked: what it signed is worth nothing now"
        );
        Ok(Authority {
            id: id.to_owned(),
            state: SlotState::Old,
            issued_at,
            expires_at,
            tainted: true,
            lost: lost.unwrap_or_default(),
        })
    }

    fn known(&self, id: &str) -> Result<&Slot<P>, StepError> {
        if id.is_empty() {
            return Err(StepError::NoId);
        }
        self.find(id).ok_or_else(|| StepError::Unexpected(id.to_owned()))
    }
}
