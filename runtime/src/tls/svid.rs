//! The SVID that this process shows; it is replaced while the process runs, and the next handshake shows the new one.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use vouchsafe_identity::{KeyAlgorithm, Signer};

use super::TlsError;

/// Holds the SVID of this process, or none yet. Cheap to clone: all clones hold the same.
#[derive(Clone, Default)]
pub struct SvidHandle(Arc<ArcSwapOption<CertifiedKey>>);

impl SvidHandle {
    /// Holds no SVID yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Shows this chain (leaf first, DER) from now on, with its key as PKCS#8 DER.
    ///
    /// # Errors
    /// [`TlsError`] when the key cannot be read or is not that of the leaf; what was shown before stays.
    pub fn set(&self, chain: &[Vec<u8>], pkcs8: &[u8]) -> Result<(), TlsError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8));
        let key = any_supported_type(&der).map_err(|e| TlsError::Key(e.to_string()))?;
        self.show(chain, key)
    }

    /// Shows this chain (leaf first, DER) from now on, with a key that stays with its keeper.
    ///
    /// # Errors
    /// [`TlsError`] when TLS cannot use keys of that algorithm, or the key is not that of the leaf; what was shown
    /// before stays.
    pub fn set_signer(&self, chain: &[Vec<u8>], signer: Arc<dyn Signer>) -> Result<(), TlsError> {
        self.show(chain, Arc::new(KeptKey::new(signer)?))
    }

    /// Shows nothing from now on: a server refuses handshakes, a client comes without an SVID.
    pub fn clear(&self) {
        self.0.store(None);
    }

    /// Whether there is an SVID to show.
    pub fn is_set(&self) -> bool {
        self.0.load().is_some()
    }

    fn show(&self, chain: &[Vec<u8>], key: Arc<dyn SigningKey>) -> Result<(), TlsError> {
        let chain = chain.iter().cloned().map(CertificateDer::from).collect();
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(TlsError::Mismatch)?;
        self.0.store(Some(Arc::new(certified)));
        Ok(())
    }
}

impl fmt::Debug for SvidHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() {
            "SvidHandle(set)"
        } else {
            "SvidHandle(empty)"
        })
    }
}

impl ResolvesServerCert for SvidHandle {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ResolvesClientCert for SvidHandle {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.is_set()
    }
}

/// A key that signs through its keeper.
#[derive(Debug, Clone)]
struct KeptKey {
    signer: Arc<dyn Signer>,
    scheme: SignatureScheme,
    algorithm: SignatureAlgorithm,
}

impl KeptKey {
    fn new(signer: Arc<dyn Signer>) -> Result<Self, TlsError> {
        let (scheme, algorithm) = match signer.algorithm() {
            KeyAlgorithm::EcP256 => (SignatureScheme::ECDSA_NISTP256_SHA256, SignatureAlgorithm::ECDSA),
            other => {
                return Err(TlsError::Key(format!(
                    "TLS cannot use keys of algorithm `{other}`"
                )));
            }
        };
        Ok(Self {
            signer,
            scheme,
            algorithm,
        })
    }
}

impl SigningKey for KeptKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&self.scheme)
            .then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.signer.public_key_spki()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.algorithm
    }
}

impl rustls::sign::Signer for KeptKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.signer
            .sign(message)
            .map_err(|e| rustls::Error::Other(rustls::OtherError(Arc::new(e))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}
