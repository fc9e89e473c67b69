//! Verifies the peer of a TLS connection as an X509-SVID (X509-SVID §5), on either side.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use vouchsafe_identity::x509::svid::{LeafInfo, SvidError, parse_leaf};
use vouchsafe_identity::x509::verify::{VerifyError, verify_svid};
use vouchsafe_identity::{SpiffeId, TrustDomain};

use super::{BundleHandle, ClientAuth, PeerRule};
use crate::Clock;

/// Why the peer of a connection was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRefused {
    /// The certificate is not an X509-SVID.
    #[error("the peer's certificate is not an X509-SVID")]
    NotAnSvid(#[source] SvidError),
    /// The bundle of the peer's trust domain is not known here.
    #[error("the peer `{id}` is of trust domain `{trust_domain}`, which is not trusted here")]
    ForeignTrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Its trust domain.
        trust_domain: TrustDomain,
    },
    /// The SVID does not verify by the bundle of its trust domain.
    #[error("the SVID of peer `{id}` does not verify")]
    Unverified {
        /// Who it says it is.
        id: SpiffeId,
        /// What is wrong.
        #[source]
        source: VerifyError,
    },
    /// The SVID is good, but it is another one's.
    #[error("the peer is `{id}`, not {expected}")]
    NotExpected {
        /// Who it is.
        id: SpiffeId,
        /// Who was expected.
        expected: PeerRule,
    },
    /// A second server answered a bootstrap.
    #[error(
        "the server shows another certificate than at the first connection of this bootstrap: start again"
    )]
    Changed,
}

impl PeerRefused {
    /// For the client's side: our own error, so that who connects reads the reason in our words.
    fn in_full(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }

    /// For the server's side: the reason that TLS has an alert for, so that the client learns what to mend.
    fn by_alert(self) -> rustls::Error {
        let reason = match &self {
            Self::Unverified { source, .. } => match source {
                VerifyError::Expired { .. } => CertificateError::Expired,
                VerifyError::NotYetValid { .. } => CertificateError::NotValidYet,
                VerifyError::Untrusted { .. } | VerifyError::NoAuthority(_) => {
                    CertificateError::UnknownIssuer
                }
                _ => return self.in_full(),
            },
            Self::ForeignTrustDomain { .. } => CertificateError::UnknownIssuer,
            Self::NotExpected { .. } => CertificateError::ApplicationVerificationFailure,
            Self::NotAnSvid(_) | Self::Changed => return self.in_full(),
        };
        rustls::Error::InvalidCertificate(reason)
    }
}

/// Checks a chain by the bundle of the leaf's own trust domain, then by the rule.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    bundles: BundleHandle,
    clock: Clock,
    rule: PeerRule,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    pub(super) fn new(
        bundles: &BundleHandle,
        clock: &Clock,
        rule: PeerRule,
        provider: &CryptoProvider,
    ) -> Self {
        Self {
            bundles: bundles.clone(),
            clock: clock.clone(),
            rule,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    pub(super) fn for_clients(self, auth: ClientAuth) -> Arc<dyn ClientCertVerifier> {
        Arc::new(VerifiesClients { peer: self, auth })
    }

    pub(super) fn for_servers(self) -> Arc<dyn ServerCertVerifier> {
        Arc::new(VerifiesServers(self))
    }

    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<LeafInfo, PeerRefused> {
        let id = parse_leaf(leaf).map_err(PeerRefused::NotAnSvid)?.spiffe_id;
        let trust_domain = id.trust_domain();
        let Some(bundle) = self.bundles.get(&trust_domain) else {
            return Err(PeerRefused::ForeignTrustDomain { id, trust_domain });
        };
        let chain: Vec<&CertificateDer<'_>> = std::iter::once(leaf).chain(rest).collect();
        let verified = verify_svid(&chain, &bundle, self.clock.now())
            .map_err(|source| PeerRefused::Unverified { id, source })?;
        expected(&self.rule, verified)
    }
}

fn expected(rule: &PeerRule, leaf: LeafInfo) -> Result<LeafInfo, PeerRefused> {
    if rule.admits(&leaf.spiffe_id) {
        return Ok(leaf);
    }
    Err(PeerRefused::NotExpected {
        id: leaf.spiffe_id,
        expected: rule.clone(),
    })
}

/// The whole chain, leaf first.
pub(super) fn chain_of(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Vec<Vec<u8>> {
    std::iter::once(leaf)
        .chain(rest)
        .map(|der| der.to_vec())
        .collect()
}

/// TLS 1.2 is never negotiated, so that its signatures are never asked for.
fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}

#[derive(Debug)]
struct VerifiesClients {
    peer: PeerVerifier,
    auth: ClientAuth,
}

impl ClientCertVerifier for VerifiesClients {
    fn client_auth_mandatory(&self) -> bool {
        self.auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.peer.check(leaf, rest) {
            Ok(_verified) => Ok(ClientCertVerified::assertion()),
            Err(refused) => {
                tracing::debug!(error = &refused as &dyn std::error::Error, "client refused");
                Err(refused.by_alert())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.peer.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.peer.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct VerifiesServers(PeerVerifier);

impl ServerCertVerifier for VerifiesServers {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.check(leaf, rest).map_err(PeerRefused::in_full)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.0.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.algorithms.supported_schemes()
    }
}

/// The chain that the server of an insecure bootstrap showed first.
#[derive(Debug, Clone, Default)]
pub struct SeenChain(Arc<OnceLock<Vec<Vec<u8>>>>);

impl SeenChain {
    /// The chain, leaf first, DER; `None` until a server showed one.
    pub fn get(&self) -> Option<&[Vec<u8>]> {
        self.0.get().map(Vec::as_slice)
    }
}

/// Lets any server in that has a SPIFFE ID which the rule admits, and keeps its chain.
pub(super) fn danger_any_server(
    rule: PeerRule,
    provider: &CryptoProvider,
) -> (Arc<dyn ServerCertVerifier>, SeenChain) {
    let seen = SeenChain::default();
    let verifier = AnyServer {
        rule,
        seen: seen.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    (Arc::new(verifier), seen)
}

#[derive(Debug)]
struct AnyServer {
    rule: PeerRule,
    seen: SeenChain,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyServer {
    fn check(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), PeerRefused> {
        let shown = parse_leaf(leaf).map_err(PeerRefused::NotAnSvid)?;
        expected(&self.rule, shown)?;
        let kept = self.seen.0.get_or_init(|| chain_of(leaf, rest));
        match kept.first() {
            Some(first) if first.as_slice() == leaf.as_ref() => Ok(()),
            _ => Err(PeerRefused::Changed),
        }
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(leaf, rest).map_err(PeerRefused::in_full)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
