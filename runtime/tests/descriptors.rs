//! Descriptors that come along with bytes: a listener that was told to keep them takes three with the first bytes, and
//! ends a connection that passes others. Nothing that is passed is left open by anybody.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vouchsafe_runtime::Handed;
use vouchsafe_runtime::uds::{
    ConnectionLimits, GuardError, GuardedListener, GuardedStream, PassingStream, SocketConfig,
};

const DEADLINE: Duration = Duration::from_secs(30);

/// What HTTP/2 begins with, in two parts.
const PREFACE: [&[u8]; 2] = [b"PRI * HTTP/2.0", b"\r\n\r\nSM\r\n\r\n"];

struct Place {
    _folder: TempDir,
    listener: GuardedListener,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = SocketConfig {
            path: folder.path().join("launch.sock"),
            mode: 0o600,
            group: None,
            handed: Handed::default(),
        };
        let listener = GuardedListener::bind(&config, ConnectionLimits::default()).unwrap();
        Self {
            _folder: folder,
            listener,
        }
    }

    fn keeping() -> Self {
        let Self { _folder, listener } = Self::new();
        let listener = listener.keeping_descriptors();
        Self { _folder, listener }
    }

    async fn connected(&self) -> (UnixStream, GuardedStream) {
        let own = UnixStream::connect(self.listener.path()).unwrap();
        let taken = tokio::time::timeout(DEADLINE, self.listener.accept()).await;
        (own, taken.unwrap().unwrap())
    }
}

/// A pipe whose writing end is passed along: it ends only when no copy is left anywhere.
struct Pipe {
    end: File,
    passed: Option<OwnedFd>,
}

impl Pipe {
    fn new() -> Self {
        let (end, passed) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        Self {
            end: File::from(end),
            passed: Some(passed),
        }
    }

    fn pass(&self, over: &UnixStream, bytes: &[u8], count: usize) {
        let numbers: Vec<RawFd> = vec![self.passed.as_ref().unwrap().as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let parts = [IoSlice::new(bytes)];
        let sent = sendmsg::<()>(over.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        assert_eq!(sent, bytes.len());
    }

    /// Waits until nobody has the writing end, and gives what was written. Hangs where a copy is left.
    async fn rest(mut self) -> String {
        drop(self.passed.take());
        let mut text = String::new();
        let reading = tokio::task::spawn_blocking(move || {
            self.end.read_to_string(&mut text).unwrap();
            text
        });
        let text = tokio::time::timeout(DEADLINE, reading).await;
        assert!(text.is_ok(), "a copy of the descriptor is left open");
        text.unwrap().unwrap()
    }
}

async fn read(stream: &mut GuardedStream, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut bytes));
    read.await.unwrap().map(|_| bytes)
}

fn guard_error(error: &std::io::Error) -> GuardError {
    *error.get_ref().unwrap().downcast_ref().unwrap()
}

/// Without the count in `GuardedStream::take_along`, these are kept or closed in silence.
#[tokio::test]
async fn any_number_but_three_ends_the_connection() {
    for count in [1, 2, 4, 253] {
        let place = Place::keeping();
        let (own, mut stream) = place.connected().await;
        let pipe = Pipe::new();
        pipe.pass(&own, PREFACE[0], count);
        let error = read(&mut stream, 1).await.unwrap_err();
        assert!(matches!(guard_error(&error), GuardError::Descriptors { count: told, .. } if told == count));
        assert!(stream.peer().take_descriptors().is_none(), "{count}");
        assert_eq!(pipe.rest().await, "");
    }
}

/// Without `Descriptors::Over`, who is measured once may change what a later launch writes to.
#[tokio::test]
async fn descriptors_that_come_late_end_the_connection_and_take_the_first_ones_with_them() {
    for first in [0, 3] {
        let place = Place::keeping();
        let (mut own, mut stream) = place.connected().await;
        let (early, late) = (Pipe::new(), Pipe::new());
        match first {
            0 => own.write_all(PREFACE[0]).unwrap(),
            count => early.pass(&own, PREFACE[0], count),
        }
        assert_eq!(read(&mut stream, PREFACE[0].len()).await.unwrap(), PREFACE[0]);
        late.pass(&own, PREFACE[1], 3);
        let error = read(&mut stream, 1).await.unwrap_err();
        assert!(
            matches!(guard_error(&error), GuardError::Descriptors { .. }),
            "{error}"
        );
        assert!(stream.peer().take_descriptors().is_none());
        assert_eq!(
            (early.rest().await, late.rest().await),
            (String::new(), String::new())
        );
    }
}

/// Without the look at the sender before `take_along`, a child gives its parent's launch another output.
#[tokio::test]
async fn descriptors_of_another_process_are_not_kept() {
    let place = Place::keeping();
    let (own, mut stream) = place.connected().await;
    let pipe = Pipe::new();
    let script = "import socket; socket.send_fds(socket.socket(fileno=0), [b'PRI * HTTP/2.0'], [1, 1, 1])";
    let status = Command::new("python3")
        .args(["-c", script])
        .stdin(Stdio::from(OwnedFd::from(own.try_clone().unwrap())))
        .stdout(Stdio::from(pipe.passed.as_ref().unwrap().try_clone().unwrap()))
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    let error = read(&mut stream, 1).await.unwrap_err();
    let known = guard_error(&error);
    let foreign = matches!(
        known,
        GuardError::ForeignSender { .. } | GuardError::UnknownSender { .. }
    );
    assert!(foreign, "{error}");
    assert!(stream.peer().take_descriptors().is_none());
    assert_eq!(pipe.rest().await, "");
}

#[tokio::test]
async fn a_listener_that_was_not_told_to_keep_them_closes_all() {
    let place = Place::new();
    let (own, mut stream) = place.connected().await;
    let pipe = Pipe::new();
    pipe.pass(&own, PREFACE[0], 3);
    assert_eq!(read(&mut stream, PREFACE[0].len()).await.unwrap(), PREFACE[0]);
    assert!(stream.peer().take_descriptors().is_none());
    pipe.pass(&own, PREFACE[1], 4);
    assert_eq!(read(&mut stream, PREFACE[1].len()).await.unwrap(), PREFACE[1]);
    assert_eq!(pipe.rest().await, "");
}

/// Without `Drop` of `GuardedStream`, they live as long as anybody holds the peer.
#[tokio::test]
async fn a_connection_that_ends_closes_what_nobody_took() {
    let place = Place::keeping();
    let (own, mut stream) = place.connected().await;
    let pipe = Pipe::new();
    pipe.pass(&own, PREFACE[0], 3);
    assert_eq!(read(&mut stream, PREFACE[0].len()).await.unwrap(), PREFACE[0]);
    let held = Arc::clone(stream.peer());
    drop(stream);
    assert_eq!(pipe.rest().await, "");
    assert!(held.take_descriptors().is_none());

    // Nor is anything left of a connection whose bytes nobody read.
    let (own, stream) = place.connected().await;
    let pipe = Pipe::new();
    pipe.pass(&own, PREFACE[0], 3);
    drop((own, stream));
    assert_eq!(pipe.rest().await, "");
}

/// A flood on one connection holds three at most; one of connections no more than the limit lets in.
#[tokio::test]
async fn a_flood_leaves_nothing_open() {
    let place = Place::keeping();
    let pipe = Pipe::new();
    for _ in 0..40 {
        let (own, mut stream) = place.connected().await;
        pipe.pass(&own, PREFACE[0], 3);
        for _ in 0..40 {
            pipe.pass(&own, b"x", 253);
        }
        assert_eq!(read(&mut stream, PREFACE[0].len()).await.unwrap(), PREFACE[0]);
        assert!(read(&mut stream, 1).await.is_err());
    }
    assert_eq!(pipe.rest().await, "");
}

#[tokio::test]
async fn three_with_the_first_bytes_are_taken_once_in_order_and_closed_on_exec() {
    let place = Place::keeping();
    let (own, mut stream) = place.connected().await;
    let pipes = [Pipe::new(), Pipe::new(), Pipe::new()];
    let numbers: Vec<RawFd> = pipes
        .iter()
        .map(|pipe| pipe.passed.as_ref().unwrap().as_raw_fd())
        .collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let parts = [IoSlice::new(PREFACE[0])];
    sendmsg::<()>(own.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
    assert!(stream.peer().take_descriptors().is_none(), "nothing was read yet");
    assert_eq!(read(&mut stream, PREFACE[0].len()).await.unwrap(), PREFACE[0]);

    let passed = stream.peer().take_descriptors().unwrap();
    assert!(stream.peer().take_descriptors().is_none());
    // What was taken is the taker's: it outlives the connection.
    drop((own, stream));
    for (number, descriptor) in passed.into_iter().enumerate() {
        let flags = fcntl(&descriptor, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags, nix::libc::FD_CLOEXEC);
        write!(File::from(descriptor), "{number}").unwrap();
    }
    let mut said = Vec::new();
    for pipe in pipes {
        said.push(pipe.rest().await);
    }
    assert_eq!(said, ["0", "1", "2"]);
}

/// The other end: what it passes leaves with the first bytes, and it keeps no copy.
#[tokio::test]
async fn a_passing_stream_passes_its_descriptors_once_and_keeps_none() {
    let place = Place::keeping();
    let mut pipe = Pipe::new();
    let end = pipe.passed.take().unwrap();
    let passed = [end.try_clone().unwrap(), end.try_clone().unwrap(), end];
    let path = place.listener.path();
    let mut own = PassingStream::connect(path, Some(passed)).await.unwrap();
    let mut stream = place.listener.accept().await.unwrap();
    own.write_all(b"").await.unwrap();
    for part in PREFACE {
        own.write_all(part).await.unwrap();
        assert_eq!(read(&mut stream, part.len()).await.unwrap(), part);
    }
    let taken = stream.peer().take_descriptors().unwrap();
    assert!(stream.peer().take_descriptors().is_none());
    drop(taken);
    assert_eq!(pipe.rest().await, "");
    drop((own, stream));
}
