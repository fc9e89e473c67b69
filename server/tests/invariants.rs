//! The logic of the fuzz targets over random input, so that it runs with the other tests (tests/fuzz runs it longer).

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper that fails is a test that fails"
)]

#[path = "invariants/follow.rs"]
mod follow;

use proptest::prelude::*;
use prost::Message;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Asked;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, Hello, ResumePoint};

proptest! {
    #[test]
    fn follow_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        follow::check(&bytes);
    }

    #[test]
    fn follow_hellos(
        version in 0..3_u32,
        agent_version in prop_oneof![8 => ".{0,20}", 1 => ".{250,260}"],
        log_id in prop_oneof![8 => Just(follow::LOG.to_owned()), 1 => ".{0,300}"],
        revision in 0..8_u64,
        digest in prop_oneof![Just(None), prop::collection::vec(any::<u8>(), 31..34).prop_map(Some)],
        resumes in any::<bool>(),
    ) {
        let digest = digest.unwrap_or_else(follow::right_digest);
        let resume = resumes.then_some(ResumePoint { log_id, revision, digest });
        let hello = Hello { version, features: Vec::new(), resume, agent_version };
        follow::check(&FollowRequest { message: Some(Asked::Hello(hello)) }.encode_to_vec());
    }
}
