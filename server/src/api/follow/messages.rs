//! What is told, as messages.

use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message;
use vouchsafe_proto::vouchsafe::sync::v1::{
    AuthorityTaint, Change, Delta, FollowResponse, FullReason, LiveRun, Page, ResumePoint, RunGone, Welcome,
    authority_taint,
};
use vouchsafe_store::Run;

use super::hello::{Hello, RUNS};
use crate::convert::{bundle, class, entry, run};
use crate::index::spiffe_id_of;
use crate::usecases::following::{Authority, Item, Point, Taint, WholeReason};

/// Most entries, bundles or changes in one message.
pub(super) const MAX_ITEMS: usize = 500;
/// A message is sent when it would grow beyond this, in bytes. A single item may be larger.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// One change.
pub(super) fn change(item: &Item) -> Change {
    let kind = match item {
        Item::Entry(put) => Kind::EntryPut(entry::message(put, None)),
        Item::EntryGone(id) => Kind::EntryGone(id.to_string()),
        Item::Bundle(put) => Kind::BundlePut(bundle::message(&put.bundle, None)),
        Item::BundleGone(trust_domain) => Kind::BundleGone(trust_domain.name().to_owned()),
        Item::Taint(taint) => Kind::AuthorityTaint(authority_taint(taint)),
        Item::Class(put) => Kind::ClassPut(Box::new(class::message(&put.value, 0))),
        Item::ClassGone(name) => Kind::ClassGone(name.to_string()),
        Item::Run(live) => Kind::RunPut(live_run(&live.run)),
        Item::RunGone(id, reason) => Kind::RunGone(RunGone {
            run_id: id.to_string(),
            reason: reason.clone(),
        }),
        Item::Revocation(revoked) => Kind::RevocationPut(run::revocation(revoked)),
        Item::RevocationGone(id) => Kind::RevocationGone(id.to_string()),
    };
    Change { kind: Some(kind) }
}

/// A run as its node is told of it.
pub(super) fn live_run(run: &Run) -> LiveRun {
    LiveRun {
        run_id: run.id.to_string(),
        spiffe_id: spiffe_id_of(&run.class_id, run.id),
        class: run.class.to_string(),
        class_version: run.class_version,
        admitted_at: run.admitted_at.unix_timestamp(),
        expires_at: run.expires_at.unix_timestamp(),
        lease: run
            .lease
            .as_ref()
            .map(|lease| lease.token.clone())
            .unwrap_or_default(),
    }
}

fn authority_taint(taint: &Taint) -> AuthorityTaint {
    let authority = match &taint.authority {
        Authority::X509(hash) => authority_taint::Authority::X509Sha256(hash.to_vec()),
        Authority::Jwt(key_id) => authority_taint::Authority::JwtKeyId(key_id.clone()),
    };
    AuthorityTaint {
        trust_domain: taint.trust_domain.name().to_owned(),
        authority: Some(authority),
        sequence_number: taint.sequence,
    }
}

/// A place in a log of changes.
pub(super) fn resume_point(log_id: &str, point: Point) -> ResumePoint {
    ResumePoint {
        log_id: log_id.to_owned(),
        revision: point.revision.0,
        digest: point.digest.as_bytes().to_vec(),
    }
}

/// The reason as the protocol has it.
pub(super) fn full_reason(reason: WholeReason) -> FullReason {
    match reason {
        WholeReason::First => FullReason::First,
        WholeReason::Pruned => FullReason::Pruned,
        WholeReason::TooMany => FullReason::TooMany,
        WholeReason::Digest => FullReason::Digest,
        WholeReason::Slow => FullReason::Slow,
    }
}

/// The first message.
pub(super) fn welcome(hello: &Hello, reason: Option<WholeReason>, log_id: &str) -> FollowResponse {
    response(Message::Welcome(Welcome {
        version: hello.version,
        features: hello.runs.then(|| RUNS.to_owned()).into_iter().collect(),
        full_reason: reason.map_or(FullReason::Unspecified, full_reason).into(),
        log_id: log_id.to_owned(),
    }))
}

/// Part of the whole set.
pub(super) fn page(page: Page) -> FollowResponse {
    response(Message::Page(page))
}

/// Changes.
pub(super) fn delta(changes: Vec<Change>, resume: Option<ResumePoint>) -> FollowResponse {
    response(Message::Delta(Delta { changes, resume }))
}

fn response(message: Message) -> FollowResponse {
    FollowResponse {
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_identity::TrustDomain;

    use super::*;

    #[test]
    fn a_taint_names_its_authority_and_the_bundle_that_it_makes() {
        let name = TrustDomain::new("example.org").unwrap();
        for (authority, expected) in [
            (
                Authority::X509([7; 32]),
                authority_taint::Authority::X509Sha256(vec![7; 32]),
            ),
            (
                Authority::Jwt("kid".to_owned()),
                authority_taint::Authority::JwtKeyId("kid".to_owned()),
            ),
        ] {
            let taint = Taint {
                trust_domain: name.clone(),
                authority,
                sequence: 9,
            };
            let told = change(&Item::Taint(taint)).kind;
            let expected = AuthorityTaint {
                trust_domain: "example.org".to_owned(),
                authority: Some(expected),
                sequence_number: 9,
            };
            assert_eq!(told, Some(Kind::AuthorityTaint(expected)));
        }
        let gone = change(&Item::BundleGone(name)).kind;
        assert_eq!(gone, Some(Kind::BundleGone("example.org".to_owned())));
    }
}
