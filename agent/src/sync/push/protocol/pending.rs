//! Changes of one revision, until its resume point has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::vouchsafe::sync::v1 as api;
use vouchsafe_proto::vouchsafe::sync::v1::authority_taint::Authority;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_runtime::set_digest::{ItemDigest, SetDigest};

use super::{MAX_ENTRIES, ProtocolError, Told, bundle_of, domain_of, entry_digest, told};
use crate::entry::{EntryId, EntryVersion};
use crate::knowledge::{Changes, Knowledge};

/// What came so far: of several changes of the same thing the last counts.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<EntryId, Told>,
    /// `None`: it is gone.
    bundles: BTreeMap<TrustDomain, Option<Bundle>>,
}

impl Pending {
    pub(super) fn add(&mut self, change: api::Change, known: &Knowledge) -> Result<(), ProtocolError> {
        match change.kind {
            Some(Kind::EntryPut(entry)) => {
                let (id, told) = told(entry, &known.trust_domain);
                self.entries.insert(id, told);
            }
            Some(Kind::EntryGone(id)) => {
                self.entries.insert(EntryId::from(id.as_str()), Told::Gone);
            }
            Some(Kind::BundlePut(bundle)) => {
                let bundle = bundle_of(bundle)?;
                self.bundles.insert(bundle.trust_domain.clone(), Some(bundle));
            }
            Some(Kind::BundleGone(name)) => {
                let trust_domain = domain_of(&name)?;
                if trust_domain == known.trust_domain {
                    return Err(ProtocolError::NoOwnBundle(trust_domain));
                }
                self.bundles.insert(trust_domain, None);
            }
            Some(Kind::AuthorityTaint(taint)) => self.taint(&taint, known)?,
            None => tracing::debug!("a change of a kind that this agent does not know is skipped"),
        }
        match self.entries.len() > MAX_ENTRIES {
            true => Err(ProtocolError::TooMany),
            false => Ok(()),
        }
    }

    /// Marks an authority. Where it is not known the digest will tell.
    fn taint(&mut self, taint: &api::AuthorityTaint, known: &Knowledge) -> Result<(), ProtocolError> {
        let trust_domain = domain_of(&taint.trust_domain)?;
        let pending = self.bundles.get(&trust_domain).cloned();
        let bundle = pending.unwrap_or_else(|| known.bundles.get(&trust_domain).map(|b| Bundle::clone(b)));
        let Some(mut bundle) = bundle else {
            return Ok(());
        };
        bundle.sequence = taint.sequence_number;
        match &taint.authority {
            Some(Authority::X509Sha256(hash)) => {
                let is_it = |certificate: &[u8]| {
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
                    digest.as_ref() == hash.as_slice()
                };
                for authority in &mut bundle.x509_authorities {
                    authority.tainted |= is_it(&authority.certificate);
                }
            }
            Some(Authority::JwtKeyId(key_id)) => {
                for authority in &mut bundle.jwt_authorities {
                    authority.tainted |= authority.key_id == *key_id;
                }
            }
            None => {}
        }
        self.bundles.insert(trust_domain, Some(bundle));
        Ok(())
    }

    /// The changes, and with them the digest and what cannot be used, both given as they were before.
    pub(super) fn finish(
        self,
        known: &Knowledge,
        mut digest: SetDigest,
        mut unusable: Arc<BTreeMap<EntryId, EntryVersion>>,
    ) -> (Changes, SetDigest, Arc<BTreeMap<EntryId, EntryVersion>>) {
        let mut changes = Changes::default();
        for (id, told) in self.entries {
            let before = unusable.get(&id).copied();
            if before.is_some() {
                Arc::make_mut(&mut unusable).remove(&id);
            }
            let before = before.or_else(|| known.entries.get(&id).map(|entry| entry.version));
            if let Some(version) = before {
                digest.toggle(entry_digest(&id, version));
            }
            match told {
                Told::Usable(entry) => {
                    digest.toggle(entry_digest(&id, entry.version));
                    changes.put.push(entry);
                }
                Told::Unusable(version) => {
                    digest.toggle(entry_digest(&id, version));
                    Arc::make_mut(&mut unusable).insert(id.clone(), version);
                    // As it was, it is no longer.
                    changes.gone.push(id);
                }
                Told::Gone => changes.gone.push(id),
            }
        }
        for (trust_domain, bundle) in self.bundles {
            if let Some(before) = known.bundles.get(&trust_domain) {
                digest.toggle(ItemDigest::of_bundle(before));
            }
            match bundle {
                Some(bundle) => {
                    digest.toggle(ItemDigest::of_bundle(&bundle));
                    changes.bundles.push(bundle);
                }
                None => changes.bundles_gone.push(trust_domain),
            }
        }
        (changes, digest, unusable)
    }
}
