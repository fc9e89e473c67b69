//! When an SVID is replaced: at half of its life, give or take a tenth, so that a fleet does not come at once.

use std::time::Duration;

use time::OffsetDateTime;

/// How far from half of the life the moment may lie, as a part of that half.
const SPREAD: f64 = 0.1;

/// How much earlier than its start, by the clock of this host, something is handed out: clocks differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// From when to when something is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Its start.
    pub not_before: OffsetDateTime,
    /// Its end.
    pub not_after: OffsetDateTime,
}

impl Lifetime {
    /// Whether it is over.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after
    }

    /// Whether it has begun, or will within [`CLOCK_SKEW`]. What has not was made before the clock was set back, or is
    /// for later.
    pub fn has_begun(&self, now: OffsetDateTime) -> bool {
        now + CLOCK_SKEW >= self.not_before
    }

    /// When to replace it. `jitter` is a random number from -1 to 1.
    ///
    /// What is handed over late in its life (the clocks differ) is replaced after a quarter of what is left, so that
    /// it is not asked for again at once. Never later than its end, if that is still ahead.
    pub fn rotate_at(&self, now: OffsetDateTime, jitter: f64) -> OffsetDateTime {
        let life = Duration::try_from(self.not_after - self.not_before).unwrap_or_default();
        let share = (0.5 * (1.0 + SPREAD * jitter.clamp(-1.0, 1.0))).clamp(0.0, 1.0);
        let half_life = self.not_before + life.mul_f64(share);
        let left = Duration::try_from(self.not_after - now).unwrap_or_default();
        half_life.max(now + left / 4).min(self.not_after.max(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_700_000_000;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(START + seconds)
    }

    fn hour() -> Lifetime {
        Lifetime {
            not_before: at(0),
            not_after: at(3600),
        }
    }

    #[test]
    fn without_jitter_it_is_half_of_the_life() {
        assert_eq!(hour().rotate_at(at(0), 0.0), at(1800));
        assert_eq!(hour().rotate_at(at(0), 1.0), at(1980));
        assert_eq!(hour().rotate_at(at(0), -1.0), at(1620));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_what_it_lies_before() {
        assert!(hour().has_begun(at(0)) && hour().has_begun(at(-300)));
        assert!(!hour().has_begun(at(-301)));
    }

    #[test]
    fn what_comes_late_is_not_due_at_once() {
        assert_eq!(hour().rotate_at(at(3200), 0.0), at(3300));
    }

    proptest! {
        #[test]
        fn never_later_than_expiry_and_never_in_the_past(
            life in 1_i64..1_000_000, passed in 0_i64..1_000_000, jitter in -2.0..2.0_f64,
        ) {
            let lifetime = Lifetime { not_before: at(0), not_after: at(life) };
            let now = at(passed.min(life - 1));
            let due = lifetime.rotate_at(now, jitter);
            prop_assert!(due <= lifetime.not_after);
            prop_assert!(due > now);
        }

        #[test]
        fn within_a_tenth_of_half_of_the_life(life in 100_i64..1_000_000, jitter in -1.0..1.0_f64) {
            let lifetime = Lifetime { not_before: at(0), not_after: at(life) };
            let due = (lifetime.rotate_at(at(0), jitter) - at(0)).as_seconds_f64();
            let half = life as f64 / 2.0;
            prop_assert!(due >= half * 0.899 && due <= half * 1.101);
        }
    }
}
