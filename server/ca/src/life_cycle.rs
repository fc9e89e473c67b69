//! When keys are prepared and activated. Pure: given the slots and `now`, says what is due.
//!
//! A key is prepared (made and published) well before it signs, so that every verifier knows it
//! by then; it is activated while what it will sign can still live a whole TTL.

use std::time::Duration;

use time::OffsetDateTime;
use vouchsafe_store::SlotState;

use crate::issue::BACKDATE;

const DAY: Duration = Duration::from_secs(24 * 3600);
const LONGEST_PREPARATION: Duration = Duration::from_secs(30 * 24 * 3600);
const LONGEST_ACTIVATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long an expired authority stays in the bundle, for verifiers whose clocks are behind.
pub const KEEP_EXPIRED: Duration = DAY;

/// How long before the end of a key its successor is prepared.
pub fn preparation_margin(lifetime: Duration) -> Duration {
    (lifetime / 2).min(LONGEST_PREPARATION)
}

/// How long before the end of a key its successor is activated.
pub fn activation_margin(lifetime: Duration) -> Duration {
    (lifetime / 6).min(LONGEST_ACTIVATION)
}

/// What the life cycle sees of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// State of the slot.
    pub state: SlotState,
    /// When the key was made.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

impl Term {
    fn lifetime(&self) -> Duration {
        Duration::try_from(self.expires_at - self.issued_at).unwrap_or_default()
    }

    /// One that was made while the clock was ahead has not begun, for us and for all who verify.
    fn is_live(&self, now: OffsetDateTime) -> bool {
        self.expires_at > now && self.issued_at - BACKDATE <= now
    }
}

/// What is to be done with the keys of one purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make a new key in the slot that does not sign, and publish it.
    Prepare,
    /// Let the prepared key sign.
    Activate,
    /// Nothing before this moment.
    WaitUntil(OffsetDateTime),
}

/// Decides for the (at most two) slots of one purpose.
///
/// A slot that has expired, or has not begun, counts as empty. Without a live active key the successor is prepared
/// and activated at once, so that an authority that slept through its end recovers by itself.
pub fn due(slots: &[Term], now: OffsetDateTime) -> Action {
    let live = |state| slots.iter().find(|term| term.state == state && term.is_live(now));
    let prepared = live(SlotState::Prepared);
    let Some(active) = live(SlotState::Active) else {
        return if prepared.is_some() {
            Action::Activate
        } else {
            Action::Prepare
        };
    };
    let prepare_at = active.expires_at - preparation_margin(active.lifetime());
    let activate_at = active.expires_at - activation_margin(active.lifetime());
    match prepared {
        None if now >= prepare_at => Action::Prepare,
        None => Action::WaitUntil(prepare_at),
        Some(_) if now >= activate_at => Action::Activate,
        Some(_) => Action::WaitUntil(activate_at),
    }
}

#[cfg(test)]
mod tests;
