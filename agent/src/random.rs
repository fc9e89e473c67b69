//! How long to wait between tries, spread by chance.

use std::time::Duration;

use vouchsafe_runtime::Clock;

/// Delays between tries that fail one after another: half as long again each time, up to a limit, each with jitter.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
    clock: Clock,
}

impl Backoff {
    /// Begins with `first` and never waits longer than about `limit`.
    pub fn new(clock: &Clock, first: Duration, limit: Duration) -> Self {
        Self {
            first,
            limit,
            next: first,
            clock: clock.clone(),
        }
    }

    /// How long to wait after another failure.
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.mul_f64(1.5).min(self.limit);
        spread(wait, self.clock.jitter())
    }

    /// How long to wait after another failure, where the server may have said how long it wants to be left alone: all
    /// that were told the same come spread over the span after it.
    pub fn wait_at_least(&mut self, told: Option<Duration>) -> Duration {
        let wait = self.wait();
        match told {
            Some(told) => told + wait.min(told).mul_f64(self.clock.jitter().abs()),
            None => wait,
        }
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Delays between tries of many who failed at the same moment: anything up to a bound, which is half as high again each
/// time.
#[derive(Debug, Clone)]
pub struct FullJitter(Backoff);

impl FullJitter {
    /// Begins with waits of up to `first`, and never waits longer than `limit`.
    pub fn new(clock: &Clock, first: Duration, limit: Duration) -> Self {
        Self(Backoff::new(clock, first, limit))
    }

    /// How long to wait after another failure; not less than the server told.
    pub fn wait_at_least(&mut self, told: Option<Duration>) -> Duration {
        let bound = self.0.next;
        self.0.next = bound.mul_f64(1.5).min(self.0.limit);
        told.unwrap_or_default() + bound.mul_f64(self.0.clock.jitter().abs())
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// A span, give or take a fifth.
fn spread(span: Duration, jitter: f64) -> Duration {
    span.mul_f64(1.0 + 0.2 * jitter.clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_begin_anew() {
        let (first, limit) = (Duration::from_secs(1), Duration::from_secs(10));
        let mut backoff = Backoff::new(&Clock::system(), first, limit);
        let waits: Vec<_> = (0..20).map(|_| backoff.wait()).collect();
        assert!(waits[0] >= first.mul_f64(0.8) && waits[0] <= first.mul_f64(1.2));
        assert!(waits[19] >= limit.mul_f64(0.8) && waits[19] <= limit.mul_f64(1.2));
        backoff.reset();
        assert!(backoff.wait() <= first.mul_f64(1.2));
    }

    #[test]
    fn what_the_server_says_is_kept_to_and_spread() {
        let told = Duration::from_secs(10);
        let mut backoff = Backoff::new(&Clock::system(), Duration::from_secs(20), Duration::from_secs(20));
        let waits: Vec<_> = (0..200).map(|_| backoff.wait_at_least(Some(told))).collect();
        assert!(waits.iter().all(|wait| *wait >= told && *wait <= told * 2));
        let late = waits.iter().filter(|wait| **wait > told.mul_f64(1.5)).count();
        assert!((50..150).contains(&late), "{late} of 200 in the second half");
    }

    /// 5,000 agents lose their server at the same moment: how many of them come within the worst second.
    #[test]
    fn many_who_fail_at_once_come_back_spread() {
        let (first, limit) = (Duration::from_secs(5), Duration::from_secs(15));
        let clock = Clock::system();
        let mut agents: Vec<_> = (0..5000).map(|_| FullJitter::new(&clock, first, limit)).collect();
        let mut at = vec![Duration::ZERO; agents.len()];
        let mut worst = Vec::new();
        for _round in 0..6 {
            for (agent, at) in agents.iter_mut().zip(&mut at) {
                *at += agent.wait_at_least(None);
            }
            let mut seconds = std::collections::HashMap::<u64, usize>::new();
            for at in &at {
                *seconds.entry(at.as_secs()).or_default() += 1;
            }
            worst.push(seconds.values().copied().max().unwrap());
        }
        assert!(
            worst[0] < 1200,
            "a fifth of them in each of the five seconds: {worst:?}"
        );
        assert!(worst[5] < 500, "{worst:?}");
        let told = agents[0].wait_at_least(Some(Duration::from_secs(60)));
        assert!(told >= Duration::from_secs(60) && told <= Duration::from_secs(75));
        agents[0].reset();
        assert!(agents[0].wait_at_least(None) <= first);
    }
}
