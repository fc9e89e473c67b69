//! How many connections a socket holds at once, in total and from each uid, so that one user can neither
//! exhaust the daemon's descriptors nor keep the others out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most connections of one socket that are open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of all users together.
    pub max_connections: usize,
    /// Of each uid.
    pub max_connections_per_uid: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_uid: 512,
        }
    }
}

/// Why a connection is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitError {
    #[error("the socket's limit of {max} connections is reached")]
    Total { max: usize },
    #[error("the limit of {max} connections of one uid is reached")]
    Uid { max: usize },
}

/// Counts the connections of one socket.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: ConnectionLimits,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_uid: HashMap<u32, usize>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    limiter: Arc<Limiter>,
    uid: u32,
}

impl Limiter {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            open: Mutex::default(),
        })
    }

    pub(super) fn admit(self: &Arc<Self>, uid: u32) -> Result<Permit, LimitError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_uid = open.by_uid.get(&uid).copied().unwrap_or(0);
        if of_uid >= self.limits.max_connections_per_uid {
            return Err(LimitError::Uid {
                max: self.limits.max_connections_per_uid,
            });
        }
        if open.total >= self.limits.max_connections {
            return Err(LimitError::Total {
                max: self.limits.max_connections,
            });
        }
        open.total += 1;
        open.by_uid.insert(uid, of_uid + 1);
        Ok(Permit {
            limiter: Arc::clone(self),
            uid,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total = open.total.saturating_sub(1);
        match open.by_uid.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.by_uid.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uid_at_its_limit_keeps_no_other_out_and_places_come_back() {
        let limiter = Limiter::new(ConnectionLimits {
            max_connections: 3,
            max_connections_per_uid: 2,
        });
        let first = limiter.admit(1).unwrap();
        let _second = limiter.admit(1).unwrap();
        assert_eq!(limiter.admit(1).unwrap_err(), LimitError::Uid { max: 2 });
        let other = limiter.admit(2).unwrap();
        assert_eq!(limiter.admit(3).unwrap_err(), LimitError::Total { max: 3 });
        drop(first);
        let _third = limiter.admit(1).unwrap();
        drop(other);
        assert!(limiter.admit(3).is_ok());
        assert!(
            !limiter.open.lock().unwrap().by_uid.contains_key(&3),
            "no uid is remembered for ever"
        );
    }
}
