//! Limits on what callers may ask for. Defaults suit a fleet of some thousand agents; each has its unit in its name or type.

use std::time::Duration;

use serde::Deserialize;
use vouchsafe_runtime::{ByteSize, Span};

use super::BadConfig;

/// How much callers may ask for. The admin socket is bound by sizes only.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// TLS connections at a time.
    pub max_connections: u32,
    /// TLS connections at a time from one address.
    pub max_connections_per_source: u32,
    /// Handshakes at a time.
    pub max_pending_handshakes: u32,
    /// Time for a handshake.
    pub handshake_timeout: Span,
    /// After this a client has to connect anew, so that its certificate is looked at again.
    pub max_connection_age: Span,
    /// Calls at a time on one connection.
    pub max_calls_per_connection: u32,
    /// Calls at a time on the TLS listener.
    pub max_calls: u32,
    /// Agents at a time that follow changes; their streams count as no calls.
    pub max_followers: u32,
    /// Agents at a time that are told their whole set; the others wait for their turn.
    pub max_whole_sets: u32,
    /// Calls at a time of one caller with an SVID.
    pub max_calls_per_caller: u32,
    /// Calls at a time from one address without an SVID.
    pub max_anonymous_calls_per_source: u32,
    /// Largest message of a caller that has shown who it is.
    pub max_request_size: ByteSize,
    /// Largest message of a caller that has not.
    pub max_anonymous_request_size: ByteSize,
    /// Time for all steps of one attestation, and for any other call without an SVID.
    pub attestation_timeout: Span,
    /// Time for all steps of one synchronisation.
    pub sync_timeout: Span,
    /// Attestations a second from one address, after a burst (SPIRE: 1; more, so that a fleet behind one address can join).
    pub attestations_per_second_per_source: u32,
    /// Attestations from one address at once.
    pub attestation_burst_per_source: u32,
    /// Other calls a second from one address without an SVID, after a burst.
    pub anonymous_calls_per_second_per_source: u32,
    /// Such calls at once.
    pub anonymous_call_burst_per_source: u32,
    /// Signatures a second for one caller, after a burst (SPIRE: 500).
    pub signatures_per_second_per_caller: u32,
    /// Signatures for one caller at once, and the most CSRs in one request.
    pub signature_burst_per_caller: u32,
    /// Other calls a second of one caller, after a burst.
    pub calls_per_second_per_caller: u32,
    /// Such calls at once.
    pub call_burst_per_caller: u32,
    /// How long a call over its rate waits for its turn before it is refused.
    pub max_rate_wait: Span,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_source: 1_000,
            max_pending_handshakes: 256,
            handshake_timeout: seconds(5),
            max_connection_age: seconds(180),
            max_calls_per_connection: 128,
            max_calls: 4096,
            max_followers: 10_000,
            max_whole_sets: 64,
            max_calls_per_caller: 256,
            max_anonymous_calls_per_source: 512,
            max_request_size: ByteSize::bytes(4 * 1024 * 1024),
            max_anonymous_request_size: ByteSize::bytes(256 * 1024),
            attestation_timeout: seconds(30),
            sync_timeout: seconds(60),
            attestations_per_second_per_source: 10,
            attestation_burst_per_source: 500,
            anonymous_calls_per_second_per_source: 50,
            anonymous_call_burst_per_source: 500,
            signatures_per_second_per_caller: 500,
            signature_burst_per_caller: 1_000,
            calls_per_second_per_caller: 200,
            call_burst_per_caller: 1_000,
            max_rate_wait: seconds(5),
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        let counts = [
            ("max_connections", self.max_connections),
            ("max_connections_per_source", self.max_connections_per_source),
            ("max_pending_handshakes", self.max_pending_handshakes),
            ("max_calls_per_connection", self.max_calls_per_connection),
            ("max_calls", self.max_calls),
            ("max_followers", self.max_followers),
            ("max_whole_sets", self.max_whole_sets),
            ("max_calls_per_caller", self.max_calls_per_caller),
            (
                "max_anonymous_calls_per_source",
                self.max_anonymous_calls_per_source,
            ),
            (
                "attestations_per_second_per_source",
                self.attestations_per_second_per_source,
            ),
            ("attestation_burst_per_source", self.attestation_burst_per_source),
            (
                "anonymous_calls_per_second_per_source",
                self.anonymous_calls_per_second_per_source,
            ),
            (
                "anonymous_call_burst_per_source",
                self.anonymous_call_burst_per_source,
            ),
            (
                "signatures_per_second_per_caller",
                self.signatures_per_second_per_caller,
            ),
            ("signature_burst_per_caller", self.signature_burst_per_caller),
            ("calls_per_second_per_caller", self.calls_per_second_per_caller),
            ("call_burst_per_caller", self.call_burst_per_caller),
        ];
        let spans = [
            ("handshake_timeout", self.handshake_timeout),
            ("max_connection_age", self.max_connection_age),
            ("attestation_timeout", self.attestation_timeout),
            ("sync_timeout", self.sync_timeout),
        ];
        let sizes = [
            ("max_request_size", self.max_request_size),
            ("max_anonymous_request_size", self.max_anonymous_request_size),
        ];
        let zero = counts.iter().find(|(_, value)| *value == 0).map(|(key, _)| *key);
        let zero = zero.or_else(|| {
            spans
                .iter()
                .find(|(_, span)| span.get().is_zero())
                .map(|(key, _)| *key)
        });
        let zero = zero.or_else(|| {
            sizes
                .iter()
                .find(|(_, size)| size.get() == 0)
                .map(|(key, _)| *key)
        });
        zero.map_or(Ok(()), |key| Err(BadConfig::ZeroLimit(key)))
    }
}

/// The audit log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Records that may wait for the disk; a call that finds no room is refused.
    pub max_waiting_records: u32,
    /// Addresses without an SVID that are told apart within a minute; what comes from more is gathered as one.
    pub max_anonymous_sources_per_minute: u32,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            max_waiting_records: 16_384,
            max_anonymous_sources_per_minute: 100,
        }
    }
}

const fn seconds(n: u64) -> Span {
    Span::new(Duration::from_secs(n))
}
