//! An agent of which the launch socket alone is there. Each call comes to the test, which answers it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use anyhow::Context;
use futures_util::Stream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use vouchsafe_proto::vouchsafe::launch::v1 as api;
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_proto::vouchsafe::launch::v1::launch_event::Event;
use vouchsafe_proto::vouchsafe::launch::v1::launch_server::{Launch, LaunchServer};
use vouchsafe_runtime::uds::{ConnectionLimits, GuardedListener, Peer, SocketConfig};
use vouchsafe_runtime::{Handed, TaskGroup};
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::wait::DEADLINE;

pub(crate) type Outcomes = anyhow::Result<()>;
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Events = mpsc::Sender<Result<api::LaunchEvent, Status>>;

pub(crate) const RUN: &str = "01K9Z3V7Q8R4S5T6V7W8X9YZAB";
pub(crate) const ID: &str = "spiffe://example.org/agent/a/run/01K9Z3V7Q8R4S5T6V7W8X9YZAB";

/// What a client asks, and where it hears the answer.
#[derive(Debug)]
pub(crate) enum Call {
    Launch(api::LaunchRequest, Option<[OwnedFd; 3]>, Following),
    Follow(String, Following),
    Signal(i32),
    Read(bool, mpsc::Sender<Result<api::OutputChunk, Status>>),
}

/// Tells a client what becomes of its run.
#[derive(Debug)]
pub(crate) struct Following(Events);

impl Following {
    pub(crate) async fn tell(&self, event: Event) {
        self.0
            .send(Ok(api::LaunchEvent { event: Some(event) }))
            .await
            .unwrap();
    }

    pub(crate) async fn fail(&self, status: Status) {
        self.0.send(Err(status)).await.unwrap();
    }

    pub(crate) async fn admit(&self) {
        self.tell(Event::Admitted(api::Admitted {
            run_id: RUN.to_owned(),
            spiffe_id: ID.to_owned(),
            expires_at: 2_000_000_000,
        }))
        .await;
    }

    pub(crate) async fn start(&self) {
        self.admit().await;
        self.tell(Event::Started(api::Started {
            run_id: RUN.to_owned(),
            spiffe_id: ID.to_owned(),
            pid: 4711,
            uid: 70_000,
            isolation: 1,
            weaker: vec!["it shares its user".to_owned()],
            dropped_variables: vec!["PYTHONPATH".to_owned()],
        }))
        .await;
    }

    pub(crate) async fn end(&self, outcome: Outcome, reason: &str) {
        self.tell(Event::Ended(api::Ended {
            run_id: RUN.to_owned(),
            outcome: Some(outcome),
            reason: reason.to_owned(),
        }))
        .await;
    }

    /// Waits until the client has given up.
    pub(crate) async fn given_up(&self) {
        tokio::time::timeout(DEADLINE, self.0.closed()).await.unwrap();
    }
}

#[derive(Debug)]
struct Service(mpsc::UnboundedSender<Call>);

fn following() -> (Following, Messages<api::LaunchEvent>) {
    let (events, heard) = mpsc::channel(16);
    (Following(events), Box::pin(ReceiverStream::new(heard)))
}

#[tonic::async_trait]
impl Launch for Service {
    type LaunchStream = Messages<api::LaunchEvent>;
    type FollowStream = Messages<api::LaunchEvent>;
    type ReadOutputStream = Messages<api::OutputChunk>;

    async fn launch(
        &self,
        request: Request<api::LaunchRequest>,
    ) -> Result<Response<Self::LaunchStream>, Status> {
        assert_eq!(request.metadata().get("workload.spiffe.io").unwrap(), "true");
        let passed = request
            .extensions()
            .get::<Arc<Peer>>()
            .unwrap()
            .take_descriptors();
        let (follow, events) = following();
        self.0
            .send(Call::Launch(request.into_inner(), passed, follow))
            .unwrap();
        Ok(Response::new(events))
    }

    async fn follow(
        &self,
        request: Request<api::FollowRunRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (follow, events) = following();
        self.0
            .send(Call::Follow(request.into_inner().run_id, follow))
            .unwrap();
        Ok(Response::new(events))
    }

    async fn signal(
        &self,
        request: Request<api::SignalRequest>,
    ) -> Result<Response<api::SignalResponse>, Status> {
        assert_eq!(request.get_ref().run_id, RUN);
        self.0.send(Call::Signal(request.get_ref().signal)).unwrap();
        Ok(Response::new(api::SignalResponse {}))
    }

    async fn read_output(
        &self,
        request: Request<api::ReadOutputRequest>,
    ) -> Result<Response<Self::ReadOutputStream>, Status> {
        let (chunks, heard) = mpsc::channel(16);
        self.0.send(Call::Read(request.get_ref().follow, chunks)).unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(heard))))
    }
}

/// The agent, and the folder of its socket.
pub(crate) struct Agent {
    folder: TempDir,
    calls: mpsc::UnboundedReceiver<Call>,
    group: TaskGroup,
}

impl Agent {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (calls, group) = serve(&folder.path().join("launch.sock"));
        Self { folder, calls, group }
    }

    /// It is gone: its connections break, its socket goes.
    pub(crate) async fn stop(&mut self) {
        self.group.stop();
        assert!(self.group.drain(DEADLINE).await, "the agent does not end");
    }

    pub(crate) fn again(&mut self) {
        (self.calls, self.group) = serve(&self.socket());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("launch.sock")
    }

    pub(crate) async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(DEADLINE, self.calls.recv()).await;
        call.unwrap().unwrap()
    }

    pub(crate) fn is_unasked(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }

    pub(crate) async fn launched(&mut self) -> (api::LaunchRequest, Option<[OwnedFd; 3]>, Following) {
        match self.call().await {
            Call::Launch(request, passed, follow) => (request, passed, follow),
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn signalled(&mut self) -> i32 {
        match self.call().await {
            Call::Signal(signal) => signal,
            other => unreachable!("{other:?}"),
        }
    }

    /// A launch of `true`, with further flags.
    pub(crate) fn client(&self, flags: &[&str]) -> Command {
        self.asking(&[&["run", "--class", "a"], flags, &["--", "true"]].concat())
    }

    pub(crate) fn asking(&self, arguments: &[&str]) -> Command {
        // Whoever started the tests may have had signals ignored, as a shell does for what it starts in the background.
        let mut command = Command::new("/usr/bin/env");
        command
            .arg("--default-signal=HUP,INT,QUIT,TERM")
            .arg(binary("vouchsafe").unwrap())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("VOUCHSAFE_LAUNCH_SOCKET", self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

fn serve(socket: &Path) -> (mpsc::UnboundedReceiver<Call>, TaskGroup) {
    let config = SocketConfig {
        path: socket.to_owned(),
        mode: 0o666,
        group: None,
        handed: Handed::default(),
    };
    let listener = GuardedListener::bind(&config, ConnectionLimits::default()).unwrap();
    let incoming = listener.keeping_descriptors().into_incoming();
    let (calls, heard) = mpsc::unbounded_channel();
    let (group, _failures) = TaskGroup::new();
    let stopping = group.stopping();
    group.passing("agent", async move {
        let server = Server::builder().add_service(LaunchServer::new(Service(calls)));
        // Connections end with the runtime's tasks, not gracefully: an agent that was killed says nothing.
        tokio::select! {
            () = stopping.cancelled() => {}
            served = server.serve_with_incoming(ending(incoming, stopping.clone())) => served.unwrap(),
        }
    });
    (heard, group)
}

/// Connections that break when the agent stops.
fn ending<S>(
    incoming: impl Stream<Item = std::io::Result<S>>,
    stopping: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = std::io::Result<breaking::Breaking<S>>> {
    use futures_util::StreamExt;
    incoming.map(move |stream| Ok(breaking::Breaking::new(stream?, &stopping)))
}

mod breaking {
    //! A stream that fails from a moment on.
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
    use tonic::transport::server::Connected;

    pub(super) struct Breaking<S> {
        inner: S,
        broken: Pin<Box<WaitForCancellationFutureOwned>>,
    }

    impl<S> Breaking<S> {
        pub(super) fn new(inner: S, stopping: &CancellationToken) -> Self {
            let broken = Box::pin(stopping.clone().cancelled_owned());
            Self { inner, broken }
        }

        fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
            match self.broken.as_mut().poll(cx) {
                Poll::Pending => Ok(()),
                Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
    }

    impl<S: AsyncRead + Unpin> AsyncRead for Breaking<S> {
        fn poll_read(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            to: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let this = self.get_mut();
            this.check(cx)?;
            Pin::new(&mut this.inner).poll_read(cx, to)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Breaking<S> {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let this = self.get_mut();
            this.check(cx)?;
            Pin::new(&mut this.inner).poll_write(cx, bytes)
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().inner).poll_flush(cx)
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
        }
    }

    impl<S: Connected> Connected for Breaking<S> {
        type ConnectInfo = S::ConnectInfo;

        fn connect_info(&self) -> Self::ConnectInfo {
            self.inner.connect_info()
        }
    }
}

/// What a client said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) async fn ended(mut child: Child) -> anyhow::Result<Said> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let reading = async {
        if let Some(stdout) = &mut stdout {
            stdout.read_to_end(&mut out).await?;
        }
        if let Some(stderr) = &mut stderr {
            stderr.read_to_end(&mut err).await?;
        }
        child.wait().await
    };
    let status = tokio::time::timeout(DEADLINE, reading).await;
    let status = status.context("the command line does not end")??;
    Ok(Said {
        status,
        out: String::from_utf8_lossy(&out).into_owned(),
        err: String::from_utf8_lossy(&err).into_owned(),
    })
}

/// Waits until a client has said this on standard error.
pub(crate) async fn told(child: &mut Child, text: &str) {
    let mut heard = Vec::new();
    let stderr = child.stderr.as_mut().unwrap();
    while !String::from_utf8_lossy(&heard).contains(text) {
        let byte = tokio::time::timeout(DEADLINE, stderr.read_u8()).await;
        heard.push(byte.unwrap().unwrap());
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

impl Said {
    /// Ended with this code, and said this on standard error; nothing on standard output.
    pub(crate) fn refused(&self, code: i32, text: &str) -> Outcomes {
        anyhow::ensure!(self.status.code() == Some(code), "not {code}: {self:?}");
        anyhow::ensure!(self.err.contains(text), "not `{text}`: {self:?}");
        anyhow::ensure!(self.out.is_empty(), "{self:?}");
        Ok(())
    }
}
