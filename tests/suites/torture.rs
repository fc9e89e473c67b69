//! Nothing acknowledged is lost: the server and the store are killed, and lose power, at moments that chance chooses,
//! while callers change entries, join agents, turn authorities and get SVIDs.
//!
//! `make test` runs a share, `make torture` the whole: `KILLS`, `PREFIXES` and `SEED` say how many and which; each
//! failure names its seed, and that seed makes the same choices again.

#![expect(
    clippy::print_stdout,
    reason = "the seed and the counts are what a run of the long suite is for"
)]

#[path = "torture/faults.rs"]
mod faults;
#[path = "torture/inspect.rs"]
mod inspect;
#[path = "torture/kills.rs"]
mod kills;
#[path = "torture/ledger.rs"]
mod ledger;
#[path = "torture/load.rs"]
mod load;
#[path = "torture/power.rs"]
mod power;

use vouchsafe_tests::disk::Numbers;

/// How often a server is killed in `make test`.
const KILLS: usize = 10;
/// How many losses of power each suite tries in `make test`.
const PREFIXES: usize = 16;

/// How much is asked of this run.
pub(crate) struct Task {
    /// How often.
    pub(crate) count: usize,
    seed: u64,
    what: &'static str,
}

impl Task {
    /// As often as the variable says, or `count` times.
    fn new(what: &'static str, variable: &str, count: usize) -> Self {
        let count = variable_of(variable)
            .and_then(|text| text.parse().ok())
            .unwrap_or(count);
        let fresh = || u64::from_le_bytes(rand());
        let seed = variable_of("SEED")
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(fresh);
        println!("{what}: {count} times; seed {seed} (again: SEED={seed})");
        Self { count, seed, what }
    }

    pub(crate) fn kills(what: &'static str) -> Self {
        Self::new(what, "KILLS", KILLS)
    }

    pub(crate) fn prefixes(what: &'static str) -> Self {
        Self::new(what, "PREFIXES", PREFIXES)
    }

    /// The numbers of this run.
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers::new(self.seed)
    }

    /// What to say about round `n` when it fails.
    pub(crate) fn round(&self, n: usize) -> String {
        format!("{}, round {n}, SEED={}", self.what, self.seed)
    }
}

fn rand() -> [u8; 8] {
    let mut bytes = [0; 8];
    // Without randomness the seed is 0, which is printed as any other.
    let _unlikely = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

#[expect(
    clippy::disallowed_methods,
    reason = "`make torture` tells how much by the environment, and a test has no config"
)]
fn variable_of(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}
