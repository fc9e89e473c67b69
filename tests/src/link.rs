//! The network between agent and server: a forwarder that can be cut, can swallow what goes one way, and can stop after
//! so many bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use vouchsafe_runtime::TaskGroup;

use crate::daemons::Deployment;
use crate::wait::until;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Open,
    /// Connections break, and new ones are refused.
    Cut,
    /// Nothing passes, and nobody is told.
    Silent,
    /// What the agent asks reaches the server; the answers are lost.
    AnswersLost,
}

/// How many of the server's bytes have come through, and how many more may.
#[derive(Debug, Clone, Copy)]
struct Meter {
    passed: u64,
    left: u64,
}

/// The network.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    meter: watch::Sender<Meter>,
    /// Changes when every connection ends.
    hung_up: watch::Sender<()>,
    target: watch::Sender<Option<SocketAddr>>,
    _group: TaskGroup,
}

impl Deployment {
    /// A server and an agent with a network between them, and further lines in the agent's configuration.
    ///
    /// # Errors
    /// When one of them does not come up within the deadline.
    pub async fn linked(agent_config: &str) -> anyhow::Result<(Self, Link)> {
        let mut deployment = Self::server_alone("").await?;
        let link = Link::start().await?;
        link.aim(deployment.server_address().parse()?);
        deployment.reach_server_at(link.address());
        deployment.configure_agent(agent_config);
        deployment.join().await?;
        Ok((deployment, link))
    }
}

impl Link {
    /// A network that leads nowhere yet.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, seen) = watch::channel(Mode::Open);
        let (target, aim) = watch::channel(None);
        let (hung_up, ends) = watch::channel(());
        let meter = watch::Sender::new(Meter {
            passed: 0,
            left: u64::MAX,
        });
        let counted = meter.clone();
        let (group, _failures) = TaskGroup::new();
        let connections = group.clone();
        group.passing("link", async move {
            while let Ok((client, _)) = listener.accept().await {
                let (open, target) = (*seen.borrow() != Mode::Cut, *aim.borrow());
                if let (true, Some(target)) = (open, target) {
                    connections.passing(
                        "link connection",
                        carry((client, target), seen.clone(), ends.clone(), counted.clone()),
                    );
                }
            }
        });
        Ok(Self {
            address,
            mode,
            meter,
            hung_up,
            target,
            _group: group,
        })
    }

    /// Where the agent finds it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the server listens now.
    pub fn aim(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// How it is.
    #[must_use]
    pub fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    /// Ends every connection, as the end of a process does.
    pub fn hang_up(&self) {
        self.hung_up.send_replace(());
    }

    /// Changes how it is.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Lets so many further bytes of the server through, and holds up the rest.
    pub fn let_through(&self, bytes: u64) {
        self.meter.send_modify(|meter| meter.left = bytes);
    }

    /// How many bytes of the server came through since the beginning.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.meter.borrow().passed
    }

    /// Waits until all that was let through is on its way to the agent, which need not have read it.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn used_up(&self) -> anyhow::Result<()> {
        until("as many bytes as may have come through", async || {
            (self.meter.borrow().left == 0).then_some(())
        })
        .await
    }
}

async fn carry(
    (client, target): (TcpStream, SocketAddr),
    mode: watch::Receiver<Mode>,
    mut hung_up: watch::Receiver<()>,
    meter: watch::Sender<Meter>,
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
        () = forward(from_client, to_server, (mode.clone(), asks), None) => {}
        () = forward(from_server, to_client, (mode.clone(), |mode| mode == Mode::Open), Some(meter)) => {}
        () = broken(mode) => {}
        _ends = hung_up.changed() => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (mut mode, passes): (watch::Receiver<Mode>, fn(Mode) -> bool),
    meter: Option<watch::Sender<Meter>>,
) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if mode.wait_for(|mode| passes(*mode)).await.is_err() {
            return;
        }
        let mut waiting = bytes.get(..count).unwrap_or_default();
        while !waiting.is_empty() {
            let may = match &meter {
                Some(meter) => taken(meter, waiting.len()).await,
                None => waiting.len(),
            };
            let (now, later) = waiting.split_at(may);
            if to.write_all(now).await.is_err() {
                return;
            }
            waiting = later;
        }
    }
}

/// Takes from the meter what may pass, of `wanted` bytes; waits until any may.
async fn taken(meter: &watch::Sender<Meter>, wanted: usize) -> usize {
    let mut changes = meter.subscribe();
    loop {
        let mut may = 0;
        meter.send_if_modified(|meter| {
            may = usize::try_from(meter.left).unwrap_or(usize::MAX).min(wanted);
            let bytes = u64::try_from(may).unwrap_or(u64::MAX);
            // No limit stays none.
            meter.left -= if meter.left == u64::MAX { 0 } else { bytes };
            meter.passed += bytes;
            false
        });
        if may > 0 {
            return may;
        }
        let _it_is_ours = changes.wait_for(|meter| meter.left > 0).await;
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
