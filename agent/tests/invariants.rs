//! The logic of the fuzz targets over random input, so that it runs with the other tests (tests/fuzz runs it longer).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper that fails is a test that fails"
)]

#[path = "invariants/followed.rs"]
mod followed;
#[path = "invariants/polled.rs"]
mod polled;
#[path = "invariants/sealed.rs"]
mod sealed;

use proptest::prelude::*;
use prost::Message;
use vouchsafe_agent::entry::{Entry, EntryVersion};
use vouchsafe_agent::sealed::record::{Batch, Change};
use vouchsafe_identity::{Bundle, TrustDomain, X509Authority};
use vouchsafe_proto::spire::api::server::entry::v1::{EntryRevision, SyncAuthorizedEntriesResponse};
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::vouchsafe::run::v1::{Class, Revocation};
use vouchsafe_proto::vouchsafe::sync::v1 as sync;
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message as Response;

/// A batch that is sound, as bytes.
fn batch(name: &str, hint: &str, bytes: &[u8]) -> Vec<u8> {
    let entry = Entry {
        id: name.into(),
        version: EntryVersion {
            revision: 3,
            created_at: 4,
        },
        spiffe_id: format!("spiffe://example.org/{name}").parse().unwrap(),
        selectors: std::iter::once("unix:uid:1".parse().unwrap()).collect(),
        federates_with: vec![TrustDomain::new("far.example").unwrap()],
        hint: hint.to_owned(),
        store_svid: false,
        prefetch: true,
        single_jwt: false,
    };
    let mut bundle = Bundle::empty(TrustDomain::new("example.org").unwrap());
    bundle.x509_authorities.push(X509Authority {
        certificate: bytes.to_vec(),
        tainted: true,
    });
    let batch = Batch {
        changes: vec![Change::entry(&entry), Change::bundle(&bundle)],
        last: true,
    };
    batch.to_bytes().to_vec()
}

fn entry(name: u8, revision: i64, usable: bool) -> types::Entry {
    types::Entry {
        id: format!("e{name}"),
        spiffe_id: Some(types::Spiffeid {
            trust_domain: followed::TRUST_DOMAIN.to_owned(),
            path: "/a".to_owned(),
        }),
        selectors: vec![types::Selector {
            r#type: "unix".to_owned(),
            value: if usable { "uid:1" } else { "" }.to_owned(),
        }],
        revision_number: revision,
        created_at: 1,
        ..types::Entry::default()
    }
}

fn bundle(trust_domain: &str, sequence: u64) -> types::Bundle {
    types::Bundle {
        trust_domain: trust_domain.to_owned(),
        jwt_authorities: vec![types::JwtKey {
            key_id: "k".to_owned(),
            ..types::JwtKey::default()
        }],
        sequence_number: sequence,
        ..types::Bundle::default()
    }
}

/// A place in the log; without a digest it is the right one.
fn any_point() -> impl Strategy<Value = Option<sync::ResumePoint>> {
    let digest = prop_oneof![8 => Just(Vec::new()), 1 => Just(vec![7; 32]), 1 => Just(vec![7; 31])];
    let log_id = prop_oneof![9 => Just("log"), 1 => Just("other")];
    let point = (log_id, 1..6_u64, digest).prop_map(|(log_id, revision, digest)| sync::ResumePoint {
        log_id: log_id.to_owned(),
        revision,
        digest,
    });
    prop::option::weighted(0.8, point)
}

fn any_kind() -> impl Strategy<Value = Option<Kind>> {
    let domains = || prop::sample::select(vec![followed::TRUST_DOMAIN, "far.example", "no domain"]);
    let taint = |trust_domain: &str, sequence_number| sync::AuthorityTaint {
        trust_domain: trust_domain.to_owned(),
        authority: Some(sync::authority_taint::Authority::JwtKeyId("k".to_owned())),
        sequence_number,
    };
    prop_oneof![
        6 => (0..4_u8, 0..4_i64, any::<bool>()).prop_map(|(name, revision, usable)| Some(Kind::EntryPut(entry(name, revision, usable)))),
        3 => (0..4_u8).prop_map(|name| Some(Kind::EntryGone(format!("e{name}")))),
        2 => (domains(), 0..4_u64).prop_map(|(name, sequence)| Some(Kind::BundlePut(bundle(name, sequence)))),
        1 => domains().prop_map(|name| Some(Kind::BundleGone(name.to_owned()))),
        2 => (domains(), 0..9_u64).prop_map(move |(name, sequence)| Some(Kind::AuthorityTaint(taint(name, sequence)))),
        2 => any_class().prop_map(|class| Some(Kind::ClassPut(Box::new(class)))),
        1 => any_class().prop_map(|class| Some(Kind::ClassGone(class.name))),
        2 => any_run().prop_map(|run| Some(Kind::RunPut(run))),
        1 => any_run().prop_map(|run| Some(Kind::RunGone(sync::RunGone { run_id: run.run_id, reason: String::new() }))),
        2 => any_revocation().prop_map(|one| Some(Kind::RevocationPut(one))),
        1 => any_revocation().prop_map(|one| Some(Kind::RevocationGone(one.run_id))),
        1 => Just(None),
    ]
}

fn any_class() -> impl Strategy<Value = Class> {
    (
        prop_oneof![1 => Just("no name"), 9 => Just("one"), 9 => Just("two")],
        1..3_u64,
    )
        .prop_map(|(name, version)| Class {
            name: name.to_owned(),
            version,
            ..Class::default()
        })
}

fn any_run_id() -> impl Strategy<Value = String> {
    let ids = [
        "x",
        "01K9Z3V7Q8R4S5T6V7W8X9YZAB",
        "01k9z3v7q8r4s5t6v7w8x9yzab",
        "01K9Z3V7Q8R4S5T6V7W8X9YZAC",
    ];
    let ids = prop_oneof![1 => Just(ids[0]), 9 => Just(ids[1]), 1 => Just(ids[2]), 9 => Just(ids[3])];
    ids.prop_map(str::to_owned)
}

fn any_revocation() -> impl Strategy<Value = Revocation> {
    (any_run_id(), 1..3_i64).prop_map(|(run_id, until)| Revocation {
        run_id,
        until,
        ..Revocation::default()
    })
}

fn any_run() -> impl Strategy<Value = sync::LiveRun> {
    (any_run_id(), 1..3_i64).prop_map(|(run_id, expires_at)| sync::LiveRun {
        run_id,
        expires_at,
        ..sync::LiveRun::default()
    })
}

/// What a server may say after its welcome.
fn any_message() -> impl Strategy<Value = Option<Response>> {
    let changes = prop::collection::vec(any_kind().prop_map(|kind| sync::Change { kind }), 0..4);
    let delta = (changes, any_point()).prop_map(|(changes, resume)| sync::Delta { changes, resume });
    let entries = prop::collection::vec((0..4_u8, 0..4_i64, any::<bool>()), 0..4);
    let reason = prop_oneof![3 => Just(0), 1 => 1..9_i32];
    let classes = prop::collection::vec(any_class(), 0..2);
    let runs = prop::collection::vec(any_run(), 0..2);
    let revocations = prop::collection::vec(any_revocation(), 0..2);
    let page = (
        entries,
        any::<bool>(),
        any_point(),
        reason,
        classes,
        runs,
        revocations,
    )
        .prop_map(
            |(entries, own, resume, full_reason, classes, runs, revocations)| {
                let entries = entries
                    .into_iter()
                    .map(|(name, revision, usable)| entry(name, revision, usable));
                sync::Page {
                    entries: entries.collect(),
                    bundles: own
                        .then(|| bundle(followed::TRUST_DOMAIN, 1))
                        .into_iter()
                        .collect(),
                    resume,
                    full_reason,
                    classes,
                    runs,
                    revocations,
                }
            },
        );
    prop_oneof![
        6 => delta.prop_map(|delta| Some(Response::Delta(delta))),
        2 => page.prop_map(|page| Some(Response::Page(page))),
        1 => Just(None),
    ]
}

fn welcome(full_reason: i32, runs: bool) -> Response {
    Response::Welcome(sync::Welcome {
        version: 1,
        full_reason,
        log_id: "log".to_owned(),
        features: runs.then(|| "runs".to_owned()).into_iter().collect(),
    })
}

fn delimited<M: Message>(messages: impl IntoIterator<Item = M>) -> Vec<u8> {
    messages
        .into_iter()
        .flat_map(|message| message.encode_length_delimited_to_vec())
        .collect()
}

proptest! {
    #[test]
    fn followed_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        followed::check(&bytes);
    }

    #[test]
    fn followed_streams(
        first in prop::collection::vec(any_message(), 0..20),
        second in prop::collection::vec(any_message(), 0..20),
        reason in 0..3_i32,
        runs in any::<[bool; 2]>(),
    ) {
        let whole = sync::Page {
            bundles: vec![bundle(followed::TRUST_DOMAIN, 1)],
            resume: Some(sync::ResumePoint { log_id: "log".to_owned(), revision: 1, digest: Vec::new() }),
            ..sync::Page::default()
        };
        let opening = [Some(welcome(1, runs[0])), Some(Response::Page(whole))];
        let messages = opening.into_iter().chain(first).chain([None, Some(welcome(reason, runs[1]))]).chain(second);
        followed::check(&delimited(messages.map(|message| sync::FollowResponse { message })));
    }

    #[test]
    fn polled_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        polled::check(&bytes);
    }

    #[test]
    fn polled_exchanges(answers in prop::collection::vec(
        (prop::collection::vec((0..6_u8, 0..2_i64), 0..4), prop::collection::vec((0..6_u8, 0..2_i64), 0..4), any::<bool>(), 0..3_u8),
        1..8,
    )) {
        let answers = answers.into_iter().map(|(entries, revisions, more, kind)| {
            let entries = entries.into_iter().map(|(name, revision)| entry(name, revision, true));
            let revisions = revisions.into_iter().map(|(name, revision_number)| EntryRevision {
                id: format!("e{name}"),
                revision_number,
                created_at: 1,
            });
            SyncAuthorizedEntriesResponse {
                entries: entries.filter(|_| kind != 0).collect(),
                entry_revisions: revisions.filter(|_| kind != 1).collect(),
                more,
            }
        });
        polled::check(&delimited(answers));
    }

    #[test]
    fn sealed_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        sealed::check(&bytes);
    }

    #[test]
    fn sealed_batches(name in "[a-z]{1,9}", hint in ".{0,9}", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        sealed::check(&batch(&name, &hint, &bytes));
    }

    #[test]
    fn sealed_batches_with_a_byte_that_differs(name in "[a-z]{1,9}", at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = batch(&name, "", &[1, 2, 3]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        sealed::check(&bytes);
    }
}
