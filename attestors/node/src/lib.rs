//! Node attestors: prover and verifier side by side.

pub mod join_token;
