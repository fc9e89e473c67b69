//! The agent's configuration: every key, its default and its limits.
//!
//! The file is TOML; unknown keys are refused by the loader, and what the keys mean together by [`Config::check`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use vouchsafe_identity::TrustDomain;
use vouchsafe_node_attestors::join_token::{Token, TokenError};
use vouchsafe_runtime::metrics::{MetricsConfig, MetricsError};
use vouchsafe_runtime::telemetry::traces::{TracesConfig, TracesError};
use vouchsafe_runtime::telemetry::{LogConfig, TelemetryError};
use vouchsafe_runtime::tls::ServerAddress;
use vouchsafe_runtime::uds::ConnectionLimits;
use vouchsafe_runtime::{ByteSize, Span};

use crate::sealed::SealKeySource;

/// Shortest time between two questions for entries: below it, agents would be a load on the server.
pub const MIN_SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time between two questions: above it, a removed entry would be served for too long.
pub const MAX_SYNC_INTERVAL: Duration = Duration::from_secs(3600);

/// Shortest time that a caller may have to answer: below it, a busy machine would shut callers out.
pub const MIN_PRESENCE_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest time: callers that do not answer would hold their calls for too long.
pub const MAX_PRESENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for which a call may be held.
pub const MAX_HOLD_UNMATCHED: Duration = Duration::from_secs(600);

/// The whole configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this agent belongs to.
    pub trust_domain: TrustDomain,
    /// Folder of the agent's own SVID and keys; made with mode 0700 if it is not there.
    pub data_dir: PathBuf,
    /// The server, as `host:port`.
    pub server_address: ServerAddress,
    /// Path of the socket of the Workload API, which every user of the host may open.
    pub workload_socket: PathBuf,
    /// Path of the admin socket, mode 0600; `admin.sock` in `data_dir` if it is not given.
    #[serde(default)]
    pub admin_socket: Option<PathBuf>,
    /// File with the trust domain's bundle, as PEM or as a SPIFFE JWK set: by it the agent knows the server when it joins.
    #[serde(default)]
    pub trust_bundle: Option<PathBuf>,
    /// Joins whatever server answers. Insecure: who stands between gets to be the server.
    #[serde(default)]
    pub insecure_bootstrap: bool,
    /// The token to join with. One on the command line counts more.
    #[serde(default)]
    pub join_token: Option<JoinToken>,
    /// File that holds the token to join with.
    #[serde(default)]
    pub join_token_file: Option<PathBuf>,
    /// How often entries and bundles are asked for, of a server that does not push changes.
    #[serde(default = "default_sync_interval")]
    pub sync_interval: Span,
    /// How long a call that matches no entry is held for one that does.
    #[serde(default = "default_hold_unmatched")]
    pub hold_unmatched: Span,
    /// Where the key is that the agent's state on disk is sealed with: `file` (in `data_dir`), `credential:NAME` (handed
    /// over by systemd), or `none`: nothing is sealed.
    #[serde(default)]
    pub seal_key: SealKeySource,
    /// What is kept in memory.
    #[serde(default)]
    pub cache: CacheConfig,
    /// What is measured and demanded of processes.
    #[serde(default)]
    pub attest: AttestConfig,
    /// How runs are launched.
    #[serde(default)]
    pub launch: LaunchConfig,
    /// How much callers may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// Metrics for Prometheus.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Traces by OpenTelemetry.
    #[serde(default)]
    pub traces: TracesConfig,
    /// The log on stderr.
    #[serde(default)]
    pub log: LogConfig,
}

fn default_sync_interval() -> Span {
    Span::new(Duration::from_secs(5))
}

fn default_hold_unmatched() -> Span {
    Span::new(Duration::ZERO)
}

/// A join token in a configuration file.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct JoinToken(pub Token);

impl TryFrom<String> for JoinToken {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        Token::new(&text).map(Self)
    }
}

/// What is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// X.509-SVIDs that are held, besides those that open streams need. As long as there is room, SVIDs are had before
    /// anyone asks.
    pub x509_svids: usize,
    /// JWT-SVIDs that are held.
    pub jwt_svids: usize,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            x509_svids: 1000,
            jwt_svids: 1000,
        }
    }
}

/// What is measured and demanded of processes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttestConfig {
    /// Largest executable or script that is hashed; of a larger one the hash alone is withheld.
    pub hash_limit: ByteSize,
    /// How long a caller has to answer the PING by which it proves that it still speaks on its connection.
    pub presence_timeout: Span,
    /// Users whose processes need not answer. Insecure: whoever shares a connection with one of their programs can have
    /// its identity.
    pub presence_exempt_uids: BTreeSet<u32>,
}

impl Default for AttestConfig {
    fn default() -> Self {
        Self {
            hash_limit: ByteSize::bytes(vouchsafe_workload_attestors::DEFAULT_HASH_LIMIT_BYTES),
            presence_timeout: Span::new(Duration::from_secs(2)),
            presence_exempt_uids: BTreeSet::new(),
        }
    }
}

/// How runs are launched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LaunchConfig {
    /// Path of the launch socket, which every user of the host may open; without it nothing is launched here.
    pub socket: Option<PathBuf>,
    /// Folder of the execute-only copies of programs. Everybody must be able to pass through it and its parents, and root
    /// alone to write there; made with mode 0711 if it is not there.
    pub programs_dir: PathBuf,
    /// The program `vouchsafe-supervisor`; beside the agent's own if it is not given.
    pub supervisor: Option<PathBuf>,
    /// Folder of control groups (cgroup v2) in which each run gets one; beneath the agent's own group if it is not given.
    pub cgroup: Option<PathBuf>,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        Self {
            socket: None,
            programs_dir: PathBuf::from("/var/lib/vouchsafe-programs"),
            supervisor: None,
            cgroup: None,
        }
    }
}

/// How much callers may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections of a socket.
    pub max_connections: usize,
    /// Open connections of each user.
    pub max_connections_per_uid: usize,
    /// Calls at once on one connection.
    pub max_streams_per_connection: u32,
    /// Calls at once of each user, on all its connections.
    pub max_streams_per_uid: usize,
    /// Measurements of processes of each user that are under way at once; more of them wait.
    pub max_attestations_per_uid: usize,
    /// Calls of each user that are held because they match no entry yet.
    pub max_held_calls_per_uid: usize,
    /// Size of a request; JWT-SVIDs to validate are the largest.
    pub max_request: ByteSize,
}

impl Default for Limits {
    fn default() -> Self {
        let connections = ConnectionLimits::default();
        Self {
            max_connections: connections.max_connections,
            max_connections_per_uid: connections.max_connections_per_uid,
            max_streams_per_connection: 100,
            max_streams_per_uid: 2048,
            max_attestations_per_uid: vouchsafe_workload_attestors::DEFAULT_READS_PER_UID,
            max_held_calls_per_uid: 100,
            max_request: ByteSize::bytes(64 * 1024),
        }
    }
}

impl Limits {
    /// Those of connections.
    pub fn connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            max_connections: self.max_connections,
            max_connections_per_uid: self.max_connections_per_uid,
        }
    }
}

/// Why keys do not go together, or a value is out of its range.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadConfig {
    /// Nothing says how to know the server.
    #[error(
        "neither `trust_bundle` nor `insecure_bootstrap` is set, so the server could not be known: write the bundle \
         to a file with `vouchsafe bundle show --format pem` on the server and name it as `trust_bundle`"
    )]
    NoTrust,
    /// Both ways to know the server.
    #[error("`trust_bundle` and `insecure_bootstrap` are both set: remove one of them")]
    TwoTrusts,
    /// Two tokens.
    #[error("`join_token` and `join_token_file` are both set: remove one of them")]
    TwoTokens,
    /// The interval is out of its range.
    #[error("`sync_interval` of {value} is not between {least} and {most}")]
    SyncInterval {
        /// The value.
        value: Span,
        /// The least.
        least: Span,
        /// The most.
        most: Span,
    },
    /// The time to answer is out of its range.
    #[error("`attest.presence_timeout` of {value} is not between {least} and {most}")]
    PresenceTimeout {
        /// The value.
        value: Span,
        /// The least.
        least: Span,
        /// The most.
        most: Span,
    },
    /// Calls would be held for too long.
    #[error("`hold_unmatched` of {value} is more than {most}")]
    HoldUnmatched {
        /// The value.
        value: Span,
        /// The most.
        most: Span,
    },
    /// A limit of zero would let nobody in.
    #[error("`{0}` is 0: nothing could be served")]
    Zero(&'static str),
    /// The log's level is none.
    #[error("`log.level` is wrong")]
    Log(#[from] TelemetryError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// Metrics would be served to other hosts.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Two sockets at the same path.
    #[error("`{0}` and `{1}` are both `{2}`: give each socket a path of its own")]
    SameSocket(&'static str, &'static str, String),
}

impl Config {
    /// Checks what the loader cannot: ranges, and keys that exclude or need each other.
    ///
    /// # Errors
    /// [`BadConfig`], which names the key.
    pub fn check(&self) -> Result<(), BadConfig> {
        match (&self.trust_bundle, self.insecure_bootstrap) {
            (None, false) => return Err(BadConfig::NoTrust),
            (Some(_), true) => return Err(BadConfig::TwoTrusts),
            _ => {}
        }
        if self.join_token.is_some() && self.join_token_file.is_some() {
            return Err(BadConfig::TwoTokens);
        }
        let interval = self.sync_interval.get();
        if !(MIN_SYNC_INTERVAL..=MAX_SYNC_INTERVAL).contains(&interval) {
            return Err(BadConfig::SyncInterval {
                value: self.sync_interval,
                least: Span::new(MIN_SYNC_INTERVAL),
                most: Span::new(MAX_SYNC_INTERVAL),
            });
        }
        let timeout = self.attest.presence_timeout;
        if !(MIN_PRESENCE_TIMEOUT..=MAX_PRESENCE_TIMEOUT).contains(&timeout.get()) {
            return Err(BadConfig::PresenceTimeout {
                value: timeout,
                least: Span::new(MIN_PRESENCE_TIMEOUT),
                most: Span::new(MAX_PRESENCE_TIMEOUT),
            });
        }
        if self.hold_unmatched.get() > MAX_HOLD_UNMATCHED {
            return Err(BadConfig::HoldUnmatched {
                value: self.hold_unmatched,
                most: Span::new(MAX_HOLD_UNMATCHED),
            });
        }
        for (key, zero) in [
            ("cache.x509_svids", self.cache.x509_svids == 0),
            ("cache.jwt_svids", self.cache.jwt_svids == 0),
            ("limits.max_connections", self.limits.max_connections == 0),
            (
                "limits.max_connections_per_uid",
                self.limits.max_connections_per_uid == 0,
            ),
            (
                "limits.max_streams_per_connection",
                self.limits.max_streams_per_connection == 0,
            ),
            ("limits.max_streams_per_uid", self.limits.max_streams_per_uid == 0),
            (
                "limits.max_attestations_per_uid",
                self.limits.max_attestations_per_uid == 0,
            ),
            (
                "limits.max_held_calls_per_uid",
                self.limits.max_held_calls_per_uid == 0,
            ),
            ("limits.max_request", self.limits.max_request.get() == 0),
        ] {
            if zero {
                return Err(BadConfig::Zero(key));
            }
        }
        self.log.check()?;
        self.metrics.check()?;
        self.traces.check()?;
        let (workload, admin) = (Some(self.workload_socket.clone()), Some(self.admin_socket()));
        let launch = self.launch.socket.clone();
        for ((one, path), (other, other_path)) in [
            (("workload_socket", &workload), ("admin_socket", &admin)),
            (("workload_socket", &workload), ("launch.socket", &launch)),
            (("admin_socket", &admin), ("launch.socket", &launch)),
        ] {
            if let (Some(path), true) = (path, path == other_path) {
                return Err(BadConfig::SameSocket(one, other, path.display().to_string()));
            }
        }
        Ok(())
    }

    /// Where the admin socket stands.
    pub fn admin_socket(&self) -> PathBuf {
        self.admin_socket
            .clone()
            .unwrap_or_else(|| self.data_dir.join("admin.sock"))
    }
}

/// Why a token file gives no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read join token file `{path}`")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Its text is not a token.
    #[error("join token file `{path}` holds no join token")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: TokenError,
    },
}

/// Reads a token from a file; white space around it does not count.
///
/// # Errors
/// [`TokenFileError`], which names the file.
pub fn read_token(path: &Path) -> Result<Token, TokenFileError> {
    let name = || path.display().to_string();
    let text = zeroize::Zeroizing::new(
        std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Unreadable { path: name(), source })?,
    );
    Token::new(text.trim()).map_err(|source| TokenFileError::Malformed { path: name(), source })
}

#[cfg(test)]
mod tests;
