//! Spreads what many would do at the same time.

use std::time::Duration;

/// A random time from the first to the second; the first where the system has no randomness.
pub fn between([least, most]: [Duration; 2]) -> Duration {
    let mut bytes = [0; 4];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return least;
    }
    let share = f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX);
    least + most.saturating_sub(least).mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spread_over_the_whole_range() {
        let range = [Duration::from_secs(10), Duration::from_secs(20)];
        let times: Vec<Duration> = (0..1000).map(|_| between(range)).collect();
        assert!(times.iter().all(|time| (range[0]..=range[1]).contains(time)));
        for tenth in 10..20 {
            assert!(times.iter().any(|time| time.as_secs() == tenth));
        }
    }
}
