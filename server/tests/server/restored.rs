//! A server that was restored from a backup: what the lost one did since is not taken for its own past, and its agents go
//! on.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use time::OffsetDateTime;
use tonic::Code;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::agent::v1::{BanAgentRequest, PostStatusRequest};
use vouchsafe_proto::spire::api::server::entry::v1::BatchUpdateEntryRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::localauthority::v1::PrepareJwtAuthorityRequest;
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_client::LocalAuthorityClient;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_proto::vouchsafe::server::v1::backup_response::Part;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::server::v1::{BackupEnd, BackupRequest};
use vouchsafe_proto::vouchsafe::sync::v1::FullReason;
use vouchsafe_server::restoring::{Restored, RestoringError, into_data_dir};

use crate::authority::{replace_x509, revoke, taint};
use crate::follow::agent::{Follows, hello};
use crate::support::*;

const SECRET: [u8; 32] = [7; 32];

/// A backup as bytes, sealed with a key if there is one.
async fn backup(server: &TestServer, seal_secret: &[u8]) -> (Vec<u8>, BackupEnd) {
    let seal_secret = seal_secret.to_vec();
    let mut client = ServerAdminClient::new(server.local().await);
    let mut parts = client
        .backup(BackupRequest { seal_secret })
        .await
        .unwrap()
        .into_inner();
    let mut bytes = Vec::new();
    loop {
        match parts.message().await.unwrap().unwrap().part.unwrap() {
            Part::Chunk(chunk) => bytes.extend(chunk),
            Part::End(end) => return (bytes, end),
        }
    }
}

fn private(path: &Path, bytes: &[u8]) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

/// Puts a backup into the folder of a server.
async fn restore(
    bytes: &[u8],
    dir: &TempDir,
    secret: Option<&[u8]>,
    now: i64,
) -> Result<Restored, RestoringError> {
    let (file, key): (PathBuf, PathBuf) = (dir.path().join("backup"), dir.path().join("seal.key"));
    private(&file, bytes);
    let key = secret.map(|secret| {
        private(&key, secret);
        key.as_path()
    });
    let now = OffsetDateTime::from_unix_timestamp(now).unwrap();
    into_data_dir(&file, &dir.path().join("data"), key, now).await
}

/// A server that a backup was put back for, `later` seconds after the start of the first one.
async fn restored(bytes: &[u8], later: i64) -> TestServer {
    let dir = tempfile::tempdir().unwrap();
    restore(bytes, &dir, Some(&SECRET), START + later).await.unwrap();
    server_on_disk_at(dir, START + later).await
}

async fn uses(server: &TestServer, identity: &Identity) -> Result<(), tonic::Status> {
    let mut client = AgentClient::new(server.tls(Some(identity)).await);
    client.post_status(PostStatusRequest::default()).await.map(drop)
}

async fn update(server: &TestServer, entry: types::Entry) -> types::Entry {
    let asked = BatchUpdateEntryRequest {
        entries: vec![entry],
        ..BatchUpdateEntryRequest::default()
    };
    let mut client = EntryClient::new(server.local().await);
    let updated = client.batch_update_entry(asked).await.unwrap().into_inner();
    updated.results[0].entry.clone().unwrap()
}

async fn refused_as(server: &TestServer, identity: &Identity, expected: Reason) {
    let status = uses(server, identity).await.unwrap_err();
    assert_eq!(reason(&status), Some(expected), "{status}");
}

#[tokio::test]
async fn agents_that_renewed_since_the_backup_go_on_and_what_was_replaced_does_not_come_back() {
    let lost = server_on_disk(tempfile::tempdir().unwrap()).await;
    let [agent, still, banned] = [lost.agent().await, lost.agent().await, lost.agent().await];
    let shut_out = BanAgentRequest {
        id: Some(message(&banned.id())),
    };
    AgentClient::new(lost.local().await)
        .ban_agent(shut_out)
        .await
        .unwrap();
    lost.clock.jump(time::Duration::minutes(5));
    let before = renew(lost.tls(Some(&agent)).await).await.unwrap();
    uses(&lost, &before).await.unwrap();
    let (bytes, end) = backup(&lost, &SECRET).await;
    assert_eq!(end.keys, 2);
    lost.clock.jump(time::Duration::minutes(5));
    let first = renew(lost.tls(Some(&before)).await).await.unwrap();
    uses(&lost, &first).await.unwrap();
    lost.clock.jump(time::Duration::minutes(5));
    let second = renew(lost.tls(Some(&first)).await).await.unwrap();
    uses(&lost, &second).await.unwrap();
    let joined_since = lost.agent().await;
    let bundle = lost.bundle().await;
    drop(lost.stop().await);

    let server = restored(&bytes, 20 * 60).await;
    let again = server.bundle().await;
    assert_eq!(again.x509_authorities, bundle.x509_authorities);
    assert_eq!(again.jwt_authorities, bundle.jwt_authorities);
    assert!(
        again.sequence > bundle.sequence,
        "others take it for the newer one"
    );
    refused_as(&server, &banned, Reason::AgentBanned).await;
    refused_as(&server, &joined_since, Reason::AgentNotAttested).await;
    refused_as(&server, &agent, Reason::AgentNotActive).await;
    uses(&server, &still).await.unwrap();
    uses(&server, &second).await.unwrap();
    // The newest that was shown counts: those before it are as replaced as they were.
    refused_as(&server, &first, Reason::AgentNotActive).await;
    refused_as(&server, &before, Reason::AgentNotActive).await;
    let next = renew(server.tls(Some(&second)).await).await.unwrap();
    uses(&server, &next).await.unwrap();
    refused_as(&server, &second, Reason::AgentNotActive).await;
    let serials: std::collections::BTreeSet<_> = [&agent, &before, &first, &second, &joined_since, &next]
        .map(|identity| identity.leaf().serial)
        .into();
    assert_eq!(serials.len(), 6, "no serial comes twice");
}

#[tokio::test]
async fn a_server_that_was_not_restored_and_svids_from_after_it_was_get_no_such_grace() {
    let lost = server_on_disk(tempfile::tempdir().unwrap()).await;
    let agent = lost.agent().await;
    let (bytes, _) = backup(&lost, &SECRET).await;
    lost.clock.jump(time::Duration::minutes(10));
    let later = renew(lost.tls(Some(&agent)).await).await.unwrap();
    uses(&lost, &later).await.unwrap();
    // The server that goes on knows that this one was replaced.
    refused_as(&lost, &agent, Reason::AgentNotActive).await;
    // A twin that was restored earlier than the SVID was issued: it should have issued it itself.
    let twin = restored(&bytes, 5 * 60).await;
    twin.clock.jump(time::Duration::minutes(6));
    refused_as(&twin, &later, Reason::AgentNotActive).await;
    uses(&twin, &agent).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_resumes_gets_its_whole_set_and_no_number_stands_for_two_states_of_an_entry() {
    let lost = server_on_disk(tempfile::tempdir().unwrap()).await;
    let agent = lost.agent().await;
    let made = lost.entry(entry(&agent.id(), "/job", 1)).await;
    let (bytes, _) = backup(&lost, &SECRET).await;
    let hinted = |hint: &str| types::Entry {
        hint: hint.to_owned(),
        ..made.clone()
    };
    let of_lost = update(&lost, hinted("lost")).await;
    let mut stream = Follows::open(&lost, &agent).await;
    stream.until(|held| held.entries.len() == 1).await;
    let held = stream.held.clone();
    assert_eq!(held.entries[&made.id].hint, "lost");
    drop(lost.stop().await);

    let server = restored(&bytes, 60).await;
    let mut stream = Follows::begin(&server, &agent, hello(held.point.clone())).await;
    assert_eq!(stream.welcome().await.full_reason(), FullReason::Pruned);
    stream.until(|held| held.entries.len() == 1).await;
    assert_eq!(stream.held.entries[&made.id].hint, "");
    let of_restored = update(&server, hinted("restored")).await;
    assert!(of_restored.revision_number > of_lost.revision_number + 1_000_000);
    // Agents of the first restored server that meet a second one of the same backup are in the same place.
    stream
        .until(|held| held.entries[&made.id].hint == "restored")
        .await;
    let held = stream.held.clone();
    drop(server.stop().await);
    let second = restored(&bytes, 120).await;
    // It has gone as far, and says other things.
    let mut again = made.clone();
    for n in 0..5 {
        again = update(&second, hinted(&n.to_string())).await;
    }
    let mut stream = Follows::begin(&second, &agent, hello(held.point.clone())).await;
    assert_eq!(stream.welcome().await.full_reason(), FullReason::Pruned);
    assert!(again.revision_number > of_restored.revision_number);
}

#[tokio::test]
async fn a_file_that_is_not_as_it_was_sealed_is_refused_and_leaves_the_folder_empty() {
    let server = server_on_disk(tempfile::tempdir().unwrap()).await;
    let (sealed, _) = backup(&server, &SECRET).await;
    let (plain, end) = backup(&server, &[]).await;
    assert_eq!(end.keys, 0);
    let mut altered = sealed.clone();
    *altered.last_mut().unwrap() ^= 1;
    let cut = &sealed[..sealed.len() - 1];
    let other = [8; 32];
    for (bytes, secret, words) in [
        (
            sealed.as_slice(),
            Some(other.as_slice()),
            "sealed with another key",
        ),
        (&sealed, None, "is sealed: name the file of its sealing key"),
        (&altered, Some(&SECRET), "was changed"),
        (cut, Some(&SECRET), "cut short"),
        (&plain, Some(&SECRET), "is not a sealed backup"),
        (&plain[..plain.len() - 1], None, "cut short or damaged"),
        (b"something else", None, "this is not a backup"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let refused = restore(bytes, &dir, secret, START).await.unwrap_err();
        let said = vouchsafe_server::errors::chain(&refused);
        assert!(said.contains(words), "`{said}` says nothing of `{words}`");
        let data = std::fs::read_dir(dir.path().join("data"));
        assert!(data.map_or(0, Iterator::count) == 0, "{words}");
    }
    // The folder of a server that runs is not empty.
    let running = restore(&sealed, &server.dir, Some(&SECRET), START)
        .await
        .unwrap_err();
    assert!(matches!(running, RestoringError::NotEmpty(_)), "{running}");
    uses(&server, &server.agent().await).await.unwrap();
}

#[tokio::test]
async fn a_short_secret_seals_nothing() {
    let server = server().await;
    let mut client = ServerAdminClient::new(server.local().await);
    let seal_secret = vec![1; 31];
    let outcome = client.backup(BackupRequest { seal_secret }).await;
    refused(outcome, Code::InvalidArgument, "at least 32 bytes");
}

#[tokio::test]
async fn the_bundle_of_a_restored_server_is_newer_than_any_that_the_lost_one_had() {
    let lost = server_on_disk(tempfile::tempdir().unwrap()).await;
    let (bytes, _) = backup(&lost, &SECRET).await;
    let before = lost.bundle().await;
    let mut operator = LocalAuthorityClient::new(lost.local().await);
    operator
        .prepare_jwt_authority(PrepareJwtAuthorityRequest {})
        .await
        .unwrap();
    let replaced = replace_x509(&mut operator).await;
    operator.taint_x509_authority(taint(&replaced)).await.unwrap();
    operator.revoke_x509_authority(revoke(&replaced)).await.unwrap();
    let last = lost.bundle().await;
    assert!(last.sequence > before.sequence + 2, "{}", last.sequence);
    drop(lost.stop().await);

    let server = restored(&bytes, 60).await;
    let again = server.bundle().await;
    assert_eq!(again.x509_authorities, before.x509_authorities);
    assert!(again.sequence > last.sequence, "{}", again.sequence);
}
