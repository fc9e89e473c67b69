//! Where traces go, and how many.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::transport::Endpoint;

/// Longest time to connect to the collector.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const UNIX: &str = "unix://";

/// Where traces are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// A collector that takes OTLP over gRPC, as `http://HOST:PORT` or `unix:///PATH`; none, and nothing is traced.
    pub endpoint: Option<String>,
    /// Which share of the calls is traced whose callers have not decided it, from 0 to 1.
    pub sample_ratio: f64,
    /// Whether the collector may be on another host.
    pub allow_remote: bool,
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            sample_ratio: 1.0,
            allow_remote: false,
        }
    }
}

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracesError {
    /// The endpoint is none.
    #[error("`traces.endpoint` `{0}` is neither `http://HOST:PORT` nor `unix:///PATH`")]
    Endpoint(String),
    /// Others could read the traces on their way.
    #[error(
        "`traces.endpoint` `{0}` is not on this host, and traces are sent unencrypted: name a collector on a loopback \
         address, which may encrypt what it sends on, or set `traces.allow_remote`"
    )]
    Remote(String),
    /// The share is none.
    #[error("`traces.sample_ratio` of {0} is not between 0 and 1")]
    Ratio(f64),
}

impl TracesConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// [`TracesError`] names the key that is wrong.
    pub fn check(&self) -> Result<(), TracesError> {
        self.target().map(drop)
    }

    /// The endpoint, if there is one.
    pub(super) fn target(&self) -> Result<Option<Endpoint>, TracesError> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(TracesError::Ratio(self.sample_ratio));
        }
        let Some(text) = &self.endpoint else {
            return Ok(None);
        };
        let wrong = || TracesError::Endpoint(text.clone());
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') => {}
            Some(_) => return Err(wrong()),
            None => {
                let host = host(text).ok_or_else(wrong)?;
                if !self.allow_remote && !is_here(&host) {
                    return Err(TracesError::Remote(text.clone()));
                }
            }
        }
        let endpoint = Endpoint::from_shared(text.clone()).map_err(|_| wrong())?;
        Ok(Some(endpoint.connect_timeout(CONNECT_TIMEOUT)))
    }
}

/// The host of `http://HOST:PORT`.
fn host(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let plain = uri.scheme_str() == Some("http") && uri.query().is_none() && uri.path() == "/";
    let authority = uri.authority()?;
    let bare = !authority.as_str().contains('@') && authority.port_u16().is_some_and(|port| port != 0);
    (plain && bare).then(|| authority.host().to_owned())
}

fn is_here(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}
