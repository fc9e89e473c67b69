//! Keeps a hostile client from filling the log: a few messages a window, the rest counted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Messages let through in one window.
const MESSAGES: u32 = 10;

const WINDOW: Duration = Duration::from_secs(10);

/// Says which messages may be written.
#[derive(Debug)]
pub struct Throttle(Mutex<Window>);

#[derive(Debug)]
struct Window {
    began: Instant,
    written: u32,
    suppressed: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

impl Throttle {
    /// Nothing was written yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Window {
            began: Instant::now(),
            written: 0,
            suppressed: 0,
        }))
    }

    /// Whether one more message may be written now, and if so how many were left out before it.
    pub fn permit(&self) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(window.began) >= WINDOW {
            window.began = now;
            window.written = 0;
        }
        if window.written >= MESSAGES {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_and_told_of_later() {
        let throttle = Throttle::new();
        for _ in 0..MESSAGES {
            assert_eq!(throttle.permit(), Some(0));
        }
        for _ in 0..500 {
            assert_eq!(throttle.permit(), None);
        }
        tokio::time::advance(WINDOW).await;
        assert_eq!(throttle.permit(), Some(500));
        assert_eq!(throttle.permit(), Some(0));
    }
}
