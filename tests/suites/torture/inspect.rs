//! Looks into the data of a server that does not run, and asks one that does.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context, ensure};
use tonic::transport::Channel;
use vouchsafe_identity::TrustDomain;
use vouchsafe_proto::spire::api::server::agent::v1::ListAgentsRequest;
use vouchsafe_proto::spire::api::server::agent::v1::agent_client::AgentClient;
use vouchsafe_proto::spire::api::server::entry::v1::ListEntriesRequest;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_runtime::KeyManager;
use vouchsafe_runtime::keys::DiskKeys;
use vouchsafe_store::{
    AuditReader, BundleReader, ChangeKind, ChangeReader, EntryReader, JournalReader, KeyPurpose, NodeReader,
    Revision, SledConfig, SledStore, Store, TokenReader,
};
use vouchsafe_tests::daemons::TRUST_DOMAIN;

/// What is in a store, by the names of the ledger.
pub(crate) type Found = BTreeMap<String, String>;

/// Opens the store in a folder and checks what must hold whatever happened.
pub(crate) async fn store(folder: &Path) -> anyhow::Result<Found> {
    let store = SledStore::open(folder, &SledConfig::default()).context("the store does not open")?;
    let found = rows(&store).await?;
    logs(&store).await?;
    Ok(found)
}

/// As [`store`], for a server's `data_dir`, with its keys.
pub(crate) async fn server(data_dir: &Path) -> anyhow::Result<Found> {
    let folder = data_dir.join("store");
    let store = SledStore::open(&folder, &SledConfig::default()).context("the store does not open")?;
    let found = rows(&store).await?;
    logs(&store).await?;
    keys(&store, &data_dir.join("keys")).await?;
    Ok(found)
}

async fn rows(store: &SledStore) -> anyhow::Result<Found> {
    let mut found = Found::new();
    for row in store.entries(None, usize::MAX).await? {
        let holder = store.entry_by_shape(&row.value.shape()).await?;
        ensure!(
            holder.as_ref() == Some(&row.value.id),
            "an entry without its shape: {row:?}"
        );
        found.insert(format!("entry/{}", row.value.id), row.value.hint);
    }
    for row in store.nodes(None, usize::MAX).await? {
        found.insert(format!("node/{}", row.value.id.path()), row.value.serial);
    }
    let tokens = store.tokens(None, usize::MAX).await?;
    for row in tokens.into_iter().filter(|row| row.value.spent.is_none()) {
        found.insert(format!("token/{}", row.value.hash.0), "made".to_owned());
    }
    for bundle in store.bundles().await? {
        for authority in bundle.value.jwt_authorities {
            found.insert(format!("authority/{}", authority.key_id), "published".to_owned());
        }
    }
    Ok(found)
}

/// The audit log and the change log have no gap, and know of everything that is there.
async fn logs(store: &SledStore) -> anyhow::Result<()> {
    let head = store.audit_head().await?;
    let mut created = HashSet::new();
    let records = store.audit_records(0, usize::MAX).await?;
    ensure!(
        records.len() as u64 == head,
        "{} records, the last is {head}",
        records.len()
    );
    for (seq, record) in (1..).zip(records) {
        ensure!(record.seq == seq, "a gap in the audit log before {}", record.seq);
        if record.draft.action == "entry.create" {
            created.extend(record.draft.facts.get("entry_id").cloned());
        }
    }
    let changes = store
        .changes(Revision(0), usize::MAX)
        .await?
        .context("nothing was pruned")?;
    let mut told = HashSet::new();
    let mut last = Revision(0);
    for change in changes {
        ensure!(
            change.revision >= last,
            "the change log goes back at {:?}",
            change.revision
        );
        last = change.revision;
        told.insert((change.revision, change.kind));
    }
    ensure!(
        last <= *store.revisions().borrow(),
        "a change from the future: {last:?}"
    );
    for row in store.entries(None, usize::MAX).await? {
        let change = ChangeKind::Entry(row.value.id.clone());
        ensure!(
            told.contains(&(row.revision, change)),
            "no change tells of {row:?}"
        );
        ensure!(
            created.is_empty() || created.contains(row.value.id.as_str()),
            "no audit record tells of {}",
            row.value.id
        );
    }
    for row in store.nodes(None, usize::MAX).await? {
        let change = ChangeKind::Node(row.value.id.clone());
        ensure!(
            told.contains(&(row.revision, change)),
            "no change tells of {row:?}"
        );
    }
    Ok(())
}

/// Each authority of the journal has its key on disk and its place in the bundle.
async fn keys(store: &SledStore, folder: &Path) -> anyhow::Result<()> {
    let journal = store.journal(store.server_id()).await?;
    if journal.is_empty() {
        return Ok(());
    }
    let keys = DiskKeys::open(folder)?;
    let bundle = store.bundle(&TrustDomain::new(TRUST_DOMAIN)?).await?;
    let bundle = bundle.context("a journal, and no bundle")?.value;
    for row in journal {
        let row = row.value;
        let key = keys.get(&row.key_id).await?;
        let key = key.with_context(|| format!("the key of {row:?} is not on disk"))?;
        ensure!(key.public_key_spki() == row.public_key, "another key for {row:?}");
        let published = match row.key.purpose {
            KeyPurpose::X509Ca => bundle
                .x509_authorities
                .iter()
                .any(|authority| authority.certificate == row.certificate),
            _ => bundle
                .jwt_authorities
                .iter()
                .any(|authority| authority.key_id == row.authority_id),
        };
        ensure!(published, "not in the bundle: {row:?}");
    }
    Ok(())
}

/// Checks that a server shows what was found in its store: that its index is right.
pub(crate) async fn shown(channel: Channel, found: &Found) -> anyhow::Result<()> {
    let entries = EntryClient::new(channel.clone())
        .list_entries(ListEntriesRequest::default())
        .await?
        .into_inner()
        .entries;
    let agents = AgentClient::new(channel)
        .list_agents(ListAgentsRequest::default())
        .await?
        .into_inner()
        .agents;
    let mut shown: BTreeMap<String, Option<String>> = BTreeMap::new();
    for entry in entries {
        shown.insert(format!("entry/{}", entry.id), Some(entry.hint));
    }
    for agent in agents {
        let path = agent.id.unwrap_or_default().path;
        shown.insert(format!("node/{path}"), None);
    }
    let listed = found
        .iter()
        .filter(|(name, _)| !name.starts_with("token/") && !name.starts_with("authority/"));
    let stored: BTreeMap<_, _> = listed
        .map(|(name, value)| (name.clone(), name.starts_with("entry/").then(|| value.clone())))
        .collect();
    ensure!(
        shown == stored,
        "the index is not the store: {shown:?}, {stored:?}"
    );
    Ok(())
}
