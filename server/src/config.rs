//! The server's configuration: every key, its default and its limits.
//!
//! The file is TOML; unknown keys are refused by the loader, and what the keys mean together by [`Config::check`].

mod limits;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use vouchsafe_identity::{SpiffeId, TrustDomain};
use vouchsafe_runtime::Span;
use vouchsafe_runtime::metrics::{MetricsConfig, MetricsError};
use vouchsafe_runtime::telemetry::traces::{TracesConfig, TracesError};
use vouchsafe_runtime::telemetry::{LogConfig, TelemetryError};

pub use limits::{AuditConfig, Limits};

const fn hours(n: u64) -> Span {
    Span::new(Duration::from_secs(n * 3600))
}

/// Shortest life of a certificate authority: below it, its slots would turn faster than the rotation looks at them.
pub const MIN_CA_TTL: Duration = Duration::from_secs(60);
/// Longest life of a certificate authority: a hundred years. The dates of certificates end with the year 9999.
pub const MIN_KEEP_ENDED_RUNS: Duration = Duration::from_secs(60);
const MAX_KEEP_ENDED_RUNS: Duration = Duration::from_secs(3650 * 24 * 3600);
const MAX_CA_TTL: Duration = Duration::from_secs(36_525 * 24 * 3600);
/// Longest `jwt_issuer`.
pub const MAX_ISSUER_BYTES: usize = 2048;
/// Shortest life of an SVID that can be configured.
pub const MIN_SVID_TTL: Duration = Duration::from_secs(1);

/// Where private keys of authorities live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyManagerKind {
    /// Files under `data_dir/keys`, mode 0600.
    #[default]
    Disk,
    /// In memory: each start makes new authorities.
    Memory,
}

/// Where entities are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Embedded, under `data_dir/store`.
    #[default]
    Sled,
    /// In memory: everything is gone when the server ends.
    Memory,
}

/// What becomes of entries that rest on asserted selectors alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssertedEntries {
    /// They are taken.
    Allow,
    /// They are taken, with a warning in the log and a fact in the audit.
    #[default]
    Warn,
    /// They are refused.
    Refuse,
}

/// The whole configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The trust domain that this server serves.
    pub trust_domain: TrustDomain,
    /// Folder of the store and the keys; made with mode 0700 if it is not there.
    pub data_dir: PathBuf,
    /// Address of the TLS listener; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Path of the admin socket; whoever may open it is an operator.
    pub admin_socket: PathBuf,
    /// Group that may open the admin socket too (mode 0660 instead of 0600).
    #[serde(default)]
    pub admin_socket_group: Option<String>,
    /// Life of a certificate authority and of a JWT key.
    #[serde(default = "default_ca_ttl")]
    pub ca_ttl: Span,
    /// Life of X.509-SVIDs whose entry names none.
    #[serde(default = "default_x509_svid_ttl")]
    pub default_x509_svid_ttl: Span,
    /// Life of JWT-SVIDs whose entry names none.
    #[serde(default = "default_jwt_svid_ttl")]
    pub default_jwt_svid_ttl: Span,
    /// Life of the SVIDs of agents; `default_x509_svid_ttl` if it is not given.
    #[serde(default)]
    pub agent_ttl: Option<Span>,
    /// The `iss` claim of JWT-SVIDs; none if it is not given.
    #[serde(default)]
    pub jwt_issuer: Option<String>,
    /// Where the keys of authorities live.
    #[serde(default)]
    pub key_manager: KeyManagerKind,
    /// Where entities are kept.
    #[serde(default)]
    pub store: StoreKind,
    /// SPIFFE IDs of this trust domain that may call admin methods, besides those of admin entries.
    #[serde(default)]
    pub admin_ids: Vec<SpiffeId>,
    /// What becomes of entries that rest on asserted selectors alone.
    #[serde(default)]
    pub asserted_entries: AssertedEntries,
    /// How long runs that have ended can be looked at.
    #[serde(default = "default_keep_ended_runs")]
    pub keep_ended_runs: Span,
    /// The log on stderr.
    #[serde(default)]
    pub log: LogConfig,
    /// Metrics for Prometheus.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// Traces by OpenTelemetry.
    #[serde(default)]
    pub traces: TracesConfig,
    /// How much callers may ask for.
    #[serde(default)]
    pub limits: Limits,
    /// The audit log.
    #[serde(default)]
    pub audit: AuditConfig,
}

fn default_ca_ttl() -> Span {
    hours(24)
}

fn default_keep_ended_runs() -> Span {
    hours(7 * 24)
}

fn default_x509_svid_ttl() -> Span {
    hours(1)
}

fn default_jwt_svid_ttl() -> Span {
    Span::new(Duration::from_secs(300))
}

/// Why keys do not go together, or a value is out of its range.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadConfig {
    /// A duration is too short.
    #[error("`{key}` of {value} is below the least of {least}")]
    TooShort {
        /// The key.
        key: &'static str,
        /// Its value.
        value: Span,
        /// The least value.
        least: Span,
    },
    /// The authority would outlive every date.
    #[error("`ca_ttl` of {0} is above the most of a hundred years")]
    CaTooLong(Span),
    /// Runs would be kept past every date.
    #[error("`keep_ended_runs` of {0} is above the most of ten years")]
    KeptTooLong(Span),
    /// An SVID would outlive what signs it.
    #[error(
        "`{key}` of {value} is longer than `ca_ttl` of {ca_ttl}: no SVID outlives the authority that signs it"
    )]
    OutlivesCa {
        /// The key.
        key: &'static str,
        /// Its value.
        value: Span,
        /// The authority's life.
        ca_ttl: Span,
    },
    /// An admin id of another trust domain.
    #[error("`admin_ids` holds `{0}`, which is not in `trust_domain`, or has no path")]
    ForeignAdmin(SpiffeId),
    /// A limit of zero would shut everybody out.
    #[error("`limits.{0}` must not be 0")]
    ZeroLimit(&'static str),
    /// The log's level is none.
    #[error("`log.level` is wrong")]
    Log(#[from] TelemetryError),
    /// The issuer is no StringOrURI (RFC 7519 §2).
    #[error(
        "`jwt_issuer` `{0}` is not a URI, nor a text of at most {MAX_ISSUER_BYTES} printable characters without `:`"
    )]
    Issuer(String),
    /// Metrics would be served to other hosts.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Traces cannot be sent.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// The issuer is empty.
    #[error("`jwt_issuer` is empty: give it a value, or leave the key out")]
    EmptyIssuer,
}

impl Config {
    /// Checks what the loader cannot see: ranges, and keys that belong together.
    ///
    /// # Errors
    /// [`BadConfig`] names the first key that is wrong.
    pub fn check(&self) -> Result<(), BadConfig> {
        at_least("ca_ttl", self.ca_ttl, MIN_CA_TTL)?;
        if self.ca_ttl.get() > MAX_CA_TTL {
            return Err(BadConfig::CaTooLong(self.ca_ttl));
        }
        let ttls = [
            ("default_x509_svid_ttl", Some(self.default_x509_svid_ttl)),
            ("default_jwt_svid_ttl", Some(self.default_jwt_svid_ttl)),
            ("agent_ttl", self.agent_ttl),
        ];
        for (key, value) in ttls {
            let Some(value) = value else { continue };
            at_least(key, value, MIN_SVID_TTL)?;
            if value > self.ca_ttl {
                return Err(BadConfig::OutlivesCa {
                    key,
                    value,
                    ca_ttl: self.ca_ttl,
                });
            }
        }
        at_least("keep_ended_runs", self.keep_ended_runs, MIN_KEEP_ENDED_RUNS)?;
        if self.keep_ended_runs.get() > MAX_KEEP_ENDED_RUNS {
            return Err(BadConfig::KeptTooLong(self.keep_ended_runs));
        }
        if let Some(id) = self.admin_ids.iter().find(|id| !self.is_own_workload(id)) {
            return Err(BadConfig::ForeignAdmin(id.clone()));
        }
        if self.jwt_issuer.as_ref().is_some_and(String::is_empty) {
            return Err(BadConfig::EmptyIssuer);
        }
        if let Some(issuer) = self
            .jwt_issuer
            .as_ref()
            .filter(|issuer| !is_string_or_uri(issuer))
        {
            return Err(BadConfig::Issuer(issuer.clone()));
        }
        self.log.check()?;
        self.metrics.check()?;
        self.traces.check()?;
        self.limits.check()
    }

    /// The life of agents' SVIDs.
    pub fn agent_svid_ttl(&self) -> Duration {
        self.agent_ttl.unwrap_or(self.default_x509_svid_ttl).get()
    }

    fn is_own_workload(&self, id: &SpiffeId) -> bool {
        id.is_member_of(&self.trust_domain) && !id.path().is_empty()
    }
}

/// Text without a colon, or one that looks like a URI: RFC 7519 §2, RFC 3986 §2 and §3.1.
fn is_string_or_uri(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c);
    let scheme = |name: &str| {
        let rest = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
    };
    let one = match text.split_once(':') {
        Some((name, rest)) => scheme(name) && !rest.is_empty(),
        None => true,
    };
    one && text.len() <= MAX_ISSUER_BYTES && text.chars().all(legal)
}

fn at_least(key: &'static str, value: Span, least: Duration) -> Result<(), BadConfig> {
    if value.get() < least {
        return Err(BadConfig::TooShort {
            key,
            value,
            least: least.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
