//! A disk that is full, read-only, fails to flush or rots: the server says which, loses nothing, keeps serving what it
//! can, and goes on by itself where it may.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::entry::v1::entry_client::EntryClient;
use vouchsafe_proto::spire::api::server::entry::v1::{BatchCreateEntryRequest, ListEntriesRequest};
use vouchsafe_proto::spire::api::server::svid::v1::MintJwtsvidRequest;
use vouchsafe_proto::spire::api::server::svid::v1::svid_client::SvidClient;
use vouchsafe_proto::vouchsafe::server::v1::HealthRequest;
use vouchsafe_proto::vouchsafe::server::v1::server_admin_client::ServerAdminClient;
use vouchsafe_proto::vouchsafe::types::v1::HealthStatus;
use vouchsafe_store::{
    AuditReader, ChangeKind, Commit, EntryId, EntryReader, Record, SledConfig, SledStore, Store,
};
use vouchsafe_tests::block::Block;
use vouchsafe_tests::daemons::Deployment;
use vouchsafe_tests::disk::{Disk, Faults, Numbers};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::channel;
use vouchsafe_tests::require;
use vouchsafe_tests::wait::until;

use crate::ledger::{Event, Ledger, Want};
use crate::{Task, inspect, load, power};

const DATA: &str = "data";

/// A server on a disk that can be told to fail, and what it has acknowledged.
struct Bed<D> {
    disk: D,
    data: PathBuf,
    at: Deployment,
    ledger: Ledger,
    made: usize,
}

impl Bed<Disk<()>> {
    async fn new() -> anyhow::Result<Self> {
        let disk = Disk::mount()?;
        let data = disk.join(DATA);
        Self::on(disk, data).await
    }

    fn fail(&self, faults: Faults) {
        self.disk.fail(faults);
    }

    /// Kills it; everything acknowledged is there.
    async fn lost_nothing(mut self) -> anyhow::Result<()> {
        self.at.server.take().context("a server")?.kill().await?;
        self.fail(Faults::default());
        self.all_is_there().await
    }
}

impl<D> Bed<D> {
    async fn on(disk: D, data: PathBuf) -> anyhow::Result<Self> {
        let at = Deployment::server_in("", &data).await?;
        let mut bed = Self {
            disk,
            data,
            at,
            ledger: Ledger::default(),
            made: 0,
        };
        bed.create().await?;
        Ok(bed)
    }

    /// Everything acknowledged is there; the server does not run.
    async fn all_is_there(&mut self) -> anyhow::Result<()> {
        let found = inspect::server(&self.data).await?;
        self.ledger.settle(&found)
    }

    /// Creates an entry, which is acknowledged or not.
    async fn create(&mut self) -> Result<(), Status> {
        self.made += 1;
        let name = format!("e{}", self.made);
        let thing = format!("entry/{name}");
        let want = Want::Is("v0".to_owned());
        let note =
            |ledger: &mut Ledger, event| ledger.note(event).map_err(|e| Status::internal(e.to_string()));
        note(&mut self.ledger, Event::Asked(thing.clone(), want.clone()))?;
        let unreachable = |e: anyhow::Error| Status::internal(e.to_string());
        let channel = channel(&self.at.server_socket()).await.map_err(unreachable)?;
        let asked = BatchCreateEntryRequest {
            entries: vec![load::entry(&name, "v0")],
            output_mask: None,
        };
        let answer = EntryClient::new(channel)
            .batch_create_entry(asked)
            .await?
            .into_inner();
        let status = answer.results.into_iter().next().and_then(|result| result.status);
        let status = status.unwrap_or_default();
        if status.code != 0 {
            return Err(Status::new(status.code.into(), status.message));
        }
        note(&mut self.ledger, Event::Acknowledged(thing, want))
    }

    /// What needs no write goes on.
    async fn still_serves(&self) -> anyhow::Result<()> {
        let channel = channel(&self.at.server_socket()).await?;
        let listed = EntryClient::new(channel.clone())
            .list_entries(ListEntriesRequest::default())
            .await?;
        ensure!(!listed.into_inner().entries.is_empty(), "the index is empty");
        let asked = MintJwtsvidRequest {
            id: Some(load::id("/minted")),
            audience: vec!["a".to_owned()],
            ttl: 0,
        };
        SvidClient::new(channel).mint_jwtsvid(asked).await?;
        Ok(())
    }

    /// What health says of the store: its status and why.
    async fn health(&self) -> anyhow::Result<(HealthStatus, String)> {
        let mut client = ServerAdminClient::new(channel(&self.at.server_socket()).await?);
        let health = client.health(HealthRequest {}).await?.into_inner();
        let part = health.parts.into_iter().find(|part| part.name == "store");
        let part = part.context("a part `store`")?;
        Ok((part.status(), part.detail))
    }

    async fn store_is(&self, status: HealthStatus, why: &str) -> anyhow::Result<()> {
        until(&format!("the store is {status:?}: {why}"), async || {
            let (is, detail) = self.health().await.ok()?;
            (is == status && detail.contains(why)).then_some(())
        })
        .await
        .with_context(|| self.at.logs())
    }

    /// Writes are refused with these words, and everything else goes on.
    async fn is_refused(&mut self, code: Code, words: &str) -> anyhow::Result<()> {
        match self.create().await {
            Ok(()) => anyhow::bail!("a write was acknowledged that cannot be there"),
            Err(status) => ensure!(
                status.code() == code && status.message().contains(words),
                "{status:?}, not `{words}`"
            ),
        }
        self.still_serves().await
    }

    async fn writes_again(&mut self) -> anyhow::Result<()> {
        for _ in 0..3 {
            until("the server takes writes again", async || self.create().await.ok()).await?;
        }
        self.store_is(HealthStatus::Serving, "").await
    }
}

async fn full() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    bed.fail(Faults {
        full: true,
        ..Faults::default()
    });
    bed.is_refused(Code::Unavailable, "is full: free some space")
        .await?;
    bed.store_is(HealthStatus::Degraded, "no space is left for the store")
        .await?;
    bed.fail(Faults::default());
    bed.writes_again().await?;
    bed.lost_nothing().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_writes_go_on_when_there_is_room() {
    require!(Need::Fuse);
    full().await.unwrap();
}

/// The disk says that it has room, and then has not: a quota, or another program that is quicker.
async fn quota() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    bed.fail(Faults {
        largest_file: Some(0),
        ..Faults::default()
    });
    let status = bed.create().await.err().context("a write was acknowledged")?;
    ensure!(status.code() == Code::Unavailable, "{status:?}");
    bed.store_is(HealthStatus::Degraded, "it is tried again by itself")
        .await?;
    bed.still_serves().await?;
    bed.fail(Faults::default());
    bed.writes_again().await?;
    bed.lost_nothing().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_failed_for_room_is_mended_without_a_restart() {
    require!(Need::Fuse);
    quota().await.unwrap();
}

async fn read_only() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    bed.fail(Faults {
        read_only: true,
        ..Faults::default()
    });
    bed.is_refused(Code::Unavailable, "read-only").await?;
    bed.store_is(HealthStatus::Degraded, "read-only").await?;
    bed.fail(Faults::default());
    bed.writes_again().await?;
    bed.lost_nothing().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_disk_is_named_and_writes_go_on_when_it_is_writable() {
    require!(Need::Fuse);
    read_only().await.unwrap();
}

/// The kernel finds an error and turns the file system read-only under the server; a repair and a restart bring it back.
async fn turned_read_only() -> anyhow::Result<()> {
    let block = Block::mount()?;
    let data = block.place().join(DATA);
    let mut bed = Bed::on(block, data).await?;
    let busy = bed
        .disk
        .remount(false)
        .err()
        .context("a remount under a server")?;
    ensure!(busy.to_string().contains("busy"), "{busy}");
    bed.create().await?;
    bed.disk.fail()?;
    // Whether a write is the first to meet it, or the flush of one that was under way: after the latter only a start helps.
    bed.is_refused(Code::Unavailable, "store").await?;
    bed.store_is(HealthStatus::Degraded, "").await?;
    let (_, why) = bed.health().await?;
    ensure!(why.contains("ead-only") || why.contains("fdatasync"), "{why}");
    bed.is_refused(Code::Unavailable, "store").await?;
    bed.at.server.take().context("a server")?.kill().await?;
    bed.disk.mend()?;
    bed.all_is_there().await?;
    // Mounted read-only, as an operator may: the server says so and does not start.
    bed.disk.remount(false)?;
    bed.at.begin_server()?;
    let server = bed.at.server.as_mut().context("a server")?;
    let status = server.ended().await?;
    let log = server.log();
    ensure!(
        status.code() == Some(74) && log.contains("ead-only"),
        "{status}: {log}"
    );
    bed.disk.remount(true)?;
    bed.at.start_server().await?;
    bed.writes_again().await?;
    bed.at.server.take().context("a server")?.kill().await?;
    bed.all_is_there().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_the_kernel_turns_read_only_is_named_and_loses_nothing() {
    require!(Need::Loop);
    turned_read_only().await.unwrap();
}

async fn failed_flush() -> anyhow::Result<()> {
    let mut bed = Bed::new().await?;
    bed.fail(Faults {
        flushes_fail: true,
        ..Faults::default()
    });
    ensure!(bed.create().await.is_err(), "acknowledged without a flush");
    bed.fail(Faults::default());
    // It would succeed now, and the kernel may have dropped what the first one was for.
    for _ in 0..3 {
        bed.is_refused(Code::Unavailable, "takes no writes").await?;
    }
    bed.store_is(HealthStatus::Degraded, "start the server again")
        .await?;
    bed.at.server.take().context("a server")?.kill().await?;
    bed.at.start_server().await?;
    bed.writes_again().await?;
    bed.lost_nothing().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_failed_is_not_tried_again_before_a_restart() {
    require!(Need::Fuse);
    failed_flush().await.unwrap();
}

/// A store with some entries, closed.
async fn some_store(folder: &Path) -> anyhow::Result<()> {
    let store = SledStore::open(folder, &SledConfig::default())?;
    for n in 0..150 {
        let entry = power::entry(&format!("e{n}"), "v0")?;
        let change = ChangeKind::Entry(entry.id.clone());
        store
            .commit(Commit::default().change(change).put(Record::Entry(entry)))
            .await?;
    }
    Ok(())
}

/// Whether every entry can be read.
async fn all_there(folder: &Path) -> Result<bool, vouchsafe_store::StoreError> {
    let store = SledStore::open(folder, &SledConfig::default())?;
    let mut there = 0;
    for n in 0..150 {
        if let Ok(id) = EntryId::new(&format!("e{n}")) {
            there += usize::from(store.entry(&id).await?.is_some());
        }
    }
    store.audit_head().await?;
    Ok(there == 150)
}

async fn rot(task: &Task) -> anyhow::Result<()> {
    let mut chance: Numbers = task.numbers();
    let whole = tempfile::tempdir()?;
    some_store(&whole.path().join("store")).await?;
    let bytes = std::fs::read(whole.path().join("store/db"))?;
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .context("an empty file")?;
    let (mut told, mut harmless) = (0, 0);
    for n in 0..task.count {
        let place = chance.below(used);
        let folder = tempfile::tempdir()?;
        power::copy_flushed(&whole.path().join("store"), &folder.path().join("store"))?;
        let mut rotten = bytes.clone();
        if let Some(byte) = rotten.get_mut(place) {
            *byte ^= 1 << chance.below(8);
        }
        std::fs::write(folder.path().join("store/db"), rotten)?;
        match all_there(&folder.path().join("store")).await {
            Ok(true) => harmless += 1,
            Ok(false) => anyhow::bail!(
                "{}: byte {place} of {used} rotted, and nobody was told",
                task.round(n)
            ),
            Err(error) => {
                let text = error.to_string();
                ensure!(
                    text.contains("/db`") && text.contains("stop the server"),
                    "byte {place}: {text}"
                );
                told += 1;
            }
        }
    }
    println!(
        "{} bytes rotted: {told} told, {harmless} without harm",
        task.count
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_is_told_or_harmless() {
    rot(&Task::prefixes("a byte rots")).await.unwrap();
}
