//! Calls that match nothing yet: held until their entry comes, or their time is over, or their process is not there any
//! more.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};
use vouchsafe_proto::workload::{
    JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509BundlesResponse, X509svidResponse,
};
use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::node::{Node, end, message, paths, with_header};
use vouchsafe_tests::repository;
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::wait::{DEADLINE, until};

/// Longer than any test takes: what is held that long ends for another reason.
const LONG: &str = "hold_unmatched = \"2m\"\n";

async fn holding(config: &str) -> Node {
    let mut node = Node::down(config).await.unwrap();
    node.run(Some(TOKEN)).await.unwrap();
    node.healthy().await.unwrap();
    node
}

async fn held(node: &Node, count: u64) {
    until(&format!("{count} calls are held"), async || {
        (node.health().await.ok()?.held_calls == count).then_some(())
    })
    .await
    .unwrap();
}

/// A stream whose first message nobody has waited for yet. The answer's head comes when the call is taken in.
async fn first(node: &Node) -> Result<X509svidResponse, Status> {
    let mut stream = node.x509().await.unwrap();
    match timeout(DEADLINE, stream.message()).await.unwrap() {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::ok("the stream ended")),
        Err(status) => Err(status),
    }
}

async fn bundles(node: &Node) -> X509BundlesResponse {
    let mut client = node.workload().await.unwrap();
    let stream = client
        .fetch_x509_bundles(with_header(X509BundlesRequest {}))
        .await;
    message(&mut stream.unwrap().into_inner()).await.unwrap()
}

async fn token(node: &Node, spiffe_id: &str) -> Result<String, Status> {
    let mut client = node.workload().await.unwrap();
    let request = JwtsvidRequest {
        audience: vec!["a".to_owned()],
        spiffe_id: spiffe_id.to_owned(),
    };
    let fetched = client.fetch_jwtsvid(with_header(request)).await?.into_inner();
    Ok(fetched.svids[0].spiffe_id.clone())
}

#[tokio::test]
async fn without_the_key_a_call_that_matches_nothing_is_answered_at_once() {
    let node = Node::start().await.unwrap();
    let refused = first(&node).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(node.health().await.unwrap().held_calls, 0);
}

#[tokio::test]
async fn when_the_time_is_over_the_call_is_refused_as_ever() {
    let node = holding("hold_unmatched = \"700ms\"\n").await;
    node.upstream
        .put_entry("others", &["unix:uid:4294967294"], |_| {});
    let start = Instant::now();
    let refused = first(&node).await.unwrap_err();
    assert!(
        start.elapsed() >= Duration::from_millis(700),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("no identity issued"), "{refused}");
    let refused = token(&node, "").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    held(&node, 0).await;
}

#[tokio::test]
async fn an_entry_for_another_user_releases_nobody_and_ones_own_does() {
    let node = holding(LONG).await;
    let validated = async {
        let mut client = node.workload().await.unwrap();
        let request = ValidateJwtsvidRequest {
            audience: "a".to_owned(),
            svid: "x.y.z".to_owned(),
        };
        client.validate_jwtsvid(with_header(request)).await.unwrap_err()
    };
    let elsewhere = "spiffe://example.org/too";
    let calls = async {
        tokio::join!(
            first(&node),
            bundles(&node),
            token(&node, ""),
            token(&node, elsewhere),
            validated
        )
    };
    let events = async {
        held(&node, 5).await;
        node.upstream
            .put_entry("others", &["unix:uid:4294967294"], |_| {});
        until("the agent knows the other entry", async || {
            (node.health().await.ok()?.entries == 1).then_some(())
        })
        .await
        .unwrap();
        held(&node, 5).await;
        node.upstream.put_entry("me", &[&own_uid()], |_| {});
        // Who asks for an identity by name waits for that one.
        held(&node, 1).await;
        node.upstream.put_entry("too", &[&own_uid()], |_| {});
    };
    let ((svids, bundles, token, wanted, validated), ()) = tokio::join!(calls, events);
    assert_eq!(paths(&svids.unwrap()), ["/me"]);
    assert!(bundles.bundles.contains_key("spiffe://example.org"));
    assert_eq!(token.unwrap(), "spiffe://example.org/me");
    assert_eq!(wanted.unwrap(), elsewhere);
    assert_eq!(validated.code(), Code::InvalidArgument, "the token is looked at");
    held(&node, 0).await;
}

#[tokio::test]
async fn a_call_that_came_before_the_agent_heard_its_server_is_held_too() {
    let mut node = Node::down(LONG).await.unwrap();
    node.upstream.change(|server| server.away = true);
    node.run(Some(TOKEN)).await.unwrap();
    until("the agent listens", async || node.health().await.ok())
        .await
        .unwrap();
    let events = async {
        node.upstream.change(|server| server.away = false);
        held(&node, 2).await;
        node.upstream.put_entry("me", &[&own_uid()], |_| {});
    };
    let (svids, token, ()) = tokio::join!(first(&node), token(&node, ""), events);
    assert_eq!(paths(&svids.unwrap()), ["/me"]);
    assert_eq!(token.unwrap(), "spiffe://example.org/me");
}

#[tokio::test]
async fn a_user_has_so_many_held_calls_and_the_error_names_the_limit() {
    let node = holding(&format!("{LONG}limits.max_held_calls_per_uid = 2\n")).await;
    let (one, two) = (node.x509().await.unwrap(), node.x509().await.unwrap());
    held(&node, 2).await;
    for refused in [
        first(&node).await.unwrap_err(),
        token(&node, "").await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(
            refused.message().contains("limits.max_held_calls_per_uid"),
            "{refused}"
        );
    }
    // Who hangs up leaves its place.
    drop(one);
    held(&node, 1).await;
    drop(two);
    held(&node, 0).await;
}

#[tokio::test]
async fn a_stream_that_had_an_identity_is_not_held_when_it_is_withdrawn() {
    let node = holding(LONG).await;
    node.upstream.put_entry("me", &[&own_uid()], |_| {});
    let mut stream = node.x509().await.unwrap();
    assert_eq!(paths(&message(&mut stream).await.unwrap()), ["/me"]);
    node.upstream.change(|server| server.entries.clear());
    assert_eq!(end(&mut stream).await.unwrap().code(), Code::PermissionDenied);
}

/// A process with a held call, which does as it is told while the call is held.
async fn asking(node: &Node) -> Child {
    let child = Command::new("python3")
        .arg(repository().join("tests/clients/held.py"))
        .arg(node.workload_socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    held(node, 1).await;
    child
}

async fn told(child: &mut Child, word: &str) {
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
}

async fn said(mut child: Child) -> String {
    let mut said = String::new();
    let mut output = child.stdout.take().unwrap();
    timeout(DEADLINE, output.read_to_string(&mut said))
        .await
        .unwrap()
        .unwrap();
    said.trim().to_owned()
}

#[tokio::test]
async fn a_held_process_gets_its_svid_when_its_entry_comes() {
    let node = holding(LONG).await;
    let mut child = asking(&node).await;
    told(&mut child, "stay").await;
    node.upstream.put_entry("me", &[&own_uid()], |_| {});
    assert_eq!(said(child).await, "svid");
}

/// The entry comes afterwards; who then holds the socket would match it.
#[tokio::test]
async fn a_process_that_ends_or_becomes_another_program_while_held_gets_nothing() {
    for word in ["exit", "exec"] {
        let node = holding(LONG).await;
        let mut child = asking(&node).await;
        told(&mut child, word).await;
        held(&node, 0).await;
        node.upstream.put_entry("me", &[&own_uid()], |_| {});
        assert_eq!(said(child).await, "cut", "{word}");
    }
}
