//! Attestor traits, evidence and selector vocabulary.
//!
//! The attestors themselves stand in `attestors/node` and `attestors/workload`.

pub mod asked;
pub mod evidence;
pub mod node;
pub mod vocabulary;
pub mod workload;

pub use asked::Asked;
pub use evidence::{Evidence, Finding, Trust, Withheld};
pub use node::{Attested, Challenger, NodeAttestError, NodeProver, NodeVerifier};
pub use vocabulary::trust_of;
pub use workload::{FileId, Process, Reach, WorkloadAttestError, WorkloadAttestor};
