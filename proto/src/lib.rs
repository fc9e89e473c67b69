//! Generated gRPC types: the SPIFFE Workload API, SPIRE's APIs, Vouchsafe's own. No logic.
//!
//! The .proto files beside `src/` are written from the wire facts; `committed/descriptors.txt` lists what they
//! promise, and `tests/compatibility` refuses a change that would break a peer.
//! Maps are `BTreeMap`s, so that equal messages have equal bytes. Messages that carry a key or a token do not show it in `Debug`.

mod generated;
mod redacted;

pub use generated::{spire, vouchsafe, workload};

/// All files with their imports as an encoded `google.protobuf.FileDescriptorSet`, for reflection and for tests
/// that go through every method.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
