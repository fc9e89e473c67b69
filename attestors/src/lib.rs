//! Attestor traits, evidence and selector vocabulary.
