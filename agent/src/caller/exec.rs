//! When to look at a process again: the kernel tells of each exec and each change of ids, where it does; elsewhere
//! every second.

use std::collections::HashMap;
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
    watched: Mutex<Pids>,
}

#[derive(Debug, Default)]
struct Pids {
    by_pid: HashMap<i32, Vec<Arc<Notify>>>,
}

impl ExecWatch {
    /// Subscribes to the kernel's events. Blocks for at most half a second.
    pub fn start() -> (Self, Option<ProcEvents>) {
        let (mode, events) = match ProcEvents::listen() {
            Ok(events) => (Mode::Events, Some(events)),
            Err(error) => (Mode::Looking(error.to_string()), None),
        };
        let inner = Inner {
            mode: watch::Sender::new(mode),
            watched: Mutex::default(),
        };
        (Self(Arc::new(inner)), events)
    }

    /// How execs come to be known at present.
    pub fn mode(&self) -> Mode {
        self.0.mode.borrow().clone()
    }

    /// Passes the kernel's events on; where they fail, connections are looked at every second from then on.
    pub async fn run(self, events: Option<ProcEvents>) {
        if let Some(events) = events {
            let error = self.pass_on(events).await;
            tracing::warn!(%error, "no more process events: callers are looked at every second");
            self.0.mode.send_replace(Mode::Looking(error));
        }
        std::future::pending().await
    }

    async fn pass_on(&self, events: ProcEvents) -> String {
        let events = match Watched::new(events) {
            Ok(events) => events,
            Err(error) => return error.to_string(),
        };
        loop {
            let mut ready = match events.readable().await {
                Ok(ready) => ready,
                Err(error) => return error.to_string(),
            };
            loop {
                match events.get().next() {
                    Ok(Some(ProcEvent::Exec { pid } | ProcEvent::Credentials { pid })) => self.suspect(pid),
                    Ok(Some(_other)) => {}
                    Ok(None) => break,
                    Err(ProcEventsError::Lost) => self.suspect_all(),
                    Err(error) => return error.to_string(),
                }
            }
            ready.clear_ready();
        }
    }

    fn suspect(&self, pid: i32) {
        for notify in self.lock().by_pid.get(&pid).into_iter().flatten() {
            notify.notify_one();
        }
    }

    fn suspect_all(&self) {
        for notify in self.lock().by_pid.values().flatten() {
            notify.notify_one();
        }
    }

    /// Suspicions against the process that has this number, from now on.
    pub fn of(&self, pid: i32) -> Suspicions {
        let notify = Arc::new(Notify::new());
        self.lock()
            .by_pid
            .entry(pid)
            .or_default()
            .push(Arc::clone(&notify));
        Suspicions {
            watch: self.clone(),
            pid,
            notify,
        }
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
    notify: Arc<Notify>,
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
            () = self.notify.notified() => {}
            () = looking => {}
        }
    }
}

impl Drop for Suspicions {
    fn drop(&mut self) {
        let mut watched = self.watch.lock();
        if let Some(notifies) = watched.by_pid.get_mut(&self.pid) {
            notifies.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
            if notifies.is_empty() {
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
        execs.suspect(1);
        assert!(hears(&one, Duration::from_secs(1)).await);
        assert!(!hears(&one, Duration::from_secs(60)).await, "told once");
        assert!(!hears(&other, Duration::from_secs(60)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn lost_events_make_everyone_suspect() {
        let execs = watch(Mode::Events);
        let (one, other) = (execs.of(1), execs.of(2));
        execs.suspect_all();
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
        execs.suspect(1);
        assert!(hears(&again, Duration::from_secs(1)).await);
        drop(again);
        assert!(execs.lock().by_pid.is_empty());
    }
}
