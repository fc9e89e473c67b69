//! The two slots of one purpose: loading them from the journal, preparing and activating keys.

use std::sync::Arc;

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::{Bundle, KeyAlgorithm};
use vouchsafe_runtime::KeyManager;
use vouchsafe_store::{
    ChangeKind, Commit, CommitError, Expect, JournalKey, JournalRow, Key, Record, Revision, SharedStore,
    SlotState, Versioned,
};

use crate::life_cycle::{Action, Term, due};
use crate::purpose::Purpose;
use crate::{CaConfig, CaError};

const SLOT_NAMES: [char; 2] = ['a', 'b'];
/// Another server of the trust domain may change the bundle at the same moment; it does not do so without end.
const MAX_CONFLICTS: usize = 16;

/// A slot whose key is at hand.
#[derive(Debug)]
pub(crate) struct Slot<P: Purpose> {
    pub(crate) row: JournalRow,
    revision: Revision,
    pub(crate) issuer: Arc<P::Issuer>,
}

/// The slots of one purpose.
#[derive(Debug)]
pub(crate) struct Slots<P: Purpose> {
    algorithm: KeyAlgorithm,
    slots: Vec<Slot<P>>,
    /// Rows whose key is gone: their place is overwritten at the next preparation.
    lost: Vec<Versioned<JournalRow>>,
}

/// What a commit of ours says about itself in the audit log.
pub(crate) fn audit(action: &str, now: OffsetDateTime, row: &JournalRow) -> Draft {
    let facts = [
        ("purpose", row.key.purpose.name().to_owned()),
        ("slot", row.key.slot.to_string()),
        ("authority_id", row.authority_id.clone()),
        ("expires_at", row.expires_at.unix_timestamp().to_string()),
    ];
    Draft {
        at: now,
        request_id: Uuid::now_v7().to_string(),
        traceparent: None,
        principal: Principal::System {
            component: "ca".to_owned(),
        },
        scope: "system".to_owned(),
        action: action.to_owned(),
        outcome: Outcome::Done,
        code: None,
        reason: None,
        facts: facts
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

/// The stored bundle of our trust domain with the expectation under which it may be replaced.
pub(crate) async fn bundle_for_update(
    store: &SharedStore,
    config: &CaConfig,
) -> Result<(Bundle, Expect), CaError> {
    let key = Key::Bundle(config.trust_domain.clone());
    Ok(match store.bundle(&config.trust_domain).await? {
        Some(found) => (found.value, Expect::At(key, found.revision)),
        None => (Bundle::empty(config.trust_domain.clone()), Expect::Absent(key)),
    })
}

impl<P: Purpose> Slots<P> {
    /// Finds the keys of the journal's rows; a row without its key is set aside with a warning.
    pub(crate) async fn load(
        rows: Vec<Versioned<JournalRow>>,
        keys: &dyn KeyManager,
        algorithm: KeyAlgorithm,
    ) -> Result<Self, CaError> {
        let mut loaded = Self {
            algorithm,
            slots: Vec::new(),
            lost: Vec::new(),
        };
        for found in rows {
            let key = &found.value.key;
            if key.purpose != P::PURPOSE || key.algorithm != algorithm {
                continue;
            }
            let signer = keys.get(&found.value.key_id).await?;
            match signer.filter(|signer| signer.public_key_spki() == found.value.public_key) {
                Some(signer) => {
                    let issuer = Arc::new(P::issuer(&found.value, signer)?);
                    loaded.slots.push(Slot {
                        row: found.value,
                        revision: found.revision,
                        issuer,
                    });
                }
                None => {
                    tracing::warn!(
                        purpose = key.purpose.name(),
                        slot = %key.slot,
                        authority_id = found.value.authority_id,
                        "the private key of an authority is not in the key manager; a new one takes its place"
                    );
                    loaded.lost.push(found);
                }
            }
        }
        Ok(loaded)
    }

    /// What is due now.
    pub(crate) fn due(&self, now: OffsetDateTime) -> Action {
        let terms: Vec<Term> = self
            .slots
            .iter()
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
        self.slots.iter().find(|slot| slot.row.state == SlotState::Active)
    }

    /// The ids of all keys that the slots refer to.
    pub(crate) fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|slot| slot.row.key_id.as_str())
    }

    /// Makes a key in the slot that does not sign and publishes it in the bundle, in one commit.
    pub(crate) async fn prepare(
        &mut self,
        store: &SharedStore,
        keys: &dyn KeyManager,
        config: &CaConfig,
        now: OffsetDateTime,
    ) -> Result<(), CaError> {
        let name = self.free_slot(now);
        let key_id = format!("{}-{name}-{}", P::PURPOSE.name(), Uuid::new_v4().simple());
        let signer = keys.generate(&key_id, self.algorithm).await?;
        let from = now - crate::issue::BACKDATE;
        let to = now + config.ca_ttl;
        let published = P::publish(&config.trust_domain, &signer, from, to)?;
        let row = JournalRow {
            key: JournalKey {
                server_id: store.server_id().to_owned(),
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
        };
        let issuer = Arc::new(P::issuer(&row, signer)?);
        let revision = self.commit_prepared(store, config, now, &row).await?;
        self.lost.retain(|lost| lost.value.key.slot != name);
        self.slots.retain(|slot| slot.row.key.slot != name);
        tracing::info!(
            purpose = P::PURPOSE.name(),
            slot = %name,
            authority_id = row.authority_id,
            "authority prepared"
        );
        self.slots.push(Slot {
            row,
            revision,
            issuer,
        });
        Ok(())
    }

    async fn commit_prepared(
        &self,
        store: &SharedStore,
        config: &CaConfig,
        now: OffsetDateTime,
        row: &JournalRow,
    ) -> Result<Revision, CaError> {
        let place = Key::Journal(row.key.clone());
        let expected = self
            .slots
            .iter()
            .map(|slot| (slot.row.key.slot, slot.revision))
            .chain(self.lost.iter().map(|lost| (lost.value.key.slot, lost.revision)))
            .find(|(name, _)| *name == row.key.slot)
            .map_or_else(
                || Expect::Absent(place.clone()),
                |(_, at)| Expect::At(place.clone(), at),
            );
        let mut conflicts = 0;
        loop {
            let (mut bundle, unchanged) = bundle_for_update(store, config).await?;
            bundle.refresh_hint = Some(config.refresh_hint);
            bundle.sequence += 1;
            P::add_to(&mut bundle, row);
            let commit = Commit::default()
                .expect(expected.clone())
                .expect(unchanged)
                .put(Record::Journal(row.clone()))
                .put(Record::Bundle(bundle))
                .change(ChangeKind::Bundle(config.trust_domain.clone()))
                .audit(audit("authority.prepare", now, row));
            match store.commit(commit).await {
                Ok(revision) => return Ok(revision),
                Err(CommitError::Conflict(Key::Bundle(_))) if conflicts < MAX_CONFLICTS => conflicts += 1,
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    /// Lets the prepared key sign and retires the one before it, in one commit.
    pub(crate) async fn activate(&mut self, store: &SharedStore, now: OffsetDateTime) -> Result<(), CaError> {
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
            let row = JournalRow {
                state,
                ..slot.row.clone()
            };
            let key = Key::Journal(row.key.clone());
            commit = commit
                .expect(Expect::At(key, slot.revision))
                .put(Record::Journal(row.clone()));
            if state == SlotState::Active {
                commit = commit.audit(audit("authority.activate", now, &row));
            }
            next.push((row.key.slot, state));
        }
        let revision = store.commit(commit).await?;
        for slot in &mut self.slots {
            if let Some((_, state)) = next.iter().find(|(name, _)| *name == slot.row.key.slot) {
                slot.row.state = *state;
                slot.revision = revision;
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

    /// The slot that a new key takes: one that is empty, else any but the live active one.
    fn free_slot(&self, now: OffsetDateTime) -> char {
        let live_active = self
            .slots
            .iter()
            .find(|slot| slot.row.state == SlotState::Active && slot.row.expires_at > now)
            .map(|slot| slot.row.key.slot);
        let is_empty = |name: &char| !self.slots.iter().any(|slot| slot.row.key.slot == *name);
        let [a, b] = SLOT_NAMES;
        SLOT_NAMES
            .into_iter()
            .find(is_empty)
            .unwrap_or(if live_active == Some(a) { b } else { a })
    }

    /// Whether every live slot's authority stands in the bundle.
    pub(crate) fn all_published(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        self.slots
            .iter()
            .filter(|slot| slot.row.expires_at > now)
            .all(|slot| P::is_in(bundle, &slot.row))
    }
}
