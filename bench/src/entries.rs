//! Registration entries as an operator makes them, each with a path and a SHA-256 of its own.

use anyhow::{Context, ensure};
use tonic::transport::Channel;
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use vouchsafe_proto::spire::api::types::{Entry, EntryMask, Selector, Spiffeid};

use crate::daemons::TRUST_DOMAIN;

/// Entries in one request where many are made.
pub const BATCH: usize = 500;

/// A SPIFFE ID of the trust domain.
#[must_use]
pub fn id(path: &str) -> Spiffeid {
    Spiffeid {
        trust_domain: TRUST_DOMAIN.to_owned(),
        path: path.to_owned(),
    }
}

/// An entry for a process.
#[must_use]
pub fn entry(path: &str, parent: &str, selectors: &[String]) -> Entry {
    let selectors = selectors.iter().map(|value| Selector {
        r#type: "unix".to_owned(),
        value: value.clone(),
    });
    Entry {
        spiffe_id: Some(id(path)),
        parent_id: Some(id(parent)),
        selectors: selectors.collect(),
        ..Entry::default()
    }
}

/// The nth of many entries: no process has what it asks for.
#[must_use]
pub fn nth(n: usize, parent: &str) -> Entry {
    let selectors = [
        format!("path:/opt/agents/{n}/bin/agent"),
        format!("sha256:{n:064x}"),
    ];
    entry(&format!("/agent/{n}"), parent, &selectors)
}

/// Creates entries in one request; gives their ids.
///
/// # Errors
/// When one of them is refused.
pub async fn create(admin: &Channel, entries: Vec<Entry>) -> anyhow::Result<Vec<String>> {
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: Some(EntryMask::default()),
    };
    let answer = EntryClient::new(admin.clone())
        .batch_create_entry(request)
        .await?;
    let results = answer.into_inner().results.into_iter();
    let ids = results.map(|result| {
        let status = result.status.unwrap_or_default();
        ensure!(status.code == 0, "an entry is refused: {}", status.message);
        Ok(result.entry.context("an entry without itself")?.id)
    });
    ids.collect()
}

/// Creates the entries from `from` to before `to`, in batches; gives their ids.
///
/// # Errors
/// When one of them is refused.
pub async fn fill(admin: &Channel, from: usize, to: usize, parent: &str) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::with_capacity(to - from);
    for first in (from..to).step_by(BATCH) {
        let batch = first..(first + BATCH).min(to);
        ids.extend(create(admin, batch.map(|n| nth(n, parent)).collect()).await?);
    }
    Ok(ids)
}

/// Deletes an entry.
///
/// # Errors
/// When there is none.
pub async fn delete(admin: &Channel, id: &str) -> anyhow::Result<()> {
    let request = BatchDeleteEntryRequest {
        ids: vec![id.to_owned()],
    };
    let answer = EntryClient::new(admin.clone())
        .batch_delete_entry(request)
        .await?;
    for result in answer.into_inner().results {
        let status = result.status.unwrap_or_default();
        ensure!(status.code == 0, "an entry is not deleted: {}", status.message);
    }
    Ok(())
}
