//! Token buckets for sources and callers. A call over its rate waits a while for its turn, as in SPIRE.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock as GovernorClock;
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use vouchsafe_identity::SpiffeId;

use crate::caller::Source;
use crate::config::Limits;
use crate::metrics::Refused;

/// Why a call does not get its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RateError {
    /// More at once than ever fits.
    #[error("{asked} {unit} in one request are more than the limit `{limit}` of {most} {unit}")]
    TooManyAtOnce {
        /// How many were asked for.
        asked: u32,
        /// The most.
        most: u32,
        /// What is counted.
        unit: &'static str,
        /// The limit's key.
        limit: &'static str,
    },
    /// It would have to wait too long.
    #[error(
        "rate limit `{limit}` of {per_second} {unit} a second is exceeded: try again in {} ms", wait.as_millis()
    )]
    TooSoon {
        /// The limit's key.
        limit: &'static str,
        /// How many a second.
        per_second: u32,
        /// What is counted.
        unit: &'static str,
        /// When there would be a turn.
        wait: Duration,
    },
}

/// A rate, with the keys by which its errors and metrics name it.
#[derive(Debug, Clone, Copy)]
struct Rate {
    unit: &'static str,
    per_second: u32,
    rate_key: &'static str,
    burst: u32,
    burst_key: &'static str,
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
    rate: Rate,
    max_wait: Duration,
    refused: Counter,
}

impl<K: Hash + Eq + Clone> std::fmt::Debug for Buckets<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buckets({:?})", self.rate)
    }
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    fn new(rate: Rate, max_wait: Duration, refused: &Refused) -> Self {
        let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let clock = BucketClock(Instant::now());
        let quota = Quota::per_second(at_least_one(rate.per_second)).allow_burst(at_least_one(rate.burst));
        Self {
            limiter: RateLimiter::dashmap_with_clock(quota, clock.clone()),
            clock,
            rate,
            max_wait,
            refused: refused.watch(rate.rate_key),
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
            let too_many = |_| {
                self.refused.inc();
                RateError::TooManyAtOnce {
                    asked: count.get(),
                    most: self.rate.burst,
                    unit: self.rate.unit,
                    limit: self.rate.burst_key,
                }
            };
            let Err(not_until) = self.limiter.check_key_n(key, count).map_err(too_many)? else {
                return Ok(());
            };
            let now = self.clock.now();
            let wait = not_until.wait_time_from(now);
            if now.saturating_sub(begun) + wait > self.max_wait {
                self.refused.inc();
                return Err(RateError::TooSoon {
                    limit: self.rate.rate_key,
                    per_second: self.rate.per_second,
                    unit: self.rate.unit,
                    wait,
                });
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
    pub fn new(limits: &Limits, refused: &Refused) -> Self {
        let wait = limits.max_rate_wait.get();
        let attestations = Rate {
            unit: "attestations",
            per_second: limits.attestations_per_second_per_source,
            rate_key: "attestations_per_second_per_source",
            burst: limits.attestation_burst_per_source,
            burst_key: "attestation_burst_per_source",
        };
        let anonymous_calls = Rate {
            unit: "calls",
            per_second: limits.anonymous_calls_per_second_per_source,
            rate_key: "anonymous_calls_per_second_per_source",
            burst: limits.anonymous_call_burst_per_source,
            burst_key: "anonymous_call_burst_per_source",
        };
        let signatures = Rate {
            unit: "signatures",
            per_second: limits.signatures_per_second_per_caller,
            rate_key: "signatures_per_second_per_caller",
            burst: limits.signature_burst_per_caller,
            burst_key: "signature_burst_per_caller",
        };
        let calls = Rate {
            unit: "calls",
            per_second: limits.calls_per_second_per_caller,
            rate_key: "calls_per_second_per_caller",
            burst: limits.call_burst_per_caller,
            burst_key: "call_burst_per_caller",
        };
        Self {
            attestations: Buckets::new(attestations, wait, refused),
            anonymous_calls: Buckets::new(anonymous_calls, wait, refused),
            signatures: Buckets::new(signatures, wait, refused),
            calls: Buckets::new(calls, wait, refused),
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

    fn buckets(per_second: u32, burst: u32, wait: Duration, refused: &Refused) -> Buckets<&'static str> {
        let rate = Rate {
            unit: "things",
            per_second,
            rate_key: "things_per_second",
            burst,
            burst_key: "thing_burst",
        };
        Buckets::new(rate, wait, refused)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_calls_wait_and_a_long_wait_is_refused() {
        let refusals = Refused::default();
        let buckets = buckets(10, 5, Duration::from_secs(1), &refusals);
        let begun = Instant::now();
        buckets.take(&"a", 5).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(1));
        buckets.take(&"a", 5).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(490));
        buckets.take(&"b", 5).await.unwrap();
        let refused = buckets.take(&"a", 6).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "6 things in one request are more than the limit `thing_burst` of 5 things"
        );
        let slow = self::buckets(1, 1, Duration::from_millis(500), &refusals);
        slow.take(&"a", 1).await.unwrap();
        let refused = slow.take(&"a", 1).await.unwrap_err().to_string();
        assert!(
            refused.starts_with("rate limit `things_per_second` of 1 things a second is exceeded"),
            "{refused}"
        );
        assert_eq!(refusals.watch("things_per_second").get(), 2);
    }
}
