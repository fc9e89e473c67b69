//! The one clock, for dates in certificates and for timers, and for the chance by which timers are spread.
//!
//! The test clock rides tokio's time: with `tokio::time::pause` months pass in milliseconds, and
//! dates and timers can never disagree.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A long sleep wakes at least this often to look at the clock again, so that a clock that jumps is noticed.
const LONGEST_NAP: Duration = Duration::from_secs(30);

/// Tells the time and sleeps by it. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Source>);

enum Source {
    System,
    Manual {
        start: OffsetDateTime,
        base: Instant,
        skew_millis: AtomicI64,
        jumped: Notify,
        /// From which the next chance is drawn; `None`: from the system.
        draws: Option<AtomicU64>,
    },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self(Arc::new(Source::System))
    }

    /// A clock that shows `start` now and moves with tokio's (paused or running) time.
    ///
    /// Must be made inside a tokio runtime.
    pub fn manual(start: OffsetDateTime) -> Self {
        Self::manual_with(start, None)
    }

    /// The same, whose [`jitter`](Self::jitter) is the same again for the same seed.
    pub fn manual_seeded(start: OffsetDateTime, seed: u64) -> Self {
        Self::manual_with(start, Some(AtomicU64::new(seed)))
    }

    fn manual_with(start: OffsetDateTime, draws: Option<AtomicU64>) -> Self {
        Self(Arc::new(Source::Manual {
            start,
            base: Instant::now(),
            skew_millis: AtomicI64::new(0),
            jumped: Notify::new(),
            draws,
        }))
    }

    /// The date and time, UTC.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system")]
    pub fn now(&self) -> OffsetDateTime {
        match self.0.as_ref() {
            Source::System => OffsetDateTime::now_utc(),
            Source::Manual {
                start,
                base,
                skew_millis,
                ..
            } => *start + base.elapsed() + time::Duration::milliseconds(skew_millis.load(Ordering::SeqCst)),
        }
    }

    /// Makes a manual clock jump, as a corrected system clock does; the system's clock is left alone.
    pub fn jump(&self, by: time::Duration) {
        if let Source::Manual {
            skew_millis, jumped, ..
        } = self.0.as_ref()
        {
            let millis = i64::try_from(by.whole_milliseconds()).unwrap_or(i64::MAX);
            skew_millis.fetch_add(millis, Ordering::SeqCst);
            jumped.notify_waiters();
        }
    }

    /// Waits for a span of time.
    pub async fn sleep(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }

    /// Waits until the clock shows `due`; returns at once if it does already.
    pub async fn sleep_until(&self, due: OffsetDateTime) {
        loop {
            let left = due - self.now();
            let Ok(left) = Duration::try_from(left) else {
                return;
            };
            if left.is_zero() {
                return;
            }
            self.nap(left).await;
        }
    }

    /// The same, but returns early where the clock was put back since it showed `seen`, by which `due` was reckoned: what
    /// was due by it may be due at another time now.
    pub async fn sleep_until_or_back(&self, mut seen: OffsetDateTime, due: OffsetDateTime) {
        loop {
            let now = self.now();
            let Ok(left) = Duration::try_from(due - now) else {
                return;
            };
            if left.is_zero() || now < seen {
                return;
            }
            seen = now;
            self.nap(left).await;
        }
    }

    /// A random number from -1 to 1, by which what many would do at one time is spread; 0 where the system has no
    /// randomness. Not for secrets: those are made where keys are.
    pub fn jitter(&self) -> f64 {
        let drawn = match self.0.as_ref() {
            Source::Manual {
                draws: Some(draws), ..
            } => Some(draw(draws)),
            _ => {
                let mut bytes = [0_u8; 4];
                let filled = aws_lc_rs::rand::fill(&mut bytes);
                filled.is_ok().then_some(u32::from_le_bytes(bytes))
            }
        };
        drawn.map_or(0.0, |drawn| f64::from(drawn) / f64::from(u32::MAX) * 2.0 - 1.0)
    }

    async fn nap(&self, left: Duration) {
        let sleep = tokio::time::sleep(left.min(LONGEST_NAP));
        match self.0.as_ref() {
            Source::System => sleep.await,
            Source::Manual { jumped, .. } => tokio::select! {
                () = sleep => {}
                () = jumped.notified() => {}
            },
        }
    }
}

/// The next number of a row that only looks random (SplitMix64).
fn draw(state: &AtomicU64) -> u32 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut mixed = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or_default()
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_month_passes_in_an_instant() {
        let start = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let clock = Clock::manual(start);
        let due = start + time::Duration::days(30);
        clock.sleep_until(due).await;
        assert!(clock.now() >= due);
        assert!(clock.now() < due + time::Duration::seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_forward_wakes_a_sleeper_within_a_nap() {
        let start = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let clock = Clock::manual(start);
        let begun = Instant::now();
        clock.jump(time::Duration::days(1));
        clock.sleep_until(start + time::Duration::hours(1)).await;
        assert!(begun.elapsed() <= LONGEST_NAP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_put_back_is_noticed_by_who_asks_for_that() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let clock = Clock::manual(start + time::Duration::days(1));
        let due = clock.now() + time::Duration::hours(1);
        let back = async {
            clock.sleep_until(clock.now() + time::Duration::minutes(1)).await;
            clock.jump(-time::Duration::days(1));
        };
        let begun = Instant::now();
        tokio::join!(clock.sleep_until_or_back(clock.now(), due), back);
        assert!(begun.elapsed() <= LONGEST_NAP * 3);
        let due = start + time::Duration::hours(1);
        clock.sleep_until_or_back(clock.now(), due).await;
        assert!(clock.now() >= due);
        // Also where it went back before the sleep began.
        clock.sleep_until_or_back(due, due).await;
        let seen = clock.now();
        clock.jump(-time::Duration::minutes(30));
        clock
            .sleep_until_or_back(seen, seen + time::Duration::days(1))
            .await;
        assert!(clock.now() < seen);
    }

    #[tokio::test]
    async fn jitter_stays_within_its_bounds_and_a_seed_gives_the_same_again() {
        let row = |clock: &Clock| -> Vec<f64> { (0..1000).map(|_| clock.jitter()).collect() };
        let seeded = |seed| row(&Clock::manual_seeded(OffsetDateTime::UNIX_EPOCH, seed));
        for row in [row(&Clock::system()), seeded(7)] {
            assert!(row.iter().all(|one| (-1.0..=1.0).contains(one)));
            let above = row.iter().filter(|one| **one > 0.0).count();
            assert!((400..600).contains(&above), "{above} of 1000 above the middle");
        }
        assert_eq!(seeded(7), seeded(7));
        assert_ne!(seeded(7), seeded(8));
        let plain = || Clock::manual(OffsetDateTime::UNIX_EPOCH);
        assert_ne!(row(&plain()), row(&plain()));
    }
}
