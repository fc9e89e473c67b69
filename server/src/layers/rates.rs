//! Token buckets for sources and callers. A call over its rate waits a while for its turn, as in SPIRE.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tokio::time::Instant;
use vouchsafe_identity::SpiffeId;

use crate::caller::Source;
use crate::config::Limits;

/// Why a call does not get its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// More at once than ever fits.
    #[error("{asked} items in one request are more than the limit of {limit}")]
    TooManyAtOnce {
        /// How many were asked for.
        asked: u32,
        /// The limit.
        limit: u32,
    },
    /// It would have to wait too long.
    #[error("rate limit exceeded: try again in {} ms", .0.as_millis())]
    TooSoon(Duration),
}

/// Time for the buckets: tokio's, so that tests can pause it.
#[derive(Debug, Clone)]
struct BucketClock(Instant);

impl GovernorClock for BucketClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// One bucket a key.
pub struct Buckets<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, BucketClock, NoOpMiddleware<Duration>>,
    clock: BucketClock,
    burst: NonZeroU32,
    max_wait: Duration,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buckets(burst {})", self.burst)
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(per_second: u32, burst: u32, max_wait: Duration) -> Self {
        let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let burst = at_least_one(burst);
        let clock = BucketClock(Instant::now());
        let quota = Quota::per_second(at_least_one(per_second)).allow_burst(burst);
        Self {
            limiter: RateLimiter::dashmap_with_clock(quota, clock.clone()),
            clock,
            burst,
            max_wait,
        }
    }

    /// Takes `count` from the key's bucket; waits for its turn, but not too long.
    ///
    /// # Errors
    /// [`RateError`] when it cannot be, or would take too long.
    pub async fn take(&self, key: &K, count: u32) -> Result<(), RateError> {
        let Some(count) = NonZeroU32::new(count) else {
            return Ok(());
        };
        let begun = self.clock.now();
        loop {
            let too_many = |_| RateError::TooManyAtOnce {
                asked: count.get(),
                limit: self.burst.get(),
            };
            let Err(not_until) = self.limiter.check_key_n(key, count).map_err(too_many)? else {
                return Ok(());
            };
            let now = self.clock.now();
            let wait = not_until.wait_time_from(now);
            if now.saturating_sub(begun) + wait > self.max_wait {
                return Err(RateError::TooSoon(wait));
            }
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    fn forget_idle(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// All buckets of the server.
#[derive(Debug)]
pub struct Rates {
    /// Attestations, by source.
    pub attestations: Buckets<Source>,
    /// Other calls without an SVID, by source.
    pub anonymous_calls: Buckets<Source>,
    /// Signatures, by caller.
    pub signatures: Buckets<SpiffeId>,
    /// Other calls, by caller.
    pub calls: Buckets<SpiffeId>,
}

impl Rates {
    /// The rates of the config.
    pub fn new(limits: &Limits) -> Self {
        let wait = limits.max_rate_wait.get();
        Self {
            attestations: Buckets::new(
                limits.attestations_per_second_per_source,
                limits.attestation_burst_per_source,
                wait,
            ),
            anonymous_calls: Buckets::new(
                limits.anonymous_calls_per_second_per_source,
                limits.anonymous_call_burst_per_source,
                wait,
            ),
            signatures: Buckets::new(
                limits.signatures_per_second_per_caller,
                limits.signature_burst_per_caller,
                wait,
            ),
            calls: Buckets::new(
                limits.calls_per_second_per_caller,
                limits.call_burst_per_caller,
                wait,
            ),
        }
    }

    /// Forgets keys whose buckets are full again, so that memory does not grow with every address ever seen.
    pub fn forget_idle(&self) {
        self.attestations.forget_idle();
        self.anonymous_calls.forget_idle();
        self.signatures.forget_idle();
        self.calls.forget_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_calls_wait_and_a_long_wait_is_refused() {
        let buckets = Buckets::new(10, 5, Duration::from_secs(1));
        let begun = Instant::now();
        buckets.take(&"a", 5).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(1));
        buckets.take(&"a", 5).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(490));
        buckets.take(&"b", 5).await.unwrap();
        let refused = buckets.take(&"a", 6).await.unwrap_err();
        assert_eq!(refused, RateError::TooManyAtOnce { asked: 6, limit: 5 });
        let slow = Buckets::new(1, 1, Duration::from_millis(500));
        slow.take(&"a", 1).await.unwrap();
        assert!(matches!(slow.take(&"a", 1).await, Err(RateError::TooSoon(_))));
    }
}
