//! Accepts TLS connections: limits first, then the handshake with a deadline, then the peer's verified SVID.
//!
//! No connection waits for another one's handshake, and a silent one is closed.

mod limits;
mod metrics;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use vouchsafe_identity::Bundle;
use vouchsafe_identity::x509::svid::{LeafInfo, parse_leaf};
use vouchsafe_identity::x509::{VerifyError, verify_svid};

use super::verify::chain_of;
use crate::config::Span;
use crate::tasks::TaskGroup;
use limits::{Place, Places, Refused};
pub use metrics::ConnectionMetrics;
use metrics::HANDSHAKE;

/// After the system refused to accept (no descriptors left, say), this long until the next try.
const REST_AFTER_ERROR: Duration = Duration::from_millis(100);
/// Connections whose handshake is done and that nobody took yet.
const HANDED_OVER: usize = 16;

/// How many connections a listener takes, and how long a handshake may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AcceptLimits {
    /// A connection whose handshake is not done by then is closed.
    pub handshake_timeout: Span,
    /// Handshakes that go on at once, at most a quarter of them with one source; further connections wait their turn.
    pub max_pending_handshakes: NonZeroU32,
    /// Open connections in all, handshakes included; further ones are closed at once.
    pub max_connections: NonZeroU32,
    /// Open connections from one IPv4 address or one IPv6 /64 network; further ones are closed at once.
    pub max_connections_per_source: NonZeroU32,
}

const fn count(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: Span::new(Duration::from_secs(5)),
            max_pending_handshakes: count(256),
            max_connections: count(16_384),
            max_connections_per_source: count(1_024),
        }
    }
}

/// Who is at the other end of a TLS connection.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// Where it connects from.
    pub addr: SocketAddr,
    /// Its verified SVID; `None` where it came without.
    pub svid: Option<PeerSvid>,
}

/// The SVID of a peer, as it was verified in the handshake.
#[derive(Debug, Clone)]
pub struct PeerSvid {
    /// What the leaf says.
    pub leaf: LeafInfo,
    /// The chain as the peer sent it, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// Sequence number of the bundle by which it was last verified.
    verified_by: Arc<AtomicU64>,
}

impl PeerSvid {
    /// Whether its authority has not left the bundle since the handshake. That it has ended meanwhile is not looked at.
    /// Proved once for each sequence number of the bundle.
    pub fn is_vouched_for(&self, bundle: &Bundle, now: OffsetDateTime) -> bool {
        if self.verified_by.load(Ordering::Relaxed) == bundle.sequence {
            return true;
        }
        let vouched = match verify_svid(&self.chain, bundle, now) {
            Ok(_) => true,
            Err(VerifyError::Expired { .. } | VerifyError::NotYetValid { .. }) => return true,
            Err(_) => false,
        };
        if vouched {
            self.verified_by.store(bundle.sequence, Ordering::Relaxed);
        }
        vouched
    }
}

/// A TLS connection whose handshake is done; its connect info is `Arc<TlsPeer>`.
#[derive(Debug)]
pub struct TlsConnection {
    stream: TlsStream<TcpStream>,
    peer: Arc<TlsPeer>,
    _place: Place,
}

impl TlsConnection {
    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<TlsPeer> {
        &self.peer
    }
}

impl Connected for TlsConnection {
    type ConnectInfo = Arc<TlsPeer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

/// Accepts from `listener` until the group stops; `config` must come from [`super::server_config`], since the SVIDs
/// that its handshakes let through are given out as verified.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: AcceptLimits,
    group: &TaskGroup,
) -> impl Stream<Item = io::Result<TlsConnection>> + Send + Unpin + use<> {
    incoming_measured(listener, config, limits, &ConnectionMetrics::default(), group)
}

/// As [`incoming`], with what happens counted.
pub fn incoming_measured(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: AcceptLimits,
    metrics: &ConnectionMetrics,
    group: &TaskGroup,
) -> impl Stream<Item = io::Result<TlsConnection>> + Send + Unpin + use<> {
    let (done, taken) = mpsc::channel(HANDED_OVER);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(config),
        places: Places::new(&limits, metrics),
        metrics: metrics.clone(),
        handshakes: Arc::new(Semaphore::new(
            usize::try_from(limits.max_pending_handshakes.get()).unwrap_or(usize::MAX),
        )),
        handshake_timeout: limits.handshake_timeout.get(),
        group: group.clone(),
        done,
    };
    let stopping = group.stopping();
    group.essential("tls accept", async move {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = acceptor.accept_all(listener) => {}
        }
        Ok::<(), io::Error>(())
    });
    ReceiverStream::new(taken)
}

struct Acceptor {
    tls: TlsAcceptor,
    places: Places,
    metrics: ConnectionMetrics,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
    group: TaskGroup,
    done: mpsc::Sender<io::Result<TlsConnection>>,
}

impl Acceptor {
    /// Ends when nobody takes connections any more.
    async fn accept_all(self, listener: TcpListener) {
        let mut refused = Refused::default();
        while !self.done.is_closed() {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.done.closed() => return,
            };
            match accepted {
                Ok((tcp, addr)) => match self.places.take(addr.ip()) {
                    Ok(place) => self.shake_hands(tcp, addr, place),
                    Err(why) => {
                        self.metrics.refused(why.limit());
                        refused.note(addr, why);
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(REST_AFTER_ERROR).await;
                }
            }
        }
    }

    fn shake_hands(&self, tcp: TcpStream, addr: SocketAddr, place: Place) {
        let (tls, limit, done) = (self.tls.clone(), self.handshake_timeout, self.done.clone());
        let (handshakes, stopping) = (self.handshakes.clone(), self.group.stopping());
        let metrics = self.metrics.clone();
        self.group.passing("tls handshake", async move {
            let turn = tokio::select! {
                turn = turn(&place, handshakes) => turn,
                () = stopping.cancelled() => return,
                () = done.closed() => return,
            };
            let shaken = tokio::time::timeout(limit, tls.accept(tcp)).await;
            drop(turn);
            let connection = match shaken {
                Ok(Ok(stream)) => verified(stream, addr, place),
                Ok(Err(error)) => Err(error),
                Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "no handshake in time")),
            };
            match connection {
                Ok(connection) => {
                    let _nobody_takes_it = done.send(Ok(connection)).await;
                }
                Err(error) => {
                    metrics.refused(HANDSHAKE);
                    tracing::debug!(peer = %addr, %error, "handshake refused");
                }
            }
        });
    }
}

/// Waits for the turn of a connection: first among those of its source, so that a source whose handshakes never end
/// holds up nobody else.
async fn turn(place: &Place, handshakes: Arc<Semaphore>) -> [Option<OwnedSemaphorePermit>; 2] {
    let of_source = place.handshakes().acquire_owned().await.ok();
    [of_source, handshakes.acquire_owned().await.ok()]
}

fn verified(stream: TlsStream<TcpStream>, addr: SocketAddr, place: Place) -> io::Result<TlsConnection> {
    stream.get_ref().0.set_nodelay(true)?;
    let svid = match stream.get_ref().1.peer_certificates() {
        Some([leaf, rest @ ..]) => Some(PeerSvid {
            leaf: parse_leaf(leaf).map_err(io::Error::other)?,
            chain: chain_of(leaf, rest),
            verified_by: Arc::default(),
        }),
        Some([]) | None => None,
    };
    Ok(TlsConnection {
        stream,
        peer: Arc::new(TlsPeer { addr, svid }),
        _place: place,
    })
}

impl AsyncRead for TlsConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
