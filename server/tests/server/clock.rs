//! A clock that jumps by a day and back while keys and SVIDs rotate: the real server with its loops, and an agent's
//! renewals.

use std::time::Duration;

use tokio::time::timeout;
use vouchsafe_proto::spire::api::server::agent::v1::PostStatusRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;

use crate::support::*;

const DAY: time::Duration = time::Duration::days(1);
const LONG: Duration = Duration::from_secs(60);

async fn uses(server: &TestServer, identity: &Identity) -> Result<(), tonic::Status> {
    let mut client = AgentClient::new(server.tls(Some(identity)).await);
    client.post_status(PostStatusRequest::default()).await.map(drop)
}

/// A new agent, as soon as the server has noticed the jump.
async fn joined(server: &TestServer) -> Identity {
    let trying = async {
        loop {
            let token = server.token(600).await;
            if let Ok(joined) = attest(server.tls(None).await, &token).await {
                return joined;
            }
        }
    };
    timeout(LONG, trying).await.unwrap()
}

/// Waits until the server has noticed the jump: it shows an SVID of now, and issues by an authority of now.
async fn renewed(server: &TestServer, identity: &Identity) -> Identity {
    let trying = async {
        loop {
            match renew(server.tls(Some(identity)).await).await {
                Ok(renewed) => return renewed,
                Err(status) if reason(&status).is_some() => panic!("{status}"),
                Err(_) => {}
            }
        }
    };
    let renewed = timeout(LONG, trying).await.unwrap();
    let (leaf, now) = (renewed.leaf(), server.clock.now());
    assert!(leaf.not_before <= now && now < leaf.not_after);
    assert!(leaf.not_after <= now + time::Duration::hours(1));
    renewed
}

#[tokio::test]
async fn an_agent_renews_before_and_after_the_clock_jumped_by_a_day_and_back() {
    // At the beginning of a rotation, when the next keys are prepared, and shortly before they sign.
    for hour in [1, 13, 19] {
        let server = server().await;
        for _ in 0..hour * 2 {
            // By steps, as the rotation takes them.
            server.clock.jump(time::Duration::minutes(30));
        }
        let agent = server.agent().await;
        let agent = renewed(&server, &agent).await;
        uses(&server, &agent).await.unwrap();
        server.clock.jump(DAY);
        // By the server's clock its SVID has ended: that cannot heal while the clock is ahead, and takes nothing away.
        uses(&server, &agent).await.unwrap_err();
        let ahead = joined(&server).await;
        uses(&server, &ahead).await.unwrap();
        server.clock.jump(-DAY);
        let agent = renewed(&server, &agent).await;
        uses(&server, &agent).await.unwrap();
        // What was issued ahead of time is good when its time comes, and not before.
        uses(&server, &ahead).await.unwrap_err();
        let next = renewed(&server, &agent).await;
        uses(&server, &next).await.unwrap();
    }
}

#[tokio::test]
async fn the_server_is_known_again_after_its_clock_was_put_back_within_the_life_of_its_authorities() {
    let server = server().await;
    let ahead = time::Duration::minutes(65);
    server.clock.jump(ahead);
    // The SVID that the server showed first has ended: whoever comes in meets one that was made since.
    joined(&server).await;
    let sequence = server.bundle().await.sequence;
    server.clock.jump(-ahead);
    let agent = joined(&server).await;
    uses(&server, &agent).await.unwrap();
    let since = server.bundle().await.sequence;
    assert_eq!(since, sequence, "no other authority had it made anew");
}
