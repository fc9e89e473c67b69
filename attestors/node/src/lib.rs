//! Node attestors: prover and verifier side by side, so that what one writes is what the other reads.
//! Verifiers reach the server's state only through small traits of their own; they never write it.

#[cfg(test)]
mod contract;
pub mod join_token;
