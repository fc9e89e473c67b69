//! How much load is made: enough for steady figures, or little, to see that everything still works.

use std::time::Duration;

/// The size of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Little load: shows that a figure can be measured, not what it is.
    pub quick: bool,
}

impl Plan {
    /// `full`, or `quick` in a quick run.
    #[must_use]
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// How long one load lasts.
    #[must_use]
    pub fn load(&self) -> Duration {
        self.pick(Duration::from_secs(6), Duration::from_millis(500))
    }

    /// How many entries stand for a small registry.
    #[must_use]
    pub fn few(&self) -> usize {
        self.pick(1_000, 100)
    }

    /// How many entries stand for a large one.
    #[must_use]
    pub fn many(&self) -> usize {
        self.pick(100_000, 1_000)
    }
}
