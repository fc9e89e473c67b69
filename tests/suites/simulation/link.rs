//! The network between agent and server: a forwarder that can be cut, and can swallow what goes one way.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use vouchsafe_runtime::TaskGroup;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Everything passes.
    Open,
    /// Connections break, and new ones are refused.
    Cut,
    /// Nothing passes, and nobody is told.
    Silent,
    /// What the agent asks reaches the server; the answers are lost.
    AnswersLost,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Link {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Changes when every connection ends.
    hung_up: watch::Sender<()>,
    target: watch::Sender<Option<SocketAddr>>,
    _group: TaskGroup,
}

impl Link {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, seen) = watch::channel(Mode::Open);
        let (target, aim) = watch::channel(None);
        let (hung_up, ends) = watch::channel(());
        let (group, _failures) = TaskGroup::new();
        let connections = group.clone();
        group.passing("link", async move {
            while let Ok((client, _)) = listener.accept().await {
                let (open, target) = (*seen.borrow() != Mode::Cut, *aim.borrow());
                if let (true, Some(target)) = (open, target) {
                    connections.passing(
                        "link connection",
                        carry(client, target, seen.clone(), ends.clone()),
                    );
                }
            }
        });
        Ok(Self {
            address,
            mode,
            hung_up,
            target,
            _group: group,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the server listens now.
    pub(crate) fn aim(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    pub(crate) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Ends every connection, as the end of a process does.
    pub(crate) fn hang_up(&self) {
        self.hung_up.send_replace(());
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn carry(
    client: TcpStream,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
    mut hung_up: watch::Receiver<()>,
) {
    hung_up.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _either_way = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let asks = |mode: Mode| matches!(mode, Mode::Open | Mode::AnswersLost);
    tokio::select! {
        () = forward(from_client, to_server, mode.clone(), asks) => {}
        () = forward(from_server, to_client, mode.clone(), |mode| mode == Mode::Open) => {}
        () = broken(mode) => {}
        _ends = hung_up.changed() => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    passes: fn(Mode) -> bool,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if mode.wait_for(|mode| passes(*mode)).await.is_err() {
            return;
        }
        if to
            .write_all(bytes.get(..count).unwrap_or_default())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Resolves when the connection does not live through a change: what was lost on the way cannot come later.
async fn broken(mut mode: watch::Receiver<Mode>) {
    let mut was = *mode.borrow_and_update();
    while mode.changed().await.is_ok() {
        let now = *mode.borrow_and_update();
        if now == Mode::Cut || was != Mode::Open && now != was {
            return;
        }
        was = now;
    }
}
