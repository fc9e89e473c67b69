//! JWT-SVIDs of runs that have ended: they verify, and are not believed.

use serde_json::Value as Json;
use tonic::Status;
use vouchsafe_identity::jwt::VerifiedSvid;
use vouchsafe_identity::{RunId, RunIdentity, SpiffeId};

use crate::knowledge::Knowledge;
use crate::runs::Runs;

/// The claim that names the run where the subject is its class.
const RUN: &str = "run";

/// Refuses a token of our trust domain that names a run which has ended: by the server's revocations, or because it ended on
/// this node, of which the server may not have heard yet.
///
/// # Errors
/// `InvalidArgument` names the run.
pub(super) fn check(known: &Knowledge, runs: &Runs, verified: &VerifiedSvid) -> Result<(), Status> {
    if !verified.spiffe_id.is_member_of(&known.trust_domain) {
        return Ok(());
    }
    let claimed = verified.claims.get(RUN).and_then(Json::as_str);
    let claimed = claimed.and_then(|id| SpiffeId::new(id).ok());
    let named = [Some(&verified.spiffe_id), claimed.as_ref()];
    let ids = named.into_iter().flatten().filter_map(RunIdentity::parse);
    for RunIdentity { run, .. } in ids {
        if is_revoked(known, runs, run) {
            return Err(Status::invalid_argument(format!(
                "the token is revoked: run {run} has ended"
            )));
        }
    }
    Ok(())
}

fn is_revoked(known: &Knowledge, runs: &Runs, run: RunId) -> bool {
    known.revoked.contains_key(&run) || runs.has_ended(run)
}
