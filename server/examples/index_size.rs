//! Measures the index: memory for each entry, and how long its answers take.
//!
//! `cargo run --profile fast -p vouchsafe-server --example index_size [entries]`

use std::io::Write;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use vouchsafe_identity::{Selector, SelectorSet, SpiffeId};
use vouchsafe_server::index::{EntryFilter, Index};
use vouchsafe_store::{Commit, Entry, EntryId, MemoryStore, Record, SharedStore};

const AGENTS: usize = 1000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let entries: usize = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse())?;
    let now = OffsetDateTime::from_unix_timestamp(1_900_000_000)?;
    let store: SharedStore = std::sync::Arc::new(MemoryStore::new("measure"));
    for n in 0..entries {
        let commit = Commit::default().put(Record::Entry(entry(n, now)?));
        store.commit(commit).await?;
    }
    let before = resident_bytes()?;
    let begun = Instant::now();
    let index = Index::load(&store).await?;
    let loaded = begun.elapsed();
    let after = resident_bytes()?;
    let agent = agent(7)?;
    let crawl = each(1000, || index.authorized_entries(&agent, now).len());
    let mine = index.authorized_entries(&agent, now);
    let id = mine
        .first()
        .map(|entry| entry.id.clone())
        .ok_or("the agent has an entry")?;
    let one = each(100_000, || index.authorized_entry(&agent, &id, now).is_some());
    let page = each(1000, || {
        index.entries(&EntryFilter::default(), None, 200).rows.len()
    });
    let per_entry = (after - before) / u64::try_from(entries)?;
    writeln!(
        std::io::stdout(),
        "{entries} entries: {per_entry} bytes an entry, loaded in {loaded:?}; an agent's {} entries {crawl:?}, one of them {one:?}, \
         a page of 200 {page:?}",
        mine.len()
    )?;
    Ok(())
}

fn agent(n: usize) -> Result<SpiffeId, Box<dyn std::error::Error>> {
    Ok(SpiffeId::new(&format!(
        "spiffe://example.org/spire/agent/join_token/{n:032x}"
    ))?)
}

fn entry(n: usize, now: OffsetDateTime) -> Result<Entry, Box<dyn std::error::Error>> {
    let path = Selector::new("unix", &format!("path:/opt/agents/bin/agent-{n}"))?;
    let hash = Selector::new("unix", &format!("sha256:{n:064x}"))?;
    Ok(Entry::new(
        EntryId::new(&format!("{n:08x}-0000-4000-8000-000000000000"))?,
        SpiffeId::new(&format!("spiffe://example.org/agent/researcher/{n}"))?,
        agent(n % AGENTS)?,
        SelectorSet::from([path, hash]),
        now,
    ))
}

fn each<T>(times: u32, mut work: impl FnMut() -> T) -> Duration {
    let begun = Instant::now();
    for _ in 0..times {
        std::hint::black_box(work());
    }
    begun.elapsed() / times
}

fn resident_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .ok_or("statm has no second field")?
        .parse()?;
    Ok(pages * 4096)
}
