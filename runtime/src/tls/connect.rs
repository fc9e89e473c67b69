//! Connects to a server: its address, one TLS connection, and a gRPC channel that connects when it is used.

use std::error::Error;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// Why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the address of a server ({reason}): write it as `host:port`, such as `127.0.0.1:8081`"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

/// A server's host (a name or an IP address) and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerAddress {
    name: ServerName<'static>,
    port: u16,
    uri: Uri,
}

impl ServerAddress {
    /// The host: a DNS name or an IP address without brackets.
    pub fn host(&self) -> String {
        self.name.to_str().into_owned()
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let refused = |reason| AddressError {
            text: text.to_owned(),
            reason,
        };
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| refused("the port is missing"))?;
        let port = match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => number,
            _ => return Err(refused("the port is not a number from 1 to 65535")),
        };
        let bare = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if v6.contains(':') => v6,
            Some(_) => return Err(refused("only an IPv6 address stands in brackets")),
            None if host.contains(':') => return Err(refused("an IPv6 address stands in brackets")),
            None => host,
        };
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| refused("the host is neither a name nor an IP address"))?;
        let uri = format!("http://{host}:{port}")
            .parse()
            .map_err(|_| refused("the host cannot stand in a URI"))?;
        Ok(Self { name, port, uri })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            ServerName::IpAddress(rustls_pki_types::IpAddr::V6(_)) => {
                write!(f, "[{}]:{}", self.host(), self.port)
            }
            _ => write!(f, "{}:{}", self.host(), self.port),
        }
    }
}

impl TryFrom<String> for ServerAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<ServerAddress> for String {
    fn from(address: ServerAddress) -> Self {
        address.to_string()
    }
}

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server cannot be reached.
    #[error("cannot connect to server `{address}`")]
    Unreachable {
        /// The server.
        address: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The server is not who it must be: see [`super::PeerRefused`].
    #[error("server `{address}` is refused")]
    PeerRefused {
        /// The server.
        address: String,
        /// What is wrong with its SVID.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The handshake failed for another reason, such as a server without an SVID.
    #[error("no TLS with server `{address}`")]
    Handshake {
        /// The server.
        address: String,
        /// What the TLS library says.
        #[source]
        source: io::Error,
    },
    /// The server took too long.
    #[error("server `{address}` did not answer within {limit_ms} ms")]
    TimedOut {
        /// The server.
        address: String,
        /// The limit in milliseconds.
        limit_ms: u128,
    },
}

/// How long a channel waits for its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelTimes {
    /// For a connection with its TLS handshake.
    pub connect: Duration,
    /// Between two pings while calls are open; servers in Go count pings that come oftener than every five minutes
    /// without data between them as abuse, so there are none while no call is open.
    pub ping_every: Duration,
    /// For the answer to a ping; without it the connection is given up.
    pub ping_timeout: Duration,
}

impl Default for ChannelTimes {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            ping_every: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
        }
    }
}

/// Makes one TLS connection; the host's name goes out as SNI and has no part in verifying.
///
/// The server may still refuse our SVID: TLS 1.3 tells at the first read.
///
/// # Errors
/// [`ConnectError`] when the server cannot be reached, is not who it must be, or takes longer than `limit`.
pub async fn connect(
    address: &ServerAddress,
    config: Arc<ClientConfig>,
    limit: Duration,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let connected = tokio::time::timeout(limit, connect_slowly(address, config)).await;
    connected.unwrap_or_else(|_elapsed| {
        Err(ConnectError::TimedOut {
            address: address.to_string(),
            limit_ms: limit.as_millis(),
        })
    })
}

async fn connect_slowly(
    address: &ServerAddress,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        address: address.to_string(),
        source,
    };
    let tcp = TcpStream::connect((address.host().as_str(), address.port))
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    TlsConnector::from(config)
        .connect(address.name.clone(), tcp)
        .await
        .map_err(|error| handshake_error(address, error))
}

/// Brings out what our verifier said from under the TLS library's error.
fn handshake_error(address: &ServerAddress, error: io::Error) -> ConnectError {
    let address = address.to_string();
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(refused))) => {
            ConnectError::PeerRefused {
                address,
                source: refused.0.clone(),
            }
        }
        _ => ConnectError::Handshake {
            address,
            source: error,
        },
    }
}

/// A gRPC channel that connects when it is first used and again when the connection is lost.
///
/// Each new connection shows the SVID and trusts the bundles of its time. Must be called inside a tokio runtime.
pub fn channel(address: &ServerAddress, config: Arc<ClientConfig>, times: ChannelTimes) -> Channel {
    let target = address.clone();
    let connector = tower::service_fn(move |_uri: Uri| {
        let (target, config) = (target.clone(), config.clone());
        async move { connect(&target, config, times.connect).await.map(TokioIo::new) }
    });
    Endpoint::from(address.uri.clone())
        .http2_keep_alive_interval(times.ping_every)
        .keep_alive_timeout(times.ping_timeout)
        .keep_alive_while_idle(false)
        .connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests;
