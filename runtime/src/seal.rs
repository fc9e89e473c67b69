//! One way to seal bytes: AES-256-GCM-SIV with a random nonce, under a key that is derived for each purpose.
//!
//! GCM-SIV, because a nonce that came twice (a cloned machine's random numbers) would only show that two texts are
//! equal; with plain GCM it would give the key of the authentication away. What is sealed cannot be opened for another
//! purpose, another agent, another file or another place in it: all of them are bound to it.

pub mod file;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use vouchsafe_identity::secret::Secret;
use zeroize::Zeroizing;

/// Length of what is derived, in bytes.
const KEY_BYTES: usize = 32;
/// Least length of what keys are derived from, in bytes.
pub const MIN_SECRET_BYTES: usize = 32;
/// Domain of every derivation.
const SALT: &[u8] = b"vouchsafe-agent sealed state v1";
/// What sealing adds to a text, in bytes: the nonce before it, the tag after it.
pub const OVERHEAD_BYTES: usize = NONCE_LEN + 16;

/// For what something is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What the agent knows and holds.
    State,
    /// Which file of that is the current one, and how far it goes.
    Head,
    /// The key of the agent's own SVID.
    OwnKey,
    /// A backup of the server.
    Backup,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::State => b"state",
            Self::Head => b"head",
            Self::OwnKey => b"own key",
            Self::Backup => b"backup",
        }
    }
}

/// The sealing key did not open this, or could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged, or was sealed with another key or for another agent")]
pub struct NotOpened;

/// Keys for all purposes, from one secret.
#[derive(Debug)]
pub struct SealKeys {
    state: RandomizedNonceKey,
    head: RandomizedNonceKey,
    own_key: RandomizedNonceKey,
    backup: RandomizedNonceKey,
}

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

impl SealKeys {
    /// Derives the keys.
    ///
    /// # Errors
    /// [`NotOpened`] when the secret is too short to be one.
    pub fn derive(secret: &Secret<Vec<u8>>) -> Result<Self, NotOpened> {
        let secret = secret.expose();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(NotOpened);
        }
        let root = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let key = |purpose: Purpose| {
            let mut bytes = Zeroizing::new([0_u8; KEY_BYTES]);
            root.expand(&[purpose.label()], Length)
                .and_then(|derived| derived.fill(bytes.as_mut()))
                .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes.as_ref()))
                .map_err(|_unspecified| NotOpened)
        };
        Ok(Self {
            state: key(Purpose::State)?,
            head: key(Purpose::Head)?,
            own_key: key(Purpose::OwnKey)?,
            backup: key(Purpose::Backup)?,
        })
    }

    fn key(&self, purpose: Purpose) -> &RandomizedNonceKey {
        match purpose {
            Purpose::State => &self.state,
            Purpose::Head => &self.head,
            Purpose::OwnKey => &self.own_key,
            Purpose::Backup => &self.backup,
        }
    }

    /// Seals a text, which is bound to `binding`; gives nonce, text and tag one after the other.
    ///
    /// # Errors
    /// [`NotOpened`] when the library refuses, as it does without random numbers.
    pub fn seal(&self, purpose: Purpose, binding: &[u8], text: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let mut sealed = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(&[0; NONCE_LEN]);
        sealed.extend_from_slice(text);
        let (room, body) = sealed.split_at_mut(NONCE_LEN);
        let (nonce, tag) = self
            .key(purpose)
            .seal_in_place_separate_tag(Aad::from(binding), body)
            .map_err(|_unspecified| NotOpened)?;
        room.copy_from_slice(nonce.as_ref());
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Opens what [`SealKeys::seal`] made, in place.
    ///
    /// # Errors
    /// [`NotOpened`]; the bytes mean nothing then.
    pub fn open<'a>(
        &self,
        purpose: Purpose,
        binding: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], NotOpened> {
        let (nonce, body) = sealed.split_at_mut_checked(NONCE_LEN).ok_or(NotOpened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_unspecified| NotOpened)?;
        let opened = self
            .key(purpose)
            .open_in_place(nonce, Aad::from(binding), body)
            .map_err(|_unspecified| NotOpened)?;
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(fill: u8) -> SealKeys {
        SealKeys::derive(&Secret::new(vec![fill; 32])).unwrap()
    }

    #[test]
    fn what_is_sealed_opens_only_with_its_key_for_its_purpose_and_binding() {
        let sealed = keys(1).seal(Purpose::State, b"agent", b"text").unwrap();
        let open = |keys: &SealKeys, purpose, binding: &[u8]| {
            let mut bytes = sealed.clone();
            keys.open(purpose, binding, &mut bytes).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&keys(1), Purpose::State, b"agent").unwrap(), b"text");
        assert!(open(&keys(2), Purpose::State, b"agent").is_err());
        assert!(open(&keys(1), Purpose::Head, b"agent").is_err());
        assert!(open(&keys(1), Purpose::State, b"other").is_err());
    }

    #[test]
    fn no_bit_may_differ_and_nothing_may_lack() {
        let sealed = keys(1).seal(Purpose::OwnKey, b"", b"text").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(keys(1).open(Purpose::OwnKey, b"", &mut bytes).is_err(), "{bit}");
        }
        for length in 0..sealed.len() {
            let mut bytes = sealed[..length].to_vec();
            assert!(
                keys(1).open(Purpose::OwnKey, b"", &mut bytes).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn the_same_text_is_never_sealed_alike_and_a_short_secret_is_none() {
        let once = keys(1).seal(Purpose::State, b"", b"text").unwrap();
        assert_ne!(once, keys(1).seal(Purpose::State, b"", b"text").unwrap());
        assert!(SealKeys::derive(&Secret::new(vec![1; MIN_SECRET_BYTES - 1])).is_err());
    }
}
