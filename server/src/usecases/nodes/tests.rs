//! Tests of attestation, renewal, bans and deletion of agents.
