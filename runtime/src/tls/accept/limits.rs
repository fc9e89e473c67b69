//! Places for open connections: so many in all, so many from one source; and a log that a flood cannot fill.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::AcceptLimits;
use super::metrics::{ConnectionMetrics, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_SOURCE};

/// Refusals are logged at most this often, with how many there were.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// It takes the unfinished handshakes of this many sources to make the others wait.
const SOURCES_AT_LEAST: u32 = 4;

/// Why there is no place for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("max_connections is reached")]
    Full,
    #[error("max_connections_per_source is reached")]
    SourceFull,
}

impl NoPlace {
    /// The limit that is reached.
    pub(super) const fn limit(self) -> &'static str {
        match self {
            Self::Full => MAX_CONNECTIONS,
            Self::SourceFull => MAX_CONNECTIONS_PER_SOURCE,
        }
    }
}

/// Counts open connections.
#[derive(Debug, Clone)]
pub(super) struct Places {
    taken: Arc<Mutex<Taken>>,
    limit: u32,
    limit_per_source: u32,
    handshakes_per_source: usize,
    metrics: ConnectionMetrics,
}

#[derive(Debug, Default)]
struct Taken {
    all: u32,
    by_source: HashMap<IpAddr, Source>,
}

#[derive(Debug)]
struct Source {
    open: u32,
    handshakes: Arc<Semaphore>,
}

/// One open connection; gives its place back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<Taken>>,
    source: IpAddr,
    handshakes: Arc<Semaphore>,
    metrics: ConnectionMetrics,
}

impl Place {
    /// The handshakes that go on at once with the connection's source.
    pub(super) fn handshakes(&self) -> Arc<Semaphore> {
        self.handshakes.clone()
    }
}

impl Places {
    pub(super) fn new(limits: &AcceptLimits, metrics: &ConnectionMetrics) -> Self {
        let share = (limits.max_pending_handshakes.get() / SOURCES_AT_LEAST).max(1);
        Self {
            taken: Arc::default(),
            limit: limits.max_connections.get(),
            limit_per_source: limits.max_connections_per_source.get(),
            handshakes_per_source: usize::try_from(share).unwrap_or(usize::MAX),
            metrics: metrics.clone(),
        }
    }

    pub(super) fn take(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let source = source_of(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let from_source = taken.by_source.get(&source).map_or(0, |source| source.open);
        if taken.all >= self.limit {
            return Err(NoPlace::Full);
        }
        if from_source >= self.limit_per_source {
            return Err(NoPlace::SourceFull);
        }
        taken.all += 1;
        let entry = taken.by_source.entry(source).or_insert_with(|| Source {
            open: 0,
            handshakes: Arc::new(Semaphore::new(self.handshakes_per_source)),
        });
        entry.open += 1;
        let handshakes = entry.handshakes.clone();
        self.metrics.opened();
        Ok(Place {
            metrics: self.metrics.clone(),
            taken: self.taken.clone(),
            source,
            handshakes,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.closed();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        match taken.by_source.get_mut(&self.source) {
            Some(source) if source.open > 1 => source.open -= 1,
            _ => {
                taken.by_source.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 network that an IPv6 host can move within at will.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
    }
}

/// Logs refusals, now and then.
#[derive(Debug, Default)]
pub(super) struct Refused {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Refused {
    pub(super) fn note(&mut self, peer: SocketAddr, why: NoPlace) {
        self.unlogged += 1;
        if self.logged.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            return;
        }
        tracing::warn!(%peer, reason = %why, count = self.unlogged, "connections refused");
        self.logged = Some(Instant::now());
        self.unlogged = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn places(all: u32, per_source: u32) -> Places {
        Places::new(
            &AcceptLimits {
                max_connections: NonZeroU32::new(all).unwrap(),
                max_connections_per_source: NonZeroU32::new(per_source).unwrap(),
                ..AcceptLimits::default()
            },
            &ConnectionMetrics::default(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_source_cannot_take_the_places_of_others() {
        let places = places(10, 2);
        let held = [places.take(ip("10.0.0.1")), places.take(ip("10.0.0.1"))];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(places.take(ip("10.0.0.1")).unwrap_err(), NoPlace::SourceFull);
        assert!(places.take(ip("10.0.0.2")).is_ok());
    }

    #[test]
    fn a_place_that_is_given_back_can_be_taken_again_and_leaves_nothing_behind() {
        let places = places(1, 1);
        let held = places.take(ip("10.0.0.1")).unwrap();
        assert_eq!(places.take(ip("10.0.0.2")).unwrap_err(), NoPlace::Full);
        drop(held);
        drop(places.take(ip("10.0.0.2")).unwrap());
        assert!(places.taken.lock().unwrap().by_source.is_empty());
    }

    #[test]
    fn a_network_of_64_bits_is_one_source_and_mapped_addresses_are_ipv4() {
        assert_eq!(
            source_of(ip("2001:db8::1")),
            source_of(ip("2001:db8::ffff:0:0:1"))
        );
        assert_ne!(source_of(ip("2001:db8::1")), source_of(ip("2001:db8:0:1::1")));
        assert_eq!(source_of(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
    }
}
