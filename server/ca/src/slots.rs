//! The slots of one purpose: one for each signing key that still counts, as the journal has them.
//!
//! Each step is one commit: journal, bundle and audit record change together or not at all. A key is made before
//! its commit and forgotten after it, so that a crash leaves a key too many at most, which the next start removes.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_audit::Draft;
use vouchsafe_identity::{Bundle, KeyAlgorithm};
use vouchsafe_runtime::KeyManager;
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Expect, JournalKey, JournalRow, Key, Record, Revision, SharedStore,
    SlotState, Versioned,
};

use crate::life_cycle::{Action, Term, due};
use crate::purpose::Purpose;
use crate::record::record;
use crate::steps::Authority;
use crate::{CaConfig, CaError};

/// Names of slots: one for the key that signs, one for its successor, the others for keys that have signed.
const SLOT_NAMES: [char; 8] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];
/// Another server of the trust domain may change the bundle at the same moment; it does not do so without end.
const MAX_CONFLICTS: usize = 16;

/// What a step works with.
#[derive(Clone, Copy)]
pub(crate) struct Tools<'a> {
    pub(crate) store: &'a SharedStore,
    pub(crate) keys: &'a dyn KeyManager,
    pub(crate) config: &'a CaConfig,
}

impl Tools<'_> {
    /// The stored bundle of our trust domain with the expectation under which it may be replaced.
    pub(crate) async fn bundle_for_update(&self) -> Result<(Bundle, Expect), CaError> {
        let trust_domain = &self.config.trust_domain;
        let key = Key::Bundle(trust_domain.clone());
        Ok(match self.store.bundle(trust_domain).await? {
            Some(found) => (found.value, Expect::At(key, found.revision)),
            None => (Bundle::empty(trust_domain.clone()), Expect::Absent(key)),
        })
    }

    /// Commits together with a change of the bundle; tried anew when someone else changed the bundle meanwhile.
    pub(crate) async fn publish<E: From<CaError>>(
        &self,
        base: &Commit,
        change: impl Fn(&mut Bundle) -> Result<(), E>,
    ) -> Result<Revision, E> {
        let mut conflicts = 0;
        loop {
            let (mut bundle, unchanged) = self.bundle_for_update().await?;
            bundle.refresh_hint = Some(self.config.refresh_hint);
            bundle.sequence += 1;
            change(&mut bundle)?;
            let commit = base
                .clone()
                .expect(unchanged)
                .put(Record::Bundle(bundle))
                .change(ChangeKind::Bundle(self.config.trust_domain.clone()));
            match self.store.commit(commit).await {
                Ok(revision) => return Ok(revision),
                Err(CommitError::Conflict(Key::Bundle(_))) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(refused) => return Err(CaError::from(refused).into()),
            }
        }
    }

    /// Removes a key that no slot refers to any more. One that stays is removed at the next start.
    pub(crate) async fn forget(&self, key_id: &str) {
        if let Err(error) = self.keys.remove(key_id).await {
            tracing::error!(
                key_id,
                error = crate::error::chain(&error),
                "a key that is no longer used could not be removed; the next start tries again"
            );
        }
    }
}

/// A slot with its key, where the key is needed and there.
#[derive(Debug)]
pub(crate) struct Slot<P: Purpose> {
    pub(crate) row: JournalRow,
    revision: Revision,
    pub(crate) issuer: Option<Arc<P::Issuer>>,
}

impl<P: Purpose> Slot<P> {
    fn key(&self) -> Key {
        Key::Journal(self.row.key.clone())
    }

    /// That the slot was last written when we last wrote it.
    pub(crate) fn unchanged(&self) -> Expect {
        Expect::At(self.key(), self.revision)
    }

    fn as_state(&self, state: SlotState) -> JournalRow {
        JournalRow {
            state,
            ..self.row.clone()
        }
    }

    fn has_ended(&self, now: OffsetDateTime) -> bool {
        self.row.state == SlotState::Old && self.row.expires_at <= now
    }
}

/// The slots of one purpose.
#[derive(Debug)]
pub(crate) struct Slots<P: Purpose> {
    algorithm: KeyAlgorithm,
    pub(crate) slots: Vec<Slot<P>>,
}

impl<P: Purpose> Slots<P> {
    /// Finds the keys of the journal's rows. A key that is needed and gone retires its slot, which says so from
    /// then on: its authority can still be tainted and revoked.
    pub(crate) async fn load(
        rows: Vec<Versioned<JournalRow>>,
        algorithm: KeyAlgorithm,
        tools: Tools<'_>,
        by: &Draft,
    ) -> Result<Self, CaError> {
        let mut loaded = Self {
            algorithm,
            slots: Vec::new(),
        };
        for found in rows {
            let key = &found.value.key;
            if key.purpose != P::PURPOSE || key.algorithm != algorithm {
                continue;
            }
            let mut slot = Slot {
                row: found.value,
                revision: found.revision,
                issuer: None,
            };
            match slot.row.state {
                SlotState::Old => slot.issuer = old_issuer::<P>(&slot.row, tools).await,
                _ => match issuer::<P>(&slot.row, tools).await? {
                    Some(issuer) => slot.issuer = Some(issuer),
                    None => retire_lost(&mut slot, tools, by).await?,
                },
            }
            loaded.slots.push(slot);
        }
        Ok(loaded)
    }

    /// What is due now. A tainted key is as good as none.
    pub(crate) fn due(&self, bundle: &Bundle, now: OffsetDateTime) -> Action {
        let terms: Vec<Term> = self
            .slots
            .iter()
            .filter(|slot| P::tainted(bundle, &slot.row.authority_id) != Some(true))
            .map(|slot| Term {
                state: slot.row.state,
                issued_at: slot.row.issued_at,
                expires_at: slot.row.expires_at,
            })
            .collect();
        due(&terms, now)
    }

    /// The slot that signs, expired or not.
    pub(crate) fn active(&self) -> Option<&Slot<P>> {
        self.in_state(SlotState::Active)
    }

    /// A slot in this state.
    pub(crate) fn in_state(&self, state: SlotState) -> Option<&Slot<P>> {
        self.slots.iter().find(|slot| slot.row.state == state)
    }

    /// The slot of an authority.
    pub(crate) fn find(&self, authority_id: &str) -> Option<&Slot<P>> {
        self.slots
            .iter()
            .find(|slot| slot.row.authority_id == authority_id)
    }

    /// The ids of all keys that the slots refer to.
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|slot| slot.row.key_id.as_str())
    }

    /// The ids of the keys that sign or will sign.
    pub(crate) fn live_key_ids(&self) -> impl Iterator<Item = &str> {
        let live = self
            .slots
            .iter()
            .filter(|slot| slot.issuer.is_some() && slot.row.state != SlotState::Old);
        live.map(|slot| slot.row.key_id.as_str())
    }

    /// All authorities, the newest first.
    pub(crate) fn authorities(&self, bundle: &Bundle) -> Vec<Authority> {
        let mut all: Vec<_> = self
            .slots
            .iter()
            .map(|slot| Authority::of::<P>(&slot.row, bundle))
            .collect();
        all.sort_by_key(|authority| std::cmp::Reverse(authority.issued_at));
        all
    }

    /// Makes a key and publishes it in the bundle. One that was prepared before and never signed is old from then on.
    pub(crate) async fn prepare(&mut self, tools: Tools<'_>, by: &Draft, name: char) -> Result<(), CaError> {
        let (issuer, row) = self.make(tools, by.at, name).await?;
        let place = Key::Journal(row.key.clone());
        let overwritten = self.slots.iter().find(|slot| slot.row.key.slot == name);
        let mut commit = Commit::default()
            .expect(overwritten.map_or_else(|| Expect::Absent(place), Slot::unchanged))
            .put(Record::Journal(row.clone()))
            .audit(record(by, "authority.prepare", &row));
        let passed_over = |slot: &Slot<P>| slot.row.state == SlotState::Prepared && slot.row.key.slot != name;
        for slot in self.slots.iter().filter(|slot| passed_over(slot)) {
            commit = commit
                .expect(slot.unchanged())
                .put(Record::Journal(slot.as_state(SlotState::Old)));
        }
        let publish = |bundle: &mut Bundle| {
            P::add_to(bundle, &row);
            Ok::<(), CaError>(())
        };
        let revision = tools.publish(&commit, publish).await?;
        if let Some(forgotten) = overwritten.map(|slot| slot.row.key_id.clone()) {
            tools.forget(&forgotten).await;
        }
        self.slots.retain(|slot| slot.row.key.slot != name);
        for slot in self.slots.iter_mut().filter(|slot| passed_over(slot)) {
            slot.row.state = SlotState::Old;
            slot.revision = revision;
        }
        tracing::info!(
            purpose = P::PURPOSE.name(),
            slot = %name,
            authority_id = row.authority_id,
            "authority prepared"
        );
        self.slots.push(Slot {
            row,
            revision,
            issuer: Some(issuer),
        });
        Ok(())
    }

    /// Makes a key and what the journal says of it.
    async fn make(
        &self,
        tools: Tools<'_>,
        now: OffsetDateTime,
        name: char,
    ) -> Result<(Arc<P::Issuer>, JournalRow), CaError> {
        let key_id = format!("{}-{name}-{}", P::PURPOSE.name(), Uuid::new_v4().simple());
        let signer = tools.keys.generate(&key_id, self.algorithm).await?;
        let from = now - crate::issue::BACKDATE;
        let to = now + tools.config.ca_ttl;
        let published = P::publish(&tools.config.trust_domain, &signer, from, to)?;
        let row = JournalRow {
            key: JournalKey {
                server_id: tools.store.server_id().to_owned(),
                purpose: P::PURPOSE,
                algorithm: self.algorithm,
                slot: name,
            },
            state: SlotState::Prepared,
            key_id,
            authority_id: published.authority_id,
            public_key: signer.public_key_spki().to_vec(),
            certificate: published.certificate,
            issued_at: now,
            expires_at: to,
            lost: false,
        };
        Ok((Arc::new(P::issuer(&row, signer)?), row))
    }

    /// Lets the prepared key sign and retires the one before it, in one commit.
    pub(crate) async fn activate(&mut self, tools: Tools<'_>, by: &Draft) -> Result<(), CaError> {
        let mut commit = Commit::default();
        let mut next = Vec::new();
        for slot in &self.slots {
            let state = match slot.row.state {
                SlotState::Prepared => SlotState::Active,
                _ => SlotState::Old,
            };
            if state == slot.row.state {
                continue;
            }
            let row = slot.as_state(state);
            commit = commit.expect(slot.unchanged()).put(Record::Journal(row.clone()));
            if state == SlotState::Active {
                commit = commit.audit(record(by, "authority.activate", &row));
            }
            next.push((row.key.slot, state));
        }
        let revision = tools.store.commit(commit).await?;
        for slot in &mut self.slots {
            if let Some((_, state)) = next.iter().find(|(name, _)| *name == slot.row.key.slot) {
                slot.row.state = *state;
                slot.revision = revision;
                if *state == SlotState::Old && !P::SIGNS_WHEN_OLD {
                    slot.issuer = None;
                }
            }
        }
        if let Some(active) = self.active() {
            tracing::info!(
                purpose = P::PURPOSE.name(),
                slot = %active.row.key.slot,
                authority_id = active.row.authority_id,
                "authority activated"
            );
        }
        Ok(())
    }

    /// A slot that a new key may take without anything being lost: an empty one, or one whose key has ended.
    pub(crate) fn free_slot(&self, now: OffsetDateTime) -> Option<char> {
        let taken = |name: &char| {
            self.slots.iter().any(|slot| {
                slot.row.key.slot == *name
                    && (slot.row.state == SlotState::Active || slot.row.expires_at > now)
            })
        };
        SLOT_NAMES.into_iter().find(|name| !taken(name))
    }

    /// The slot that a new key takes when it must have one: a free one, else that of the old key that ends first.
    pub(crate) fn slot_in_need(&self, now: OffsetDateTime) -> Result<char, CaError> {
        let oldest = || {
            let old = self.slots.iter().filter(|slot| slot.row.state == SlotState::Old);
            old.min_by_key(|slot| slot.row.expires_at)
                .map(|slot| slot.row.key.slot)
        };
        self.free_slot(now).or_else(oldest).ok_or_else(|| CaError::Slot {
            slot: P::PURPOSE.name().to_owned(),
            reason: "all slots are taken".to_owned(),
        })
    }

    /// Adds to a commit that the journal need not keep old keys that have ended.
    pub(crate) fn without_ended(&self, commit: Commit, by: &Draft) -> Commit {
        self.slots
            .iter()
            .filter(|slot| slot.has_ended(by.at))
            .fold(commit, |commit, slot| {
                commit.expect(slot.unchanged()).delete(slot.key()).audit(record(
                    by,
                    "authority.end",
                    &slot.row,
                ))
            })
    }

    /// Forgets old keys that have ended, once the journal has.
    pub(crate) async fn forget_ended(&mut self, tools: Tools<'_>, now: OffsetDateTime) {
        for slot in self.slots.iter().filter(|slot| slot.has_ended(now)) {
            tools.forget(&slot.row.key_id).await;
        }
        self.slots.retain(|slot| !slot.has_ended(now));
    }

    /// Whether every live slot's authority stands in the bundle.
    pub(crate) fn all_published(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.row.expires_at > now)
            .all(|slot| P::is_in(bundle, &slot.row))
    }
}

/// What signs with the key of a row; nothing where the key manager does not have that key.
async fn issuer<P: Purpose>(row: &JournalRow, tools: Tools<'_>) -> Result<Option<Arc<P::Issuer>>, CaError> {
    let signer = tools.keys.get(&row.key_id).await?;
    let signer = signer.filter(|signer| signer.public_key_spki() == row.public_key);
    signer
        .map(|signer| P::issuer(row, signer).map(Arc::new))
        .transpose()
}

/// The same of an old row, whose key is a help where it is there: it is not in what was restored, and one that was lost
/// somebody may have.
async fn old_issuer<P: Purpose>(row: &JournalRow, tools: Tools<'_>) -> Option<Arc<P::Issuer>> {
    if row.lost || !P::SIGNS_WHEN_OLD {
        return None;
    }
    issuer::<P>(row, tools).await.unwrap_or_else(|error| {
        tracing::warn!(
            authority_id = row.authority_id,
            error = crate::error::chain(&error),
            "the key of an old authority cannot be read: agents that were away may not know the server's own SVID"
        );
        None
    })
}

/// Retires a slot whose key is gone: somebody may have it.
async fn retire_lost<P: Purpose>(slot: &mut Slot<P>, tools: Tools<'_>, by: &Draft) -> Result<(), CaError> {
    let row = JournalRow {
        lost: true,
        ..slot.as_state(SlotState::Old)
    };
    tracing::warn!(
        purpose = row.key.purpose.name(),
        slot = %row.key.slot,
        authority_id = row.authority_id,
        "the private key of an authority is not in the key manager; a new one takes its place"
    );
    let commit = Commit::default()
        .expect(slot.unchanged())
        .put(Record::Journal(row.clone()))
        .audit(record(by, "authority.lost", &row));
    slot.revision = tools.store.commit(commit).await?;
    slot.row = row;
    Ok(())
}
