//! When a process has executed another program, and when to look at it again: the kernel tells of each exec and each change of
//! ids, where it does; elsewhere it is looked at every second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use vouchsafe_sys::Watched;
use vouchsafe_sys::proc_events::{ProcEvent, ProcEvents, ProcEventsError};

/// Without the kernel's events, each connection's process is looked at this often.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How execs come to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The kernel tells.
    Events,
    /// By looking every second; the text says why.
    Looking(String),
}

/// Tells of processes that may have executed another program or changed their user. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ExecWatch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: watch::Sender<Mode>,
    events: Option<Arc<ProcEvents>>,
    /// Held while events are taken and told, so that whoever finds none left has been told of all.
    watched: Mutex<Pids>,
}

#[derive(Debug, Default)]
struct Pids {
    by_pid: HashMap<i32, Vec<Arc<Suspect>>>,
}

/// A process that is watched.
#[derive(Debug, Default)]
struct Suspect {
    /// Since it is watched.
    executed: AtomicBool,
    look: Notify,
}

impl Pids {
    fn of(&self, pid: i32) -> impl Iterator<Item = &Arc<Suspect>> {
        self.by_pid.get(&pid).into_iter().flatten()
    }

    fn executed(&self, pid: i32) {
        for suspect in self.of(pid) {
            suspect.executed.store(true, Ordering::Relaxed);
            suspect.look.notify_one();
        }
    }

    fn suspect(&self, pid: i32) {
        self.of(pid).for_each(|suspect| suspect.look.notify_one());
    }

    fn suspect_all(&self) {
        for suspect in self.by_pid.values().flatten() {
            suspect.look.notify_one();
        }
    }

    /// Takes what the kernel has told meanwhile.
    fn hear(&self, events: &ProcEvents) -> Result<(), ProcEventsError> {
        loop {
            match events.next() {
                Ok(Some(ProcEvent::Exec { pid })) => self.executed(pid),
                Ok(Some(ProcEvent::Credentials { pid })) => self.suspect(pid),
                Ok(Some(_other)) => {}
                Ok(None) => return Ok(()),
                Err(ProcEventsError::Lost) => self.suspect_all(),
                Err(error) => return Err(error),
            }
        }
    }
}

impl ExecWatch {
    /// Subscribes to the kernel's events. Blocks for at most half a second.
    pub fn start() -> Self {
        let (mode, events) = match ProcEvents::listen() {
            Ok(events) => (Mode::Events, Some(Arc::new(events))),
            Err(error) => (Mode::Looking(error.to_string()), None),
        };
        Self(Arc::new(Inner {
            mode: watch::Sender::new(mode),
            events,
            watched: Mutex::default(),
        }))
    }

    /// How execs come to be known at present.
    pub fn mode(&self) -> Mode {
        self.0.mode.borrow().clone()
    }

    /// Passes the kernel's events on; where they fail, connections are looked at every second from then on.
    pub async fn run(self) {
        if let Some(events) = &self.0.events {
            let error = self.pass_on(Arc::clone(events)).await;
            tracing::warn!(%error, "no more process events: callers are looked at every second");
            self.0.mode.send_replace(Mode::Looking(error));
        }
        std::future::pending().await
    }

    async fn pass_on(&self, events: Arc<ProcEvents>) -> String {
        let events = match Watched::new(events) {
            Ok(events) => events,
            Err(error) => return error.to_string(),
        };
        loop {
            let mut ready = match events.readable().await {
                Ok(ready) => ready,
                Err(error) => return error.to_string(),
            };
            let heard = self.lock().hear(events.get());
            if let Err(error) = heard {
                return error.to_string();
            }
            ready.clear_ready();
        }
    }

    /// Suspicions against the process that has this number, from now on.
    pub fn of(&self, pid: i32) -> Suspicions {
        let suspect = Arc::<Suspect>::default();
        // What was told before is of no concern.
        let mut watched = self.up_to_date();
        watched.by_pid.entry(pid).or_default().push(Arc::clone(&suspect));
        drop(watched);
        Suspicions {
            watch: self.clone(),
            pid,
            suspect,
        }
    }

    /// What is watched, once the kernel's events of up to now are told. That they fail is for [`ExecWatch::run`] to see.
    fn up_to_date(&self) -> MutexGuard<'_, Pids> {
        let watched = self.lock();
        if let Some(events) = &self.0.events {
            let _failed = watched.hear(events);
        }
        watched
    }

    /// As if the kernel had told so.
    #[cfg(test)]
    pub(super) fn executed(&self, pid: i32) {
        self.lock().executed(pid);
    }

    fn lock(&self) -> MutexGuard<'_, Pids> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells when to look at one process again.
#[derive(Debug)]
pub struct Suspicions {
    watch: ExecWatch,
    pid: i32,
    suspect: Arc<Suspect>,
}

impl Suspicions {
    /// Waits until the process may have executed another program. One that comes while nobody waits is kept.
    pub async fn next(&self) {
        let mut mode = self.watch.0.mode.subscribe();
        let looking = async {
            if mode.wait_for(|mode| *mode != Mode::Events).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        tokio::select! {
            () = self.suspect.look.notified() => {}
            () = looking => {}
        }
    }

    /// Whether the process has executed a program since it is watched, as far as the kernel tells. Whatever a program does
    /// comes after the word of its exec, so one that acts can hide none.
    pub fn has_executed(&self) -> bool {
        drop(self.watch.up_to_date());
        self.suspect.executed.load(Ordering::Relaxed)
    }
}

impl Drop for Suspicions {
    fn drop(&mut self) {
        let mut watched = self.watch.lock();
        if let Some(suspects) = watched.by_pid.get_mut(&self.pid) {
            suspects.retain(|suspect| !Arc::ptr_eq(suspect, &self.suspect));
            if suspects.is_empty() {
                watched.by_pid.remove(&self.pid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(mode: Mode) -> ExecWatch {
        ExecWatch(Arc::new(Inner {
            mode: watch::Sender::new(mode),
            events: None,
            watched: Mutex::default(),
        }))
    }

    async fn hears(suspicions: &Suspicions, within: Duration) -> bool {
        tokio::time::timeout(within, suspicions.next()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn an_exec_is_told_to_its_process_alone_and_kept_until_heard() {
        let execs = watch(Mode::Events);
        let (one, other) = (execs.of(1), execs.of(2));
        execs.executed(1);
        assert!(hears(&one, Duration::from_secs(1)).await);
        assert!(!hears(&one, Duration::from_secs(60)).await, "told once");
        assert!(!hears(&other, Duration::from_secs(60)).await);
        let later = execs.of(1);
        assert!(one.has_executed() && !other.has_executed() && !later.has_executed());
        execs.lock().suspect(2);
        assert!(hears(&other, Duration::from_secs(1)).await);
        assert!(!other.has_executed(), "it has only changed its ids");
    }

    #[tokio::test(start_paused = true)]
    async fn lost_events_make_everyone_suspect() {
        let execs = watch(Mode::Events);
        let (one, other) = (execs.of(1), execs.of(2));
        execs.lock().suspect_all();
        assert!(hears(&one, Duration::from_secs(1)).await);
        assert!(hears(&other, Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn without_events_every_second_is_one() {
        let execs = watch(Mode::Looking("a container".to_owned()));
        let one = execs.of(1);
        assert!(!hears(&one, LOOK_EVERY / 2).await);
        assert!(hears(&one, LOOK_EVERY * 2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_remembered_of_connections_that_are_gone() {
        let execs = watch(Mode::Events);
        let (one, again) = (execs.of(1), execs.of(1));
        drop(one);
        execs.lock().suspect(1);
        assert!(hears(&again, Duration::from_secs(1)).await);
        drop(again);
        assert!(execs.lock().by_pid.is_empty());
    }
}
