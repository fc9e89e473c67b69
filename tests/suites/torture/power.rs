//! Loss of power, beneath the file system interface: what the process wrote and flushed is recorded by a FUSE disk, and
//! what a loss could leave of it is opened.
//!
//! A generation is a life of the store or the server on such a disk, ended by SIGKILL or a close. Then the power is
//! lost at many of its moments, each checked by itself; one of the disks that were left is where the next one begins.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tempfile::TempDir;
use tokio::task::JoinSet;
use vouchsafe_store::{ChangeKind, Commit, Entry, EntryId, Key, Record, SledConfig, SledStore, Store};
use vouchsafe_tests::daemons::Deployment;
use vouchsafe_tests::disk::{Disk, Loss, Numbers, Recording};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::channel;
use vouchsafe_tests::require;

use crate::ledger::{Event, Ledger, Want};
use crate::load::Diary;
use crate::{Task, inspect, kills};

/// Losses that are tried of one life.
const OF_ONE_LIFE: usize = 8;
const DATA: &str = "data";

/// A moment, and what becomes of that which was not flushed. The first of each life are the plain ones: everything is
/// lost at the end of it, and everything else is there.
fn choose(n: usize, recording: &Recording<Event>, chance: &mut Numbers) -> (usize, Loss) {
    let end = recording.len();
    let flushes = recording.flushes();
    let before_flush =
        |chance: &mut Numbers| flushes.get(chance.below(flushes.len())).copied().unwrap_or(end);
    match n {
        0 => (end, Loss::Everything),
        1 => (end, Loss::Some),
        _ if n.is_multiple_of(2) => (before_flush(chance), Loss::Some),
        _ => match chance.below(4) {
            0 => (chance.below(end), Loss::Everything),
            1 => (before_flush(chance), Loss::Nothing),
            _ => (chance.below(end), Loss::Some),
        },
    }
}

/// The ledger at a moment.
fn ledger_at(before: &Ledger, recording: &Recording<Event>, moment: usize) -> anyhow::Result<Ledger> {
    let mut ledger = before.clone();
    for event in recording.marks(moment) {
        ledger.note(event)?;
    }
    Ok(ledger)
}

/// Copies a folder, and flushes all of it.
pub(crate) fn copy_flushed(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_flushed(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), &place)?;
            fs::File::open(&place)?.sync_all()?;
        }
    }
    fs::File::open(to)?.sync_all()?;
    fs::File::open(to.parent().context("a parent")?)?.sync_all()?;
    Ok(())
}

/// What a life begins with: the disk that was left, and what was acknowledged on it.
#[derive(Default)]
struct Start {
    left: Option<TempDir>,
    ledger: Ledger,
}

impl Start {
    fn disk(&self) -> anyhow::Result<Disk<Event>> {
        let disk = Disk::mount()?;
        if let Some(left) = &self.left {
            copy_flushed(&left.path().join("disk").join(DATA), &disk.join(DATA))?;
        }
        Ok(disk)
    }
}

/// Lives and losses of power until there were as many as asked.
async fn torture(
    task: &Task,
    mut live: impl AsyncFnMut(usize, &Arc<Disk<Event>>, &Ledger, &mut Numbers) -> anyhow::Result<()>,
    inspect: impl AsyncFn(&Path) -> anyhow::Result<inspect::Found>,
) -> anyhow::Result<()> {
    let mut chance = task.numbers();
    let mut start = Start::default();
    let (mut tried, mut life, mut most) = (0, 0, 0);
    while tried < task.count {
        let disk = Arc::new(start.disk()?);
        let begin = disk.recorded();
        live(life, &disk, &start.ledger, &mut chance)
            .await
            .with_context(|| task.round(tried))?;
        let recording = disk.recording();
        let mut next = None;
        for n in 0..OF_ONE_LIFE.min(task.count - tried) {
            let (moment, loss) = choose(n, &recording, &mut chance);
            let moment = moment.max(begin);
            let told = || {
                format!(
                    "{}: at {moment} of {}, {loss:?} unflushed",
                    task.round(tried + n),
                    recording.len()
                )
            };
            let mut ledger = ledger_at(&start.ledger, &recording, moment).with_context(told)?;
            let left = tempfile::tempdir()?;
            recording.after_power_loss(moment, loss, &mut chance, &left.path().join("disk"))?;
            let data = left.path().join("disk").join(DATA);
            if data.exists() || ledger.acknowledged() > 0 {
                let found = inspect(&data).await.with_context(told)?;
                ledger.settle(&found).with_context(told)?;
                most = most.max(ledger.acknowledged());
                next = Some(Start {
                    left: Some(left),
                    ledger,
                });
            }
        }
        tried += OF_ONE_LIFE;
        life += 1;
        start = next.unwrap_or_default();
    }
    println!(
        "{} losses of power in {life} lives, up to {most} things acknowledged: 0 lost",
        task.count
    );
    Ok(())
}

pub(crate) fn entry(name: &str, hint: &str) -> anyhow::Result<Entry> {
    let id = |path: &str| vouchsafe_identity::SpiffeId::new(&format!("spiffe://example.org{path}"));
    let selectors = [format!("unix:user:{name}")]
        .iter()
        .map(|selector| selector.parse())
        .collect::<Result<_, _>>()?;
    let begun = time::OffsetDateTime::UNIX_EPOCH;
    Ok(Entry {
        // Some values are so long that they are cut.
        dns_names: vec!["name.example.org".to_owned(); 1 + name.len() % 7 * 60],
        hint: hint.to_owned(),
        ..Entry::new(
            EntryId::new(name)?,
            id(&format!("/{name}"))?,
            id("/node")?,
            selectors,
            begun,
        )
    })
}

/// Puts, changes and removes its own entries, each in a commit of its own.
async fn commit_some(
    store: Arc<SledStore>,
    disk: Arc<Disk<Event>>,
    mut chance: Numbers,
    (name, mut own): (String, Vec<String>),
) -> anyhow::Result<()> {
    for n in 0..10 + chance.below(60) {
        let (thing, want) = match chance.below(4) {
            0 if !own.is_empty() => (own.swap_remove(chance.below(own.len())), Want::Gone),
            1 if !own.is_empty() => {
                let thing = own.get(chance.below(own.len())).context("one")?.clone();
                (thing, Want::Is(format!("v{n}")))
            }
            _ => {
                let thing = format!("{name}-{n}");
                own.push(thing.clone());
                (thing, Want::Is("v0".to_owned()))
            }
        };
        let id = EntryId::new(&thing)?;
        let commit = Commit::default().change(ChangeKind::Entry(id.clone()));
        let commit = match &want {
            Want::Is(hint) => commit.put(Record::Entry(entry(&thing, hint)?)),
            _ => commit.delete(Key::Entry(id)),
        };
        let thing = format!("entry/{thing}");
        disk.mark(Event::Asked(thing.clone(), want.clone()));
        store.commit(commit).await?;
        disk.mark(Event::Acknowledged(thing, want));
    }
    Ok(())
}

/// A life of the store alone, in this process, closed or not before the power is lost.
async fn store_lives(
    life: usize,
    disk: &Arc<Disk<Event>>,
    ledger: &Ledger,
    chance: &mut Numbers,
) -> anyhow::Result<()> {
    let mut old = ledger.standing("entry");
    for turn in 0..2 {
        let store = Arc::new(SledStore::open(&disk.join(DATA), &SledConfig::default())?);
        let mut callers = JoinSet::new();
        for n in 0..3 {
            let numbers = Numbers::new(chance.next());
            let own = old.split_off(old.len() - old.len() / 3);
            let work = (format!("l{life}-{turn}-{n}"), own);
            callers.spawn(commit_some(Arc::clone(&store), Arc::clone(disk), numbers, work));
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_power_loses_nothing() {
    require!(Need::Fuse);
    let task = Task::prefixes("the store loses power");
    torture(&task, store_lives, inspect::store).await.unwrap();
}

/// A life of the real server, ended by SIGKILL.
async fn server_lives(
    life: usize,
    disk: &Arc<Disk<Event>>,
    ledger: &Ledger,
    chance: &mut Numbers,
) -> anyhow::Result<()> {
    let mut at = Deployment::server_in(kills::CONFIG, &disk.join(DATA)).await?;
    let marks = Arc::clone(disk);
    let diary = Diary::new(move |event| marks.mark(event));
    kills::live(&mut at, &diary, (life, ledger), chance).await
}

/// Looks at what a server left, and lets a server look at it too.
async fn server_again(data: &Path) -> anyhow::Result<inspect::Found> {
    let found = inspect::server(data).await?;
    let mut at = Deployment::server_in(kills::CONFIG, data).await?;
    inspect::shown(channel(&at.server_socket()).await?, &found).await?;
    at.server.take().context("a server")?.kill().await?;
    // What it has done meanwhile is a life without callers.
    inspect::server(data).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_loses_power_loses_nothing() {
    require!(Need::Fuse);
    let task = Task::prefixes("the server loses power");
    torture(&task, server_lives, server_again).await.unwrap();
}
