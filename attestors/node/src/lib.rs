//! Node attestors: prover and verifier side by side.
