//! Both daemons in one process under one controlled clock: random operations, faults and restarts, and after each
//! of them what must hold. A seed gives the same operations again, and the same chance by which both daemons spread what
//! they do; `make simulation SEED=n SEEDS=1` replays it. Keys, and the order of what the kernel delivers, are new each time.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "simulation/authorities.rs"]
mod authorities;
#[path = "simulation/checks.rs"]
mod checks;
#[path = "simulation/steps.rs"]
mod steps;
#[path = "simulation/world.rs"]
mod world;

use steps::Step;
use world::World;

/// Seeds that each run of the tests tries; `make simulation` tries thousands.
const SEEDS: u64 = 4;
/// The first of them, unless one is asked for.
const FIRST_SEED: u64 = 1;

/// A number that the command line gave.
#[expect(
    clippy::disallowed_methods,
    reason = "`make simulation` hands its numbers over this way"
)]
fn asked(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        _ => otherwise,
    }
}

fn run(seed: u64, steps: &[Step]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(async {
        let mut world = World::start(seed).await?;
        for (number, step) in steps.iter().enumerate() {
            let done = world.take(*step).await;
            done.map_err(|error| {
                let before = steps.get(..=number).unwrap_or_default();
                error.context(format!("seed {seed}, step {number} of {before:?}"))
            })?;
        }
        world
            .finish()
            .await
            .map_err(|error| error.context(format!("seed {seed}, at the end of {steps:?}")))
    });
    runtime.shutdown_background();
    outcome
}

#[test]
fn what_must_hold_holds_after_each_step() {
    let first = asked("VOUCHSAFE_SIMULATION_SEED", FIRST_SEED);
    let count = asked("VOUCHSAFE_SIMULATION_SEEDS", SEEDS);
    let mut taken = 0;
    for seed in first..first + count {
        let steps = steps::of_seed(seed);
        taken += steps.len();
        if let Err(error) = run(seed, &steps) {
            panic!("{error:?}\nreplay it: make simulation SEED={seed} SEEDS=1");
        }
        if seed.is_multiple_of(100) {
            println!("seed {seed}: all well after {taken} steps");
        }
    }
    println!("{count} seeds from {first} on, {taken} steps: all well");
}
