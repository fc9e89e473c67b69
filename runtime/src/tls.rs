//! TLS between servers and agents, made of SVIDs and bundles that change while connections stand.
//!
//! TLS 1.3 only, post-quantum key exchange first, HTTP/2 only, and never a resumed session: resuming skips
//! the verifier, so that a peer whose trust was withdrawn would be let in. A peer is verified as an X509-SVID
//! (X509-SVID §5) by the bundle of its own trust domain and by [`Clock`]; DNS names have no part in it.

pub mod accept;
pub mod bundles;
pub mod connect;
pub mod svid;
mod verify;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::UnixTime;
use vouchsafe_identity::{SpiffeId, TrustDomain};

use crate::Clock;

pub use accept::{
    AcceptLimits, ConnectionMetrics, PeerSvid, TlsConnection, TlsPeer, incoming, incoming_measured,
};
pub use bundles::BundleHandle;
pub use connect::{ChannelTimes, ConnectError, ServerAddress, channel, connect};
pub use svid::SvidHandle;
pub use verify::{PeerRefused, SeenChain};

/// The one application protocol that we speak over TLS (RFC 9113 §3.2).
const ALPN_H2: &[u8] = b"h2";

/// Why a TLS configuration or an SVID in it was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The private key cannot be used.
    #[error("the private key of the SVID cannot be used: {0}")]
    Key(String),
    /// The certificate is not that of the key, or is not one.
    #[error("the SVID's certificate does not go with its private key: {0}")]
    Mismatch(rustls::Error),
    /// The TLS library refused the configuration.
    #[error("cannot set up TLS: {0}")]
    Setup(rustls::Error),
}

/// Whether a client must show an SVID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client may come without; an SVID that it shows must be valid.
    Optional,
    /// A client without an SVID is refused.
    Required,
}

/// Which SPIFFE IDs a peer may have, once its SVID is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRule {
    /// This one.
    Exact(SpiffeId),
    /// Any of the trust domain.
    MemberOf(TrustDomain),
    /// Any of a trust domain whose bundle is known.
    Any,
}

impl PeerRule {
    /// Whether the rule lets the id in.
    pub fn admits(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(expected) => id == expected,
            Self::MemberOf(trust_domain) => id.is_member_of(trust_domain),
            Self::Any => true,
        }
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "`{id}`"),
            Self::MemberOf(trust_domain) => write!(f, "a member of trust domain `{trust_domain}`"),
            Self::Any => f.write_str("any SPIFFE ID"),
        }
    }
}

/// The server's side: shows the SVID that `svid` holds at the time, verifies clients by `bundles` and `rule`.
///
/// # Errors
/// [`TlsError::Setup`] when the TLS library refuses.
pub fn server_config(
    svid: &SvidHandle,
    bundles: &BundleHandle,
    clock: &Clock,
    client: ClientAuth,
    rule: PeerRule,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = verify::PeerVerifier::new(bundles, clock, rule, &provider).for_clients(client);
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(ClockTime(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(svid.clone()));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The client's side: verifies the server by `bundles` and `expect`, and shows the SVID that `svid` holds, if any.
///
/// # Errors
/// [`TlsError::Setup`] when the TLS library refuses.
pub fn client_config(
    svid: Option<&SvidHandle>,
    bundles: &BundleHandle,
    clock: &Clock,
    expect: PeerRule,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = verify::PeerVerifier::new(bundles, clock, expect, &provider).for_servers();
    client_with(verifier, svid, provider, clock)
}

/// The client's side for an insecure bootstrap: **any** server is let in that shows a certificate with a SPIFFE ID
/// that `expect` admits, whoever signed it.
///
/// The first chain that is shown is kept in [`SeenChain`], so that the caller can verify it later by the bundle
/// that it got; a server with another leaf is refused from then on.
///
/// # Errors
/// [`TlsError::Setup`] when the TLS library refuses.
pub fn danger_accept_any_server(expect: PeerRule) -> Result<(Arc<ClientConfig>, SeenChain), TlsError> {
    let provider = provider();
    let (verifier, seen) = verify::danger_any_server(expect, &provider);
    Ok((client_with(verifier, None, provider, &Clock::system())?, seen))
}

fn client_with(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    svid: Option<&SvidHandle>,
    provider: Arc<CryptoProvider>,
    clock: &Clock,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match svid {
        Some(svid) => builder.with_client_cert_resolver(Arc::new(svid.clone())),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Our algorithms, named one by one, so that no feature of a dependency changes them.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

/// Our clock for the TLS library.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            seconds,
        )))
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
