//! Classes, runs and revocations as the server tells them.

use std::sync::Arc;

use vouchsafe_identity::run::RunError;
use vouchsafe_identity::{ClassName, RunId};
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1::LiveRun;
use vouchsafe_runtime::set_digest::ItemDigest;

/// A class by its name.
pub(super) fn class_of(class: Class) -> Result<(ClassName, Arc<Class>), RunError> {
    Ok((ClassName::new(&class.name)?, Arc::new(class)))
}

/// A run by its id.
pub(super) fn run_of(run: LiveRun) -> Result<(RunId, Arc<LiveRun>), RunError> {
    Ok((RunId::new(&run.run_id)?, Arc::new(run)))
}

/// A revocation by its run's id.
pub(super) fn revocation_of(revocation: Revocation) -> Result<(RunId, Arc<Revocation>), RunError> {
    Ok((RunId::new(&revocation.run_id)?, Arc::new(revocation)))
}

/// What a revocation adds to the digest of the set.
pub fn revocation_digest(revocation: &Revocation) -> ItemDigest {
    let Revocation {
        run_id, spiffe_id, ..
    } = revocation;
    ItemDigest::of_revocation(run_id, spiffe_id, revocation.revoked_at, revocation.until)
}

/// What a class adds to the digest of the set.
pub fn class_digest(class: &Class) -> ItemDigest {
    let names = (class.name.as_str(), class.id.as_str());
    ItemDigest::of_class(names, class.version, class.created_at, class.updated_at)
}

/// What a run adds to the digest of the set.
pub fn run_digest(run: &LiveRun) -> ItemDigest {
    ItemDigest::of_run(
        (&run.run_id, &run.spiffe_id),
        (&run.class, run.class_version),
        run.admitted_at,
        run.expires_at,
    )
}
