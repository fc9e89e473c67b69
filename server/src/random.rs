//! Spreads what many would do at the same time.

use std::time::Duration;

use vouchsafe_runtime::Clock;

/// A random time from the first to the second.
pub fn between(clock: &Clock, [least, most]: [Duration; 2]) -> Duration {
    let share = f64::midpoint(clock.jitter(), 1.0);
    least + most.saturating_sub(least).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_over_the_whole_range() {
        let clock = Clock::system();
        let range = [Duration::from_secs(10), Duration::from_secs(20)];
        let times: Vec<Duration> = (0..1000).map(|_| between(&clock, range)).collect();
        assert!(times.iter().all(|time| (range[0]..=range[1]).contains(time)));
        for tenth in 10..20 {
            assert!(times.iter().any(|time| time.as_secs() == tenth));
        }
    }
}
