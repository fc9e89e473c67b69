//! Issuing over the API, and what is refused.

use std::sync::Arc;

use tonic::Code;
use tonic::transport::Channel;
use vouchsafe_identity::x509::{csr, verify_svid};
use vouchsafe_identity::{Bundle, LocalKey, jwt};
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewX509svidRequest, MintJwtsvidRequest, MintX509svidRequest, NewJwtsvidRequest, NewX509svidParams,
};
use vouchsafe_proto::spire::api::types;

use crate::support::*;

struct Scene {
    server: TestServer,
    agent: Identity,
    entry: types::Entry,
    foreign: types::Entry,
    bundle: Bundle,
}

/// An agent with an entry of its own, and an entry of somebody else's.
async fn scene() -> Scene {
    let server = server().await;
    let agent = server.agent().await;
    let mut own = entry(&agent.id(), "/own", 1);
    own.dns_names = vec!["own.example.org".to_owned()];
    own.x509_svid_ttl = 600;
    own.jwt_svid_ttl = 30;
    own.hint = "hint".to_owned();
    let entry = server.entry(own).await;
    let foreign = server
        .entry(crate::support::entry(&id("/elsewhere"), "/foreign", 1))
        .await;
    let bundle = server.bundle().await;
    Scene {
        server,
        agent,
        entry,
        foreign,
        bundle,
    }
}

impl Scene {
    async fn client(&self) -> SvidClient<Channel> {
        SvidClient::new(self.server.tls(Some(&self.agent)).await)
    }

    fn param(&self, entry: &types::Entry, csr: Vec<u8>) -> NewX509svidParams {
        NewX509svidParams {
            entry_id: entry.id.clone(),
            csr,
        }
    }
}

fn request_for(key: &Arc<LocalKey>, path: Option<&str>, dns: &[&str]) -> Vec<u8> {
    let names: Vec<String> = dns.iter().map(ToString::to_string).collect();
    csr::create(key.as_ref(), path.map(id).as_ref(), &names).unwrap()
}

fn spoilt(mut csr: Vec<u8>) -> Vec<u8> {
    *csr.last_mut().unwrap() ^= 1;
    csr
}

#[tokio::test]
async fn only_the_key_of_a_csr_counts_and_each_item_stands_by_itself() {
    let scene = scene().await;
    let key = key();
    let greedy = request_for(&key, Some("/admin"), &["evil.example.org"]);
    let unknown = types::Entry {
        id: "unknown".to_owned(),
        ..types::Entry::default()
    };
    let params = vec![
        scene.param(&scene.entry, greedy.clone()),
        scene.param(&scene.foreign, greedy.clone()),
        scene.param(&unknown, greedy.clone()),
        scene.param(&types::Entry::default(), greedy.clone()),
        scene.param(&scene.entry, spoilt(greedy.clone())),
        scene.param(&scene.entry, [greedy.clone(), vec![0]].concat()),
        scene.param(&scene.entry, Vec::new()),
        scene.param(&scene.entry, vec![0; 100_000]),
        scene.param(&scene.entry, greedy),
    ];
    let asked = BatchNewX509svidRequest { params };
    let answer = scene.client().await.batch_new_x509svid(asked).await.unwrap();
    let results = answer.into_inner().results;
    let codes: Vec<Code> = results
        .iter()
        .map(|result| Code::from_i32(result.status.as_ref().unwrap().code))
        .collect();
    use Code::{InvalidArgument as Bad, NotFound, Ok as Good};
    assert_eq!(
        codes,
        [Good, NotFound, NotFound, NotFound, Bad, Bad, Bad, Bad, Good]
    );
    let texts: Vec<&str> = results
        .iter()
        .map(|result| result.status.as_ref().unwrap().message.as_str())
        .collect();
    assert_eq!(texts[1], texts[2], "whether an entry exists is not told");
    let svid = results[0].svid.clone().unwrap();
    assert_eq!(svid.hint, "hint");
    let leaf = verify_svid(&svid.cert_chain, &scene.bundle, scene.server.clock.now()).unwrap();
    assert_eq!(leaf.spiffe_id, id("/own"));
    assert_eq!(leaf.dns_names, ["own.example.org"]);
    assert_eq!(leaf.not_after.unix_timestamp(), svid.expires_at);
    let life = leaf.not_after - scene.server.clock.now();
    assert!(life <= time::Duration::seconds(600) && life > time::Duration::seconds(590));
    let other = results[8].svid.as_ref().unwrap();
    assert_ne!(other.cert_chain, svid.cert_chain, "each has a serial of its own");
}

#[tokio::test]
async fn a_jwt_svid_is_for_an_entry_of_the_agents_and_for_an_audience() {
    let scene = scene().await;
    let mut client = scene.client().await;
    let ask = |entry: &types::Entry, audience: &[&str]| NewJwtsvidRequest {
        entry_id: entry.id.clone(),
        audience: audience.iter().map(ToString::to_string).collect(),
    };
    refused(
        client.new_jwtsvid(ask(&scene.foreign, &["a"])).await,
        Code::NotFound,
        "not authorized",
    );
    refused(
        client.new_jwtsvid(ask(&scene.entry, &[])).await,
        Code::InvalidArgument,
        "audience",
    );
    refused(
        client.new_jwtsvid(ask(&scene.entry, &[""])).await,
        Code::InvalidArgument,
        "audience",
    );
    let svid = client
        .new_jwtsvid(ask(&scene.entry, &["a", "b"]))
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert_eq!(svid.expires_at - svid.issued_at, 30);
    assert_eq!(svid.hint, "hint");
    let now = scene.server.clock.now();
    let verified = jwt::verify_svid(&svid.token, "b", |_| Some(&scene.bundle), now).unwrap();
    assert_eq!(verified.spiffe_id, id("/own"));
    assert!(jwt::verify_svid(&svid.token, "c", |_| Some(&scene.bundle), now).is_err());
}

#[tokio::test]
async fn minting_takes_the_names_of_the_csr_and_refuses_those_that_are_not_workloads() {
    let scene = scene().await;
    let mut client = SvidClient::new(scene.server.local().await);
    let key = key();
    for (csr, text) in [
        (request_for(&key, None, &[]), "URI"),
        (request_for(&key, Some("/spire/server"), &[]), "/spire"),
        (request_for(&key, Some(""), &[]), "no path"),
        (spoilt(request_for(&key, Some("/a"), &[])), "signature"),
        (vec![1, 2, 3], "certificate request"),
    ] {
        let outcome = client.mint_x509svid(MintX509svidRequest { csr, ttl: 0 }).await;
        refused(outcome, Code::InvalidArgument, text);
    }
    let csr = request_for(&key, Some("/a"), &["a.example.org"]);
    let minted = client
        .mint_x509svid(MintX509svidRequest { csr, ttl: 90 })
        .await
        .unwrap()
        .into_inner();
    let leaf = verify_svid(
        &minted.svid.unwrap().cert_chain,
        &scene.bundle,
        scene.server.clock.now(),
    )
    .unwrap();
    assert_eq!(
        (leaf.spiffe_id, leaf.dns_names),
        (id("/a"), vec!["a.example.org".to_owned()])
    );
    let mint = |path: &str, audience: &[&str], ttl| MintJwtsvidRequest {
        id: Some(message(&id(path))),
        audience: audience.iter().map(ToString::to_string).collect(),
        ttl,
    };
    refused(
        client.mint_jwtsvid(mint("/spire/server", &["a"], 0)).await,
        Code::InvalidArgument,
        "/spire",
    );
    refused(
        client.mint_jwtsvid(mint("/a", &[], 0)).await,
        Code::InvalidArgument,
        "audience",
    );
    refused(
        client.mint_jwtsvid(mint("/a", &["a"], -1)).await,
        Code::InvalidArgument,
        "ttl",
    );
    let minted = client
        .mint_jwtsvid(mint("/a", &["a"], 60))
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert_eq!(minted.expires_at - minted.issued_at, 60);
}

#[tokio::test]
async fn an_svid_never_outlives_the_authority_that_signs_it() {
    let scene = scene().await;
    let mut client = SvidClient::new(scene.server.local().await);
    let csr = request_for(&key(), Some("/a"), &[]);
    let asked = MintX509svidRequest { csr, ttl: i32::MAX };
    let minted = client
        .mint_x509svid(asked)
        .await
        .unwrap()
        .into_inner()
        .svid
        .unwrap();
    assert!(minted.expires_at <= START + 25 * 3600);
    verify_svid(&minted.cert_chain, &scene.bundle, scene.server.clock.now()).unwrap();
}

#[tokio::test]
async fn more_signatures_than_the_burst_are_refused_and_the_next_request_is_served() {
    let server = server_with("[limits]\nsignature_burst_per_caller = 10").await;
    let agent = server.agent().await;
    let own = server.entry(entry(&agent.id(), "/own", 1)).await;
    let csr = request_for(&key(), None, &[]);
    let ask = |count| BatchNewX509svidRequest {
        params: vec![
            NewX509svidParams {
                entry_id: own.id.clone(),
                csr: csr.clone(),
            };
            count
        ],
    };
    let mut client = SvidClient::new(server.tls(Some(&agent)).await);
    refused(
        client.batch_new_x509svid(ask(500)).await,
        Code::ResourceExhausted,
        "`signature_burst_per_caller` of 10 signatures",
    );
    assert_eq!(
        client
            .batch_new_x509svid(ask(5))
            .await
            .unwrap()
            .into_inner()
            .results
            .len(),
        5
    );
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_is_read_and_the_server_lives() {
    let server =
        server_with("[limits]\nmax_request_size = \"64KiB\"\nmax_anonymous_request_size = \"1KiB\"").await;
    let agent = server.agent().await;
    let mut client = SvidClient::new(server.tls(Some(&agent)).await);
    let ask = |bytes: usize| BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: "x".to_owned(),
            csr: vec![0; bytes],
        }],
    };
    refused(
        client.batch_new_x509svid(ask(70_000)).await,
        Code::ResourceExhausted,
        "longer than the limit `max_request_size` of 65536 bytes",
    );
    client.batch_new_x509svid(ask(60_000)).await.unwrap();
    let request = attest_request("join_token", &[b'a'; 2000], request_for(&key(), None, &[]));
    let mut anonymous = vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient::new(
        server.tls(None).await,
    );
    let outcome = async {
        anonymous
            .attest_agent(tokio_stream::once(request))
            .await?
            .into_inner()
            .message()
            .await
    };
    refused(
        outcome.await,
        Code::ResourceExhausted,
        "longer than the limit `max_anonymous_request_size` of 1024 bytes",
    );
    server.agent().await;
}
