//! Changes of one revision, until its resume point has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use vouchsafe_identity::{Bundle, ClassName, RunId, TrustDomain};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1 as api;
use vouchsafe_proto::vouchsafe::sync::v1::authority_taint::Authority;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_runtime::set_digest::{ItemDigest, SetDigest};

use super::runs::{class_digest, class_of, revocation_digest, revocation_of, run_digest, run_of};
use super::{MAX_ENTRIES, ProtocolError, Told, bundle_of, domain_of, entry_digest, told};
use crate::entry::{EntryId, EntryVersion};
use crate::knowledge::{Changes, Knowledge, RunNews};

/// What came so far: of several changes of the same thing the last counts.
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: BTreeMap<EntryId, Told>,
    /// `None`: it is gone.
    bundles: BTreeMap<TrustDomain, Option<Bundle>>,
    classes: BTreeMap<ClassName, Option<Arc<Class>>>,
    runs: BTreeMap<RunId, RunNews>,
    revoked: BTreeMap<RunId, Option<Arc<Revocation>>>,
}

impl Pending {
    /// That there are no classes, runs and revocations.
    pub(super) fn no_runs(&mut self, known: &Knowledge) {
        let unknown: Arc<str> = "".into();
        self.classes = known.classes.keys().map(|name| (name.clone(), None)).collect();
        let ended = |id: &RunId| (*id, RunNews::Ended(Arc::clone(&unknown)));
        self.runs = known.runs.keys().map(ended).collect();
        self.revoked = known.revoked.keys().map(|id| (*id, None)).collect();
    }

    /// Takes in a change; those of classes, runs and revocations only where `runs`.
    pub(super) fn add(
        &mut self,
        change: api::Change,
        known: &Knowledge,
        runs: bool,
    ) -> Result<(), ProtocolError> {
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
            Some(Kind::ClassPut(class)) if runs => {
                let (name, class) = class_of(*class)?;
                self.classes.insert(name, Some(class));
            }
            Some(Kind::ClassGone(name)) if runs => {
                self.classes.insert(ClassName::new(&name)?, None);
            }
            Some(Kind::RunPut(run)) if runs => {
                let (id, run) = run_of(run)?;
                self.runs.insert(id, RunNews::Lives(run));
            }
            Some(Kind::RunGone(gone)) if runs => {
                let how = gone.reason.as_str().into();
                self.runs.insert(RunId::new(&gone.run_id)?, RunNews::Ended(how));
            }
            Some(Kind::RevocationPut(revocation)) if runs => {
                let (id, revocation) = revocation_of(revocation)?;
                self.revoked.insert(id, Some(revocation));
            }
            Some(Kind::RevocationGone(id)) if runs => {
                self.revoked.insert(RunId::new(&id)?, None);
            }
            Some(Kind::ClassPut(_) | Kind::ClassGone(_) | Kind::RunPut(_) | Kind::RunGone(_))
            | Some(Kind::RevocationPut(_) | Kind::RevocationGone(_))
            | None => {
                tracing::debug!("a change of a kind that is not spoken is skipped");
            }
        }
        let of_runs = self.classes.len() + self.runs.len() + self.revoked.len();
        match self.entries.len() + of_runs > MAX_ENTRIES {
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
        for (name, class) in &self.classes {
            let before = known.classes.get(name);
            let both = before.into_iter().chain(class);
            both.for_each(|class| digest.toggle(class_digest(class)));
        }
        for (id, news) in &self.runs {
            let after = match news {
                RunNews::Lives(run) => Some(run),
                RunNews::Ended(_) => None,
            };
            let both = known.runs.get(id).into_iter().chain(after);
            both.for_each(|run| digest.toggle(run_digest(run)));
        }
        for (id, revocation) in &self.revoked {
            let both = known.revoked.get(id).into_iter().chain(revocation);
            both.for_each(|one| digest.toggle(revocation_digest(one)));
        }
        (changes.classes, changes.runs) = (self.classes, self.runs);
        changes.revoked = self.revoked;
        (changes, digest, unusable)
    }
}
