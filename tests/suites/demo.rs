//! `make demo`, with the binaries of this build: it succeeds twice in a row, and when it is interrupted it says
//! so and leaves nothing running and nothing behind.

use vouchsafe_tests::demos::Demo;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

const DEMO: Demo = Demo {
    program: "run",
    interpreter: "python",
    home: ".run",
};

const SHOWN: [&str; 8] = [
    "I am spiffe://example.org/agent/researcher",
    "I am spiffe://example.org/agent/coder",
    "I am spiffe://example.org/agent/reviewer",
    "3 of 3 examples come out right",
    "a caller without an SVID: the reviewer hung up",
    "reviewer: not spiffe://example.org/agent/researcher",
    "under the same uid: PERMISSION_DENIED",
    "vouchsafe explain",
];

#[tokio::test]
async fn it_shows_everything_twice_and_cleans_up_when_interrupted() {
    require!(Need::Python);
    DEMO.shows(&[], &SHOWN).await.unwrap();
    DEMO.interrupted(|stage| stage.join("run/workload.sock").exists())
        .await
        .unwrap();
    DEMO.shows(&[], &SHOWN).await.unwrap();
}
