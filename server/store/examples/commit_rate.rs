//! Measures the embedded store: durable entry creations a second, beside what the disk can do at most.
//!
//! `cargo run --profile fast -p vouchsafe-store --example commit_rate -- [DIRECTORY] [ENTRIES]`; the
//! directory (by default the one for temporary files) should be on the disk that will hold the store.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use vouchsafe_audit::{Draft, Outcome, Principal};
use vouchsafe_identity::SpiffeId;
use vouchsafe_store::{
    ChangeKind, Commit, Entry, EntryId, EntryReader, Record, SledConfig, SledStore, Store,
};

type Failure = Box<dyn Error + Send + Sync>;

/// The disk and the store are measured in turns, so short that a disk that changes its mind does it to both.
const TURN: Duration = Duration::from_millis(100);
const TURNS: u32 = 20;
const FILL_BATCH: u64 = 500;
const DEFAULT_ENTRIES: u64 = 100_000;

fn entry(n: u64) -> Result<Entry, Failure> {
    let selectors = [
        format!("unix:uid:{}", n % 1000),
        format!("unix:path:/opt/agents/{n}/bin/agent"),
        format!("unix:sha256:{n:064x}"),
    ];
    Ok(Entry::new(
        EntryId::new(&format!("{:032x}", u128::from(n) * 0x9e37_79b9_7f4a_7c15))?,
        SpiffeId::new(&format!("spiffe://example.org/agent/{n}"))?,
        SpiffeId::new("spiffe://example.org/spire/agent/join_token/one")?,
        selectors
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()?,
        OffsetDateTime::UNIX_EPOCH,
    ))
}

/// What the server commits when an entry is created.
fn creation(n: u64) -> Result<Commit, Failure> {
    let entry = entry(n)?;
    let draft = Draft {
        at: OffsetDateTime::UNIX_EPOCH,
        request_id: format!("{n:032x}"),
        traceparent: None,
        principal: Principal::Local { uid: 0, pid: 1 },
        scope: "local".into(),
        action: "entry.create".into(),
        outcome: Outcome::Done,
        code: None,
        reason: None,
        facts: BTreeMap::from([("entry_id".into(), entry.id.to_string())]),
    };
    Ok(Commit::default()
        .change(ChangeKind::Entry(entry.id.clone()))
        .put(Record::Entry(entry))
        .audit(draft))
}

/// How often something was done, and how long it took.
#[derive(Default)]
struct Tally {
    count: u32,
    took: Duration,
    processor: Duration,
}

impl Tally {
    fn rate(&self) -> f64 {
        f64::from(self.count) / self.took.as_secs_f64()
    }
}

/// Processor time of this process so far: unlike the rate, it tells the same on a busy machine.
fn processor() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds());
    let spent = micros(usage.user_time())? + micros(usage.system_time())?;
    Ok(Duration::from_micros(spent))
}

/// Writes of 1 KiB, each with fdatasync, into a file that does not grow: the limit for one caller.
fn sync_for_a_turn(file: &File, tally: &mut Tally) -> Result<(), Failure> {
    let begun = Instant::now();
    while begun.elapsed() < TURN {
        file.write_all_at(&[7; 1024], u64::from(tally.count % 1024) * 1024)?;
        file.sync_data()?;
        tally.count += 1;
    }
    tally.took += begun.elapsed();
    Ok(())
}

/// Durable creations by so many callers; `next` is the first unused number.
async fn create_for_a_turn(
    store: &Arc<SledStore>,
    callers: u64,
    next: &mut u64,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let (begun, spent) = (Instant::now(), processor()?);
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let store = Arc::clone(store);
        let first = *next + caller;
        tasks.spawn(async move {
            let mut made = 0;
            while begun.elapsed() < TURN {
                store.commit(creation(first + made * callers)?).await?;
                made += 1;
            }
            Ok::<_, Failure>(made)
        });
    }
    let mut most = 0;
    while let Some(made) = tasks.join_next().await {
        let made = made??;
        tally.count += u32::try_from(made)?;
        most = most.max(made);
    }
    tally.took += begun.elapsed();
    tally.processor += processor()? - spent;
    *next += most * callers;
    Ok(())
}

async fn fill(store: &SledStore, next: &mut u64, until: u64) -> Result<(), Failure> {
    while *next < until {
        let mut all = Commit::default();
        for n in *next..(*next + FILL_BATCH).min(until) {
            let one = creation(n)?;
            all.mutations.extend(one.mutations);
            all.changes.extend(one.changes);
            all.audit.extend(one.audit);
        }
        store.commit(all).await?;
        *next = (*next + FILL_BATCH).min(until);
    }
    Ok(())
}

/// Memory of this process in MiB.
fn resident_mib() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? / 1024)
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let most = arguments
        .next()
        .map_or(Ok(DEFAULT_ENTRIES), |text| text.parse())?;
    let dir = tempfile::tempdir_in(parent)?;
    let path = dir.path().join("store");
    let mut store = Arc::new(SledStore::open(&path, &SledConfig::default())?);
    let file = File::create(dir.path().join("raw"))?;
    file.write_all_at(&[0; 1 << 20], 0)?;
    file.sync_all()?;
    println!(
        "{:>8} {:>7} {:>10} {:>9} {:>8} {:>10}",
        "entries", "callers", "commits/s", "raw/s", "ratio", "cpu us"
    );
    let mut next = 0;
    for size in [1000, 10_000, 100_000, 1_000_000] {
        if size > most {
            break;
        }
        fill(&store, &mut next, size).await?;
        for callers in [1, 16] {
            let (mut raw, mut made) = (Tally::default(), Tally::default());
            for _ in 0..TURNS {
                sync_for_a_turn(&file, &mut raw)?;
                create_for_a_turn(&store, callers, &mut next, &mut made).await?;
            }
            let micros = made.processor.as_secs_f64() * 1e6 / f64::from(made.count);
            let (raw, made) = (raw.rate(), made.rate());
            println!(
                "{size:>8} {callers:>7} {made:>10.0} {raw:>9.0} {:>8.2} {micros:>10.0}",
                made / raw
            );
        }
    }
    println!("memory with {next} entries: {} MiB", resident_mib()?);
    drop(store);
    let begun = Instant::now();
    store = Arc::new(SledStore::open(&path, &SledConfig::default())?);
    println!("opened again in {:.3} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.entries(after.as_ref(), 1000).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.value.id.clone());
        count += page.len();
    }
    println!(
        "read {count} entries by pages in {:.3} s",
        begun.elapsed().as_secs_f64()
    );
    let disk = fs::metadata(path.join("db"))?.len() >> 20;
    println!("file of {disk} MiB");
    Ok(())
}
