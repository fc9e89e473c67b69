//! Lets the certificate builder sign through a [`Signer`], which may be far away.

use std::cell::OnceCell;

use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};

use crate::public_key::key_bits;
use crate::{KeyAlgorithm, SignError, Signer};

/// One use of a signer; keeps the reason when it fails, which the builder's error cannot carry.
pub(super) struct RemoteKey<'a> {
    signer: &'a dyn Signer,
    bits: Vec<u8>,
    failure: OnceCell<SignError>,
}

impl<'a> RemoteKey<'a> {
    pub(super) fn new(signer: &'a dyn Signer) -> Self {
        Self {
            signer,
            bits: key_bits(signer.public_key_spki()).unwrap_or_default(),
            failure: OnceCell::new(),
        }
    }

    /// Why the signer failed, if it did.
    pub(super) fn into_failure(self) -> Option<SignError> {
        self.failure.into_inner()
    }
}

impl PublicKeyData for RemoteKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.signer.algorithm() {
            KeyAlgorithm::EcP256 => &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for RemoteKey<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.signer.sign(message).map_err(|error| {
            // One key signs once, so the cell is empty; a second failure would say the same.
            let _ = self.failure.set(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
