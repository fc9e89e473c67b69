//! Listening sockets that a service manager hands over (systemd's socket activation, sd_listen_fds(3)).
//!
//! A socket is known by its address, not by its place: each listener of the configuration takes the one that stands
//! where it would bind. One that nobody takes is an error, for callers would wait at it for ever.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use listenfd::ListenFd;

/// The variables by which the sockets come, and for which process.
const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_PID: &str = "LISTEN_PID";

/// Why sockets that were handed over cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandedError {
    /// One is no listening stream socket.
    #[error("socket {0} that the service manager handed over is neither a TCP nor a unix stream socket")]
    Kind(usize),
    /// One does not say where it listens.
    #[error("a socket that the service manager handed over does not say where it listens")]
    Address(#[source] std::io::Error),
    /// Some are left.
    #[error(
        "the service manager handed over sockets that the configuration does not name: {0}; make the addresses of the \
         socket unit and of the configuration agree"
    )]
    Unwanted(String),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener),
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => write!(f, "`{address}`"),
            Self::Unix(listener) => match listener.local_addr() {
                Ok(address) => write!(
                    f,
                    "`{}`",
                    address.as_pathname().unwrap_or(Path::new("(no path)")).display()
                ),
                Err(error) => write!(f, "({error})"),
            },
        }
    }
}

/// The sockets that nobody has taken yet. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Handed(Arc<Mutex<Vec<Socket>>>);

impl Handed {
    /// What the environment says was handed to this process; nothing, where it was meant for another one.
    ///
    /// # Errors
    /// [`HandedError`] when one of them is not what can be served on.
    pub fn from_environment() -> Result<Self, HandedError> {
        let ours =
            crate::config::environment(LISTEN_PID).is_some_and(|pid| pid == std::process::id().to_string());
        let count: usize = crate::config::environment(LISTEN_FDS)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0);
        if !ours || count == 0 {
            return Ok(Self::default());
        }
        let mut fds = ListenFd::from_env();
        let sockets: Result<Vec<Socket>, HandedError> = (0..fds.len()).map(|n| take(&mut fds, n)).collect();
        Ok(Self(Arc::new(Mutex::new(sockets?))))
    }

    /// The socket that listens at a path.
    pub fn unix(&self, path: &Path) -> Option<UnixListener> {
        let there = |socket: &Socket| match socket {
            Socket::Unix(listener) => listener
                .local_addr()
                .is_ok_and(|address| address.as_pathname() == Some(path)),
            Socket::Tcp(..) => false,
        };
        match self.take(there)? {
            Socket::Unix(listener) => Some(listener),
            Socket::Tcp(..) => None,
        }
    }

    /// The socket that listens on an address. Any address of a port is any address, of IPv6 or IPv4.
    pub fn tcp(&self, wanted: SocketAddr) -> Option<TcpListener> {
        let any = |address: &SocketAddr| address.ip().is_unspecified();
        let there = |socket: &Socket| match socket {
            Socket::Tcp(_, at) => *at == wanted || (any(at) && any(&wanted) && at.port() == wanted.port()),
            Socket::Unix(_) => false,
        };
        match self.take(there)? {
            Socket::Tcp(listener, _) => Some(listener),
            Socket::Unix(_) => None,
        }
    }

    /// To be asked when every listener is bound.
    ///
    /// # Errors
    /// [`HandedError::Unwanted`] names the sockets that nobody took.
    pub fn all_taken(&self) -> Result<(), HandedError> {
        let left: Vec<String> = self.lock().iter().map(ToString::to_string).collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(HandedError::Unwanted(left.join(", "))),
        }
    }

    fn take(&self, wanted: impl Fn(&Socket) -> bool) -> Option<Socket> {
        let mut sockets = self.lock();
        let place = sockets.iter().position(wanted)?;
        Some(sockets.swap_remove(place))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(fds: &mut ListenFd, n: usize) -> Result<Socket, HandedError> {
    if let Ok(Some(listener)) = fds.take_unix_listener(n) {
        listener.set_nonblocking(true).map_err(HandedError::Address)?;
        return Ok(Socket::Unix(listener));
    }
    match fds.take_tcp_listener(n) {
        Ok(Some(listener)) => {
            listener.set_nonblocking(true).map_err(HandedError::Address)?;
            let address = listener.local_addr().map_err(HandedError::Address)?;
            Ok(Socket::Tcp(listener, address))
        }
        Ok(None) | Err(_) => Err(HandedError::Kind(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_listener_takes_the_socket_at_its_address_and_what_is_left_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        let (at, any_at) = (tcp.local_addr().unwrap(), any.local_addr().unwrap());
        let handed = Handed(Arc::new(Mutex::new(vec![
            Socket::Unix(unix),
            Socket::Tcp(tcp, at),
            Socket::Tcp(any, any_at),
        ])));
        assert!(handed.unix(&dir.path().join("b.sock")).is_none());
        assert!(handed.tcp(([127, 0, 0, 1], any_at.port()).into()).is_none());
        let v6: SocketAddr = format!("[::]:{}", any_at.port()).parse().unwrap();
        assert!(handed.tcp(v6).is_some() && handed.tcp(v6).is_none());
        assert!(handed.tcp(at).is_some());
        let left = handed.all_taken().unwrap_err().to_string();
        assert!(left.contains("a.sock"), "{left}");
        assert!(handed.unix(&path).is_some());
        handed.all_taken().unwrap();
    }
}
