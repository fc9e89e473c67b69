//! What the audit log says of a change of authorities.

use time::OffsetDateTime;
use uuid::Uuid;
use vouchsafe_audit::{Draft, Facts, Outcome, Principal};
use vouchsafe_store::{JournalRow, KeyPurpose};

/// The beginning of the records of what is done by schedule. Records of what a caller asked for begin with its call.
pub(crate) fn by_schedule(now: OffsetDateTime) -> Draft {
    Draft {
        at: now,
        request_id: Uuid::now_v7().to_string(),
        traceparent: None,
        principal: Principal::System {
            component: "ca".to_owned(),
        },
        scope: "system".into(),
        action: "".into(),
        outcome: Outcome::Done,
        code: None,
        reason: None,
        facts: Facts::new(),
    }
}

/// The record of a change of one slot.
pub(crate) fn record(by: &Draft, action: &'static str, row: &JournalRow) -> Draft {
    let slot = [
        ("slot", row.key.slot.to_string()),
        ("expires_at", row.expires_at.unix_timestamp().to_string()),
    ];
    let mut draft = record_of(by, action, row.key.purpose, &row.authority_id);
    draft.facts.extend(slot.map(|(name, value)| (name.into(), value)));
    draft
}

/// The record of a change of an authority that need not have a slot.
pub(crate) fn record_of(by: &Draft, action: &'static str, purpose: KeyPurpose, authority_id: &str) -> Draft {
    let facts = [
        ("purpose", purpose.name().to_owned()),
        ("authority_id", authority_id.to_owned()),
    ];
    Draft {
        action: action.into(),
        outcome: Outcome::Done,
        facts: facts.map(|(name, value)| (name.into(), value)).into(),
        ..by.clone()
    }
}
