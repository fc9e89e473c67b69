//! A terminal for a run whose launcher sits at one. The run gets one end; the other is kept here, and what is typed and
//! said is carried over. The launcher's own terminal is raw meanwhile, and is put back on every way out.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::sync::oneshot;

/// How much is carried over at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// After the run's end: how long it must be quiet before what it said counts as carried over, should another process still
/// hold its terminal; and how often that is looked at.
const QUIET: Duration = Duration::from_millis(100);
const MOST_LOOKS: usize = 20;

/// A new terminal of the size and settings of standard input.
#[derive(Debug)]
pub(super) struct Pty {
    master: OwnedFd,
    run_end: OwnedFd,
    settings: Termios,
}

impl Pty {
    /// Makes it.
    pub(super) fn open() -> io::Result<Self> {
        let own = io::stdin();
        let settings = tcgetattr(&own)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let run_end = ioctl_tiocgptpeer(&master, flags)?;
        tcsetattr(&run_end, OptionalActions::Now, &settings)?;
        tcsetwinsize(&run_end, tcgetwinsize(&own)?)?;
        Ok(Self {
            master,
            run_end,
            settings,
        })
    }

    /// A copy of the run's end.
    pub(super) fn end(&self) -> io::Result<OwnedFd> {
        self.run_end.try_clone()
    }

    /// Makes our own terminal raw, and begins to carry over. The run's end must have been passed on: it is closed here.
    pub(super) fn begin(self) -> io::Result<Relay> {
        let raw = RawMode::begin(self.settings)?;
        let master = File::from(self.master);
        let carried = Arc::new(AtomicU64::new(0));
        let typed = io::stdin().as_fd().try_clone_to_owned()?;
        carry(typed.into(), master.try_clone()?, Arc::default());
        let quiet = carry(master.try_clone()?, own_output()?, Arc::clone(&carried));
        let relay = Relay {
            raw,
            master,
            carried,
            quiet,
        };
        relay.resize();
        Ok(relay)
    }
}

/// Where what the run says on its terminal goes: the first of our own streams that is one.
fn own_output() -> io::Result<File> {
    let (said, errors) = (io::stdout(), io::stderr());
    let own: &dyn AsFd = match (said.is_terminal(), errors.is_terminal()) {
        (true, _) => &said,
        (false, true) => &errors,
        (false, false) => &io::stdin(),
    };
    Ok(own.as_fd().try_clone_to_owned()?.into())
}

/// Carries bytes over until either end is closed; the thread is left behind where it still waits when the process ends.
fn carry(mut from: File, mut to: File, carried: Arc<AtomicU64>) -> oneshot::Receiver<()> {
    let (done, over) = oneshot::channel();
    std::thread::spawn(move || {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match from.read(&mut chunk) {
                // EIO: nobody has the other end of the terminal any more.
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if to.write_all(chunk.get(..count).unwrap_or_default()).is_err() {
                break;
            }
            carried.fetch_add(1, Ordering::Relaxed);
        }
        let _nobody_waits = done.send(());
    });
    over
}

/// Bytes are carried over, and our own terminal is raw.
#[derive(Debug)]
pub(super) struct Relay {
    raw: RawMode,
    master: File,
    carried: Arc<AtomicU64>,
    quiet: oneshot::Receiver<()>,
}

impl Relay {
    /// Gives the run's terminal the size of our own.
    pub(super) fn resize(&self) {
        if let Ok(size) = tcgetwinsize(io::stdin()) {
            let _run_has_gone = tcsetwinsize(&self.master, size);
        }
    }

    /// Puts our terminal back for as long as this process is stopped.
    pub(super) fn suspended(&mut self, stop: impl FnOnce()) {
        self.raw.restore();
        stop();
        self.raw.make_raw();
        self.resize();
    }

    /// Waits until all that the run said is carried over, and puts our terminal back.
    pub(super) async fn finish(mut self) {
        for _ in 0..MOST_LOOKS {
            let before = self.carried.load(Ordering::Relaxed);
            let closed = tokio::time::timeout(QUIET, &mut self.quiet).await.is_ok();
            if closed || self.carried.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// Our own terminal, raw until this is dropped.
#[derive(Debug)]
struct RawMode(Termios);

impl RawMode {
    fn begin(settings: Termios) -> io::Result<Self> {
        let mut raw = settings.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(settings))
    }

    fn make_raw(&self) {
        let mut raw = self.0.clone();
        raw.make_raw();
        let _hung_up = tcsetattr(io::stdin(), OptionalActions::Now, &raw);
    }

    fn restore(&self) {
        let _hung_up = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        self.restore();
    }
}
