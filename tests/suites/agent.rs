//! The agent against a server that does as it is told: what callers get, what they do not get, and what becomes of the
//! agent when its server refuses it. The caller is this test itself.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail as tests do"
)]

#[path = "agent/ban.rs"]
mod ban;
#[path = "agent/hold.rs"]
mod hold;
#[path = "agent/jwt.rs"]
mod jwt;
#[path = "agent/life.rs"]
mod life;
#[path = "agent/offline.rs"]
mod offline;
#[path = "agent/operator.rs"]
mod operator;
#[path = "agent/push.rs"]
mod push;
#[path = "agent/taint.rs"]
mod taint;
#[path = "agent/together.rs"]
mod together;
#[path = "agent/x509.rs"]
mod x509;

use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::Node;

/// A node that knows one entry, which this process matches.
async fn node_with(id: &str) -> Node {
    let node = Node::start().await.unwrap();
    node.upstream.put_entry(id, &[&own_uid()], |_| {});
    node.given(&[&format!("/{id}")]).await.unwrap();
    node
}
