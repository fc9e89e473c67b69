//! One record for each call and each change, refusals too; who calls without an SVID cannot fill the log.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::{Code, Request};
use vouchsafe_audit::{Outcome, Principal, Record};
use vouchsafe_proto::spire::api::server::agent::v1::PostStatusRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{
    BatchCreateEntryRequest, CountEntriesRequest, GetEntryRequest,
};
use vouchsafe_proto::vouchsafe::server::v1::TailAuditRequest;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::types::v1::HealthStatus;

use crate::support::*;

/// Follows the log until a record is what is looked for; all records up to it.
pub(crate) async fn until(server: &TestServer, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
    let mut client = ServerAdminClient::new(server.local().await);
    let asked = TailAuditRequest {
        from_seq: 0,
        follow: true,
    };
    let mut tail = client.tail_audit(asked).await.unwrap().into_inner();
    let mut records = Vec::new();
    let search = async {
        loop {
            let line = tail.message().await.unwrap().unwrap();
            let record = Record::from_line(&line.json).unwrap();
            assert_eq!(record.seq, line.seq);
            let found = wanted(&record);
            records.push(record);
            if found {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), search)
        .await
        .unwrap();
    records
}

#[tokio::test]
async fn a_call_and_its_changes_carry_one_request_id_and_the_callers_trace() {
    let server = server().await;
    let mut client = EntryClient::new(server.local().await);
    let mut request = Request::new(BatchCreateEntryRequest {
        entries: vec![entry(&id("/node"), "/a", 1), entry(&id("/node"), "/b", 1)],
        output_mask: None,
    });
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request
        .metadata_mut()
        .insert("traceparent", trace.parse().unwrap());
    let answer = client.batch_create_entry(request).await.unwrap();
    let request_id = answer
        .metadata()
        .get("x-request-id")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let records = until(&server, |r| r.draft.action.ends_with("/BatchCreateEntry")).await;
    let of_call: Vec<&Record> = records
        .iter()
        .filter(|r| r.draft.request_id == request_id)
        .collect();
    let actions: Vec<&str> = of_call
        .iter()
        .map(|r| r.draft.action.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(actions, ["entry.create", "entry.create", "BatchCreateEntry"]);
    for record in &of_call {
        assert_eq!(record.draft.traceparent.as_deref(), Some(trace));
        assert_eq!(record.draft.scope, "local");
        assert!(matches!(record.draft.principal, Principal::Local { .. }));
        assert_eq!(record.draft.outcome, Outcome::Done);
    }
    assert_eq!(of_call[2].draft.facts["count"], "2");
    assert_eq!(of_call[2].draft.code.as_deref(), Some("Ok"));
    let seqs: Vec<u64> = records.iter().map(|r| r.seq).collect();
    assert_eq!(seqs, (1..=seqs.last().copied().unwrap()).collect::<Vec<_>>());
    let logs: BTreeSet<&str> = records.iter().map(|r| r.log_id.as_str()).collect();
    assert_eq!(logs.len(), 1);
}

#[tokio::test]
async fn refusals_are_recorded_with_who_and_why() {
    let server = server().await;
    let agent = server.agent().await;
    let mut client = EntryClient::new(server.tls(Some(&agent)).await);
    let denied = client.count_entries(CountEntriesRequest::default()).await;
    refused(denied, Code::PermissionDenied, "denied");
    let mut admin = EntryClient::new(server.local().await);
    let missing = GetEntryRequest {
        id: "none".to_owned(),
        output_mask: None,
    };
    refused(admin.get_entry(missing).await, Code::NotFound, "not found");
    let records = until(&server, |r| r.draft.action.ends_with("/GetEntry")).await;
    let denied = records
        .iter()
        .find(|r| r.draft.action.ends_with("/CountEntries"))
        .unwrap();
    assert_eq!(denied.draft.outcome, Outcome::Refused);
    assert_eq!(denied.draft.scope, "none");
    assert_eq!(denied.draft.principal, Principal::Spiffe { id: agent.id() });
    assert!(denied.draft.reason.as_ref().unwrap().contains("CountEntries"));
    let missing = records.last().unwrap();
    assert_eq!(
        (missing.draft.outcome, missing.draft.code.as_deref()),
        (Outcome::Refused, Some("NotFound"))
    );
    let joined = records.iter().find(|r| r.draft.action == "node.attest").unwrap();
    assert_eq!(joined.draft.facts["serial"], agent.leaf().serial);
    let token = agent.id().path().rsplit('/').next().unwrap().to_owned();
    let made = records.iter().find(|r| r.draft.action == "token.create").unwrap();
    assert!(
        !made.to_line().unwrap().contains(&token),
        "an unused token stands in no record"
    );
}

#[tokio::test]
async fn a_flood_without_an_svid_is_gathered_and_nothing_of_it_is_lost_at_the_end() {
    let first = server_on_disk(tempfile::tempdir().unwrap()).await;
    let mut client = AgentClient::new(first.tls(None).await);
    for _ in 0..200 {
        let outcome = client.post_status(PostStatusRequest::default()).await;
        refused(outcome, Code::PermissionDenied, "denied");
    }
    let second = server_on_disk(first.stop().await).await;
    let mut client = ServerAdminClient::new(second.local().await);
    let mut tail = client
        .tail_audit(TailAuditRequest::default())
        .await
        .unwrap()
        .into_inner();
    let (mut records, mut counted) = (0, 0);
    while let Some(line) = tail.message().await.unwrap() {
        let record = Record::from_line(&line.json).unwrap();
        if matches!(&record.draft.principal, Principal::Anonymous { source } if source == "127.0.0.1") {
            records += 1;
            assert_eq!(record.draft.code.as_deref(), Some("PermissionDenied"));
            counted += record.draft.facts["count"].parse::<u32>().unwrap();
        }
    }
    assert_eq!(counted, 200);
    assert!(records <= 2, "{records} records of one source");
}

#[tokio::test]
async fn health_tells_of_its_parts() {
    let server = server().await;
    let mut client = ServerAdminClient::new(server.local().await);
    server.clock.jump(time::Duration::seconds(42));
    let health = client
        .health(vouchsafe_proto::vouchsafe::server::v1::HealthRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status, i32::from(HealthStatus::Serving));
    assert_eq!(health.trust_domain, TRUST_DOMAIN);
    assert!(health.uptime.unwrap().seconds >= 42);
    let parts: Vec<&str> = health.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(parts, ["store", "index", "ca"]);
    let mut grpc = tonic_health::pb::health_client::HealthClient::new(server.local().await);
    let ask = |service: &str| tonic_health::pb::HealthCheckRequest {
        service: service.to_owned(),
    };
    assert_eq!(grpc.check(ask("")).await.unwrap().into_inner().status, 1);
    refused(grpc.check(ask("x")).await, Code::InvalidArgument, "service");
    let mut watch = grpc.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
}
