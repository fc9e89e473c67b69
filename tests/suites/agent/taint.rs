//! An authority that its server distrusts: what it signed is replaced at once, by a server of SPIRE's kind too, which is
//! asked for news again and again.

use vouchsafe_identity::{jwt, x509};
use vouchsafe_proto::workload::JwtsvidRequest;
use vouchsafe_proto::workload::X509svidResponse;
use vouchsafe_tests::node::{Node, certificates, message, with_header};
use vouchsafe_tests::upstream::Upstream;
use vouchsafe_tests::wait::until;

use super::node_with;

/// Whether the first SVID hangs on what signs now, and verifies by the bundle that came with it.
fn is_new(response: &X509svidResponse, upstream: &Upstream) -> bool {
    let svid = &response.svids[0];
    let chain = certificates(&svid.x509_svid).unwrap();
    let mut shown = upstream.bundle();
    let known = certificates(&svid.bundle).unwrap();
    shown
        .x509_authorities
        .retain(|authority| known.contains(&authority.certificate));
    let now = vouchsafe_runtime::Clock::system().now();
    x509::verify_svid(&chain, &shown, now).unwrap();
    let signs = upstream.bundle().x509_authorities.pop().unwrap();
    signs.signed_any(&svid.x509_svid)
}

async fn jwt_signer(node: &Node) -> String {
    let request = JwtsvidRequest {
        audience: vec!["db".to_owned()],
        spiffe_id: String::new(),
    };
    let mut client = node.workload().await.unwrap();
    let answer = client.fetch_jwtsvid(with_header(request)).await.unwrap();
    let token = answer.into_inner().svids.remove(0).svid;
    jwt::peek_unverified(&token).unwrap().key_id.unwrap()
}

#[tokio::test]
async fn a_tainted_authority_is_replaced_in_open_streams_and_its_tokens_are_forgotten() {
    let node = node_with("me").await;
    let mut stream = node.x509().await.unwrap();
    assert!(is_new(&message(&mut stream).await.unwrap(), &node.upstream));
    let before = jwt_signer(&node).await;
    assert_eq!(jwt_signer(&node).await, before, "cached");
    node.upstream.replace_authorities().unwrap();
    // The bundle is news, and no reason to issue anything anew.
    assert!(!is_new(&message(&mut stream).await.unwrap(), &node.upstream));
    assert_eq!(jwt_signer(&node).await, before, "still cached");
    let counts = node.upstream.counts();
    assert_eq!((counts.x509, counts.jwt, counts.renewed), (1, 1, 0));
    node.upstream.taint_old();
    while !is_new(&message(&mut stream).await.unwrap(), &node.upstream) {}
    assert_eq!(
        node.upstream.counts().renewed,
        1,
        "the agent's own SVID comes first"
    );
    until("tokens of the tainted key are gone", async || {
        (jwt_signer(&node).await != before).then_some(())
    })
    .await
    .unwrap();
    node.upstream.revoke_old();
    let last = until("the revoked authority has left the stream", async || {
        let last = message(&mut stream).await.unwrap();
        (certificates(&last.svids[0].bundle).unwrap().len() == 1).then_some(last)
    });
    assert!(is_new(&last.await.unwrap(), &node.upstream));
    // The agent can still speak with its server: a new connection shows the new SVID.
    node.upstream
        .put_entry("too", &[&vouchsafe_tests::daemons::own_uid()], |_| {});
    node.given(&["/me", "/too"]).await.unwrap();
}

/// The agent heard neither of the tainting nor of anything else before the authority was gone.
#[tokio::test]
async fn what_hangs_on_an_authority_that_is_gone_is_issued_anew() {
    let node = node_with("me").await;
    let mut stream = node.x509().await.unwrap();
    message(&mut stream).await.unwrap();
    node.upstream.change(|server| server.away = true);
    node.upstream.replace_authorities().unwrap();
    node.upstream.taint_old();
    node.upstream.revoke_old();
    node.upstream.change(|server| server.away = false);
    let signs = node.upstream.bundle().x509_authorities.pop().unwrap();
    let last = loop {
        // The bundle comes first: until the next message the old SVID is worth nothing, whatever the agent does.
        let next = message(&mut stream).await.unwrap();
        if signs.signed_any(&next.svids[0].x509_svid) {
            break next;
        }
    };
    assert!(is_new(&last, &node.upstream));
    assert_eq!(node.upstream.counts().renewed, 1);
}
