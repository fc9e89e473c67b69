//! What can happen, and how a seed becomes a row of it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use vouchsafe_tests::link::Mode;

/// Entries that a simulation can have at a time.
pub(crate) const ENTRIES: u8 = 5;

/// Which signing key a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    X509,
    Jwt,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// An entry is registered; the caller matches it if it is `mine`.
    Create { entry: u8, mine: bool },
    /// An entry is changed so that the caller matches it, or no longer.
    Retarget { entry: u8, mine: bool },
    /// An entry is removed.
    Delete { entry: u8 },
    /// An authority is prepared and activated by hand.
    Rotate(Kind),
    /// The authority before the present one is distrusted.
    Taint(Kind),
    /// A distrusted authority is taken out of the bundle.
    Revoke(Kind),
    /// The network changes.
    Network(Mode),
    /// The server stops, or starts again.
    Server { up: bool },
    /// The agent stops and starts again.
    RestartAgent,
    /// The node is banned, and joins anew.
    Ban,
    /// Time goes by.
    Pass { seconds: u32 },
    /// The clock of the machine is put forward, or back again.
    Jump,
    /// The caller asks for its X.509-SVIDs on a new connection.
    Fetch,
    /// The caller asks for a JWT-SVID.
    FetchJwt,
    /// Everything that is up comes to rest: the caller has what it must have.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop_oneof![Just(Kind::X509), Just(Kind::Jwt)];
    let entry = 0..ENTRIES;
    prop_oneof![
        6 => (entry.clone(), proptest::bool::weighted(0.7)).prop_map(|(entry, mine)| Step::Create { entry, mine }),
        3 => (entry.clone(), any::<bool>()).prop_map(|(entry, mine)| Step::Retarget { entry, mine }),
        4 => entry.prop_map(|entry| Step::Delete { entry }),
        2 => kind().prop_map(Step::Rotate),
        2 => kind().prop_map(Step::Taint),
        2 => kind().prop_map(Step::Revoke),
        4 => prop_oneof![Just(Mode::Cut), Just(Mode::Silent), Just(Mode::AnswersLost)].prop_map(Step::Network),
        4 => Just(Step::Network(Mode::Open)),
        2 => any::<bool>().prop_map(|up| Step::Server { up }),
        2 => Just(Step::RestartAgent),
        1 => Just(Step::Ban),
        5 => (1_u32..90).prop_map(|seconds| Step::Pass { seconds }),
        3 => (90_u32..7200).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::Jump),
        6 => Just(Step::Fetch),
        3 => Just(Step::FetchJwt),
        6 => Just(Step::Settle),
    ]
}

/// The steps of a seed, the same each time.
pub(crate) fn of_seed(seed: u64) -> Vec<Step> {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().zip(seed.to_le_bytes()) {
        *place = byte;
    }
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    vec(step(), 20..60).new_tree(&mut runner).unwrap().current()
}
