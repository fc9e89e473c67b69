//! The life cycle as a table and as an algebra.

use proptest::prelude::*;
use time::{Duration as Span, OffsetDateTime};
use vouchsafe_store::SlotState::{Active, Old, Prepared};

use super::*;

fn at(hours: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Span::days(20_000) + Span::hours(hours)
}

fn term(state: SlotState, from: i64, to: i64) -> Term {
    Term {
        state,
        issued_at: at(from),
        expires_at: at(to),
    }
}

#[test]
fn without_any_key_one_is_prepared() {
    assert_eq!(due(&[], at(0)), Action::Prepare);
}

#[test]
fn a_prepared_key_without_an_active_one_is_activated() {
    assert_eq!(due(&[term(Prepared, 0, 24)], at(0)), Action::Activate);
}

#[test]
fn the_successor_is_prepared_at_half_life() {
    let active = term(Active, 0, 24);
    assert_eq!(due(&[active], at(11)), Action::WaitUntil(at(12)));
    assert_eq!(due(&[active], at(12)), Action::Prepare);
}

#[test]
fn the_successor_is_activated_a_sixth_before_the_end() {
    let slots = [term(Active, 0, 24), term(Prepared, 12, 36)];
    assert_eq!(due(&slots, at(13)), Action::WaitUntil(at(20)));
    assert_eq!(due(&slots, at(20)), Action::Activate);
}

#[test]
fn an_old_key_is_not_activated_again() {
    assert_eq!(
        due(&[term(Active, 12, 36), term(Old, 0, 24)], at(21)),
        Action::WaitUntil(at(24))
    );
    assert_eq!(due(&[term(Old, 0, 24)], at(1)), Action::Prepare);
}

#[test]
fn an_authority_that_slept_past_its_end_starts_anew() {
    assert_eq!(due(&[term(Active, 0, 24)], at(25)), Action::Prepare);
    assert_eq!(
        due(&[term(Active, 0, 24), term(Prepared, 12, 24)], at(25)),
        Action::Prepare
    );
    assert_eq!(
        due(&[term(Active, 0, 24), term(Prepared, 12, 36)], at(25)),
        Action::Activate
    );
}

#[test]
fn a_key_that_has_not_begun_counts_as_none() {
    let (ahead, prepared_ahead) = (term(Active, 24, 48), term(Prepared, 30, 54));
    assert_eq!(due(&[ahead], at(0)), Action::Prepare);
    assert_eq!(due(&[ahead, prepared_ahead], at(0)), Action::Prepare);
    assert_eq!(due(&[ahead, term(Prepared, 0, 24)], at(0)), Action::Activate);
    // Seconds are no jump: certificates begin as much earlier.
    let just_made = Term {
        issued_at: at(0) + Span::seconds(9),
        ..term(Active, 0, 24)
    };
    assert_eq!(
        due(&[just_made], at(0)),
        Action::WaitUntil(just_made.expires_at - Span::hours(12) + Span::milliseconds(4500))
    );
}

#[test]
fn very_long_lives_have_bounded_margins() {
    let year = Duration::from_secs(365 * 24 * 3600);
    assert_eq!(preparation_margin(year), Duration::from_secs(30 * 24 * 3600));
    assert_eq!(activation_margin(year), Duration::from_secs(7 * 24 * 3600));
}

proptest! {
    /// Following the advice at every moment it names, there is always a live active key, and the
    /// successor was published before it signs.
    #[test]
    fn there_is_always_an_active_key(lifetime_hours in 2_i64..2000, steps in 1_usize..40) {
        let lifetime = Span::hours(lifetime_hours);
        let mut now = at(0);
        let mut slots: Vec<Term> = Vec::new();
        for _ in 0..steps {
            match due(&slots, now) {
                Action::Prepare => {
                    slots.retain(|t| t.state == Active && t.is_live(now));
                    slots.push(Term { state: Prepared, issued_at: now, expires_at: now + lifetime });
                }
                Action::Activate => {
                    for slot in &mut slots {
                        slot.state = if slot.state == Prepared { Active } else { Old };
                    }
                }
                Action::WaitUntil(then) => {
                    prop_assert!(then > now);
                    let active = slots.iter().find(|t| t.state == Active);
                    prop_assert!(active.is_some_and(|t| t.expires_at > then));
                    now = then;
                }
            }
        }
    }
}
