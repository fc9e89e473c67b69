//! Every RPC × every kind of caller. The methods come from the descriptors; who may call what is written
//! down here once more, apart from the server's own table.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost_reflect::DescriptorPool;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use vouchsafe_identity::public_key::CheckedKey;
use vouchsafe_identity::x509::issue::{Issuer, SvidRequest, issue_svid, self_signed_ca};
use vouchsafe_identity::{Signer, TrustDomain, random_serial};
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{
    BanAgentRequest, DeleteAgentRequest, PostStatusRequest,
};
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;

use crate::support::*;

/// Who may call the methods of a service, method by method; what is not named is for `others`.
struct Rights {
    others: &'static str,
    named: &'static [(&'static str, &'static str)],
}

/// `*` everybody, `L` local, `A` admin, `D` downstream, `G` agent.
fn rights() -> BTreeMap<&'static str, Rights> {
    let operator = |named| Rights { others: "LA", named };
    let local = || Rights {
        others: "L",
        named: &[],
    };
    BTreeMap::from([
        (
            "spire.api.server.agent.v1.Agent",
            operator(&[("AttestAgent", "*"), ("RenewAgent", "G"), ("PostStatus", "G")]),
        ),
        (
            "spire.api.server.entry.v1.Entry",
            operator(&[("GetAuthorizedEntries", "G"), ("SyncAuthorizedEntries", "G")]),
        ),
        (
            "spire.api.server.svid.v1.SVID",
            operator(&[
                ("BatchNewX509SVID", "G"),
                ("NewJWTSVID", "G"),
                ("BatchNewWITSVID", "G"),
                ("NewDownstreamX509CA", "D"),
            ]),
        ),
        (
            "spire.api.server.bundle.v1.Bundle",
            operator(&[
                ("GetBundle", "*"),
                ("GetFederatedBundle", "LAG"),
                ("PublishJWTAuthority", "D"),
                ("PublishWITAuthority", "D"),
            ]),
        ),
        ("spire.api.server.trustdomain.v1.TrustDomain", operator(&[])),
        ("spire.api.server.localauthority.v1.LocalAuthority", operator(&[])),
        ("spire.api.server.logger.v1.Logger", local()),
        ("spire.api.server.debug.v1.Debug", local()),
        ("vouchsafe.server.v1.ServerAdmin", local()),
        (
            "vouchsafe.sync.v1.Sync",
            Rights {
                others: "G",
                named: &[],
            },
        ),
        ("vouchsafe.run.v1.Classes", operator(&[])),
        ("vouchsafe.run.v1.Runs", operator(&[])),
        (
            "vouchsafe.run.v1.Admission",
            Rights {
                others: "G",
                named: &[],
            },
        ),
        ("grpc.health.v1.Health", local()),
        ("grpc.reflection.v1.ServerReflection", local()),
        ("grpc.reflection.v1alpha.ServerReflection", local()),
    ])
}

/// All methods that the descriptors of the served files have, as (service, method).
fn methods() -> Vec<(String, String)> {
    let mut pool = DescriptorPool::decode(vouchsafe_proto::FILE_DESCRIPTOR_SET).unwrap();
    for more in [
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ] {
        pool.decode_file_descriptor_set(more).unwrap();
    }
    // The agent's own services stand in the same descriptors; they are not the server's.
    let theirs = [
        "vouchsafe.agent.v1.AgentAdmin",
        "vouchsafe.launch.v1.Launch",
        "vouchsafe.workload.v1.WorkloadInfo",
        "SpiffeWorkloadAPI",
    ];
    let services = pool
        .services()
        .filter(|service| !theirs.contains(&service.full_name()));
    services
        .flat_map(|service| {
            let name = service.full_name().to_owned();
            service
                .methods()
                .map(move |method| (name.clone(), method.name().to_owned()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What the layers made of a call.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    LetThrough,
    Denied,
    Agent(Reason),
    NoConnection,
}

fn verdict(status: &Status) -> Verdict {
    if let Some(reason) = reason(status) {
        return Verdict::Agent(reason);
    }
    match status.code() {
        Code::PermissionDenied if status.message().starts_with("authorization denied") => Verdict::Denied,
        Code::Unknown | Code::Unavailable | Code::Internal => Verdict::NoConnection,
        _ => Verdict::LetThrough,
    }
}

/// Sends one empty message, whatever kind of method it is, and waits for the first thing that comes back.
async fn call(channel: Channel, service: &str, method: &str) -> Verdict {
    let mut client = tonic::client::Grpc::new(channel);
    if let Err(error) = client.ready().await {
        return verdict(&Status::from_error(error.into()));
    }
    let path = http::uri::PathAndQuery::try_from(format!("/{service}/{method}")).unwrap();
    let request = Request::new(tokio_stream::once(Bytes::new()));
    let first = async {
        client
            .streaming(request, path, Raw)
            .await?
            .into_inner()
            .message()
            .await
    };
    match first.await {
        Ok(_message) => Verdict::LetThrough,
        Err(status) => verdict(&status),
    }
}

/// An SVID that is not of the server's making.
fn forged(trust_domain: &str, path: &str, server: &TestServer) -> Identity {
    let (ca_key, key) = (key(), key());
    let td = TrustDomain::new(trust_domain).unwrap();
    let now = server.clock.now();
    let (from, to) = (now - time::Duration::HOUR, now + time::Duration::HOUR);
    let ca = self_signed_ca(&td, ca_key.as_ref(), from, to, &random_serial().unwrap()).unwrap();
    let request = SvidRequest {
        spiffe_id: td.with_path(path).unwrap(),
        public_key: CheckedKey::new(key.public_key_spki()).unwrap(),
        dns_names: Vec::new(),
        not_before: from,
        not_after: to,
        serial: random_serial().unwrap(),
    };
    let issued = issue_svid(&request, &Issuer::new(&ca, ca_key).unwrap()).unwrap();
    Identity {
        key,
        chain: issued.chain,
    }
}

/// A kind of caller: its name, its rights, what it gets where only an agent may call, and its channel.
struct Kind {
    name: &'static str,
    rights: &'static str,
    as_agent: Verdict,
    channel: Channel,
}

/// Agents in every standing: good, banned, evicted, and one that has used a newer SVID since.
async fn agents(server: &TestServer) -> [Identity; 4] {
    let all = [
        server.agent().await,
        server.agent().await,
        server.agent().await,
        server.agent().await,
    ];
    let [_good, banned, evicted, renewed] = &all;
    let mut admin = AgentClient::new(server.local().await);
    let message_of = |identity: &Identity| Some(message(&identity.id()));
    let ban = BanAgentRequest {
        id: message_of(banned),
    };
    admin.ban_agent(ban).await.unwrap();
    let delete = DeleteAgentRequest {
        id: message_of(evicted),
    };
    admin.delete_agent(delete).await.unwrap();
    let next = renew(server.tls(Some(renewed)).await).await.unwrap();
    let mut client = AgentClient::new(server.tls(Some(&next)).await);
    client.post_status(PostStatusRequest::default()).await.unwrap();
    all
}

/// Entries that make of their ids an admin, a server below this one, and nothing in particular.
async fn entries(server: &TestServer, parent: &Identity) {
    let mut admin = entry(&parent.id(), "/admin-by-entry", 1);
    admin.admin = true;
    server.entry(admin).await;
    let mut below = entry(&parent.id(), "/server-below", 2);
    below.downstream = true;
    server.entry(below).await;
    server.entry(entry(&parent.id(), "/workload", 3)).await;
}

async fn kinds(server: &TestServer) -> Vec<Kind> {
    let [good, banned, evicted, renewed] = agents(server).await;
    entries(server, &good).await;
    let stranger = forged("other.org", "/admin-by-config", server);
    let impostor = forged(TRUST_DOMAIN, good.id().path(), server);
    let mut kinds = Vec::new();
    for (name, rights, as_agent, identity) in [
        (
            "admin by config",
            "A",
            Verdict::Denied,
            server.minted("/admin-by-config").await,
        ),
        (
            "admin by entry",
            "A",
            Verdict::Denied,
            server.minted("/admin-by-entry").await,
        ),
        (
            "downstream",
            "D",
            Verdict::Denied,
            server.minted("/server-below").await,
        ),
        ("workload", "", Verdict::Denied, server.minted("/workload").await),
        ("agent", "G", Verdict::LetThrough, good),
        ("banned agent", "", Verdict::Agent(Reason::AgentBanned), banned),
        (
            "evicted agent",
            "",
            Verdict::Agent(Reason::AgentNotAttested),
            evicted,
        ),
        (
            "agent with an old serial",
            "",
            Verdict::Agent(Reason::AgentNotActive),
            renewed,
        ),
        ("other trust domain", "-", Verdict::NoConnection, stranger),
        (
            "an agent's id by another authority",
            "-",
            Verdict::NoConnection,
            impostor,
        ),
    ] {
        let channel = server.tls(Some(&identity)).await;
        kinds.push(Kind {
            name,
            rights,
            as_agent,
            channel,
        });
    }
    let without_svid = [
        ("local", "L", server.local().await),
        ("no certificate", "", server.tls(None).await),
    ];
    kinds.extend(without_svid.map(|(name, rights, channel)| Kind {
        name,
        rights,
        as_agent: Verdict::Denied,
        channel,
    }));
    kinds
}

#[tokio::test]
async fn every_method_lets_through_whom_it_must_and_nobody_else() {
    let server = server_with(&format!(
        "admin_ids = [\"spiffe://{TRUST_DOMAIN}/admin-by-config\"]"
    ))
    .await;
    let (methods, rights, kinds) = (methods(), rights(), kinds(&server).await);
    assert!(methods.len() >= 65, "the descriptors have SPIRE's methods");
    let mut wrong = Vec::new();
    for (service, method) in &methods {
        let of_service = rights.get(service.as_str());
        let of_service = of_service.unwrap_or_else(|| panic!("`{service}` is new: say here who may call it"));
        let named = of_service.named.iter().find(|(name, _)| name == method);
        let may = named.map_or(of_service.others, |(_, may)| *may);
        for kind in &kinds {
            let expected = if kind.rights == "-" {
                &Verdict::NoConnection
            } else if may == "*" || kind.rights.chars().any(|right| may.contains(right)) {
                &Verdict::LetThrough
            } else if may.contains('G') {
                &kind.as_agent
            } else {
                &Verdict::Denied
            };
            let got = call(kind.channel.clone(), service, method).await;
            if got != *expected {
                wrong.push(format!(
                    "{service}/{method} by {}: {got:?} instead of {expected:?}",
                    kind.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_method_that_nobody_described_reaches_no_handler_whoever_asks() {
    let server = server().await;
    for channel in [
        server.local().await,
        server.tls(Some(&server.agent().await)).await,
    ] {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/spire.api.server.entry.v1.Entry/Nope");
        let request = Request::new(tokio_stream::once(Bytes::new()));
        let status = client.streaming(request, path, Raw).await.map(|_| ());
        refused(status, Code::Unimplemented, "not known");
    }
}

#[tokio::test]
async fn an_svid_that_expired_on_an_open_connection_opens_no_admin_method() {
    let server = server_with(&format!(
        "default_x509_svid_ttl = \"10m\"\nadmin_ids = [\"spiffe://{TRUST_DOMAIN}/admin\"]"
    ))
    .await;
    let channel = server.tls(Some(&server.minted("/admin").await)).await;
    let (service, method) = ("spire.api.server.entry.v1.Entry", "CountEntries");
    assert_eq!(call(channel.clone(), service, method).await, Verdict::LetThrough);
    server.clock.jump(time::Duration::minutes(11));
    assert_eq!(call(channel, service, method).await, Verdict::Denied);
}
