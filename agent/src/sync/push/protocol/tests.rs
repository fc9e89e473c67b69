//! Streams of a server that keeps to the protocol, and of ones that do not.

mod runs;

use proptest::prelude::*;
use vouchsafe_identity::bundle::X509Authority;
use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::vouchsafe::sync::v1::change::Kind;

use super::*;
use crate::knowledge::KnowledgeBase;
use crate::testing::entry_message as entry;

const LOG: &str = "log-1";

fn domain() -> TrustDomain {
    TrustDomain::new("example.org").unwrap()
}

/// An entry that cannot be used: one of its selectors is none.
fn unusable(id: &str, revision: i64) -> types::Entry {
    let mut entry = entry(id, revision);
    entry.selectors[0].value.clear();
    entry
}

fn bundle(name: &str, sequence: u64) -> types::Bundle {
    types::Bundle {
        trust_domain: name.to_owned(),
        x509_authorities: vec![types::X509Certificate {
            asn1: vec![1, 2, 3],
            tainted: false,
        }],
        sequence_number: sequence,
        ..types::Bundle::default()
    }
}

/// What a server holds for the agent.
#[derive(Default, Clone)]
struct Server {
    entries: BTreeMap<String, types::Entry>,
    bundles: BTreeMap<String, types::Bundle>,
    revision: u64,
}

impl Server {
    fn new(ids: &[&str]) -> Self {
        let entries = ids.iter().map(|id| ((*id).to_owned(), entry(id, 1))).collect();
        let bundles = [("example.org".to_owned(), bundle("example.org", 1))].into();
        Self {
            entries,
            bundles,
            revision: 10,
        }
    }

    fn digest(&self) -> SetDigest {
        let entries = self.entries.values();
        let entries = entries.map(|e| ItemDigest::of_entry(&e.id, e.revision_number, e.created_at));
        let bundles = self.bundles.values().cloned();
        let bundles = bundles.map(|b| ItemDigest::of_bundle(&convert::bundle(b).unwrap()));
        entries.chain(bundles).collect()
    }

    fn point(&self) -> api::ResumePoint {
        api::ResumePoint {
            log_id: LOG.to_owned(),
            revision: self.revision,
            digest: self.digest().as_bytes().to_vec(),
        }
    }

    fn page(&self) -> api::FollowResponse {
        page(
            self.entries.values().cloned().collect(),
            self.bundles.values().cloned().collect(),
            Some(self.point()),
            0,
        )
    }

    fn change(&mut self, kinds: impl IntoIterator<Item = Kind>) -> api::FollowResponse {
        self.revision += 1;
        delta(kinds, Some(self.point()))
    }

    fn put(&mut self, entry: types::Entry) -> api::FollowResponse {
        self.entries.insert(entry.id.clone(), entry.clone());
        self.change([Kind::EntryPut(entry)])
    }

    fn remove(&mut self, id: &str) -> api::FollowResponse {
        self.entries.remove(id);
        self.change([Kind::EntryGone(id.to_owned())])
    }
}

fn page(
    entries: Vec<types::Entry>,
    bundles: Vec<types::Bundle>,
    resume: Option<api::ResumePoint>,
    full_reason: i32,
) -> api::FollowResponse {
    response(Response::Page(api::Page {
        entries,
        bundles,
        resume,
        full_reason,
        ..api::Page::default()
    }))
}

fn delta(kinds: impl IntoIterator<Item = Kind>, resume: Option<api::ResumePoint>) -> api::FollowResponse {
    let changes = kinds.into_iter().map(|kind| api::Change { kind: Some(kind) });
    response(Response::Delta(api::Delta {
        changes: changes.collect(),
        resume,
    }))
}

fn welcome(full_reason: api::FullReason) -> api::FollowResponse {
    response(Response::Welcome(api::Welcome {
        version: 1,
        features: Vec::new(),
        full_reason: full_reason.into(),
        log_id: LOG.to_owned(),
    }))
}

fn response(message: Response) -> api::FollowResponse {
    api::FollowResponse {
        message: Some(message),
    }
}

/// An agent with one stream.
struct Agent {
    base: KnowledgeBase,
    stream: Following,
    hello: api::Hello,
}

impl Agent {
    fn new() -> Self {
        Self::on(KnowledgeBase::new(domain(), None))
    }

    fn on(base: KnowledgeBase) -> Self {
        let (stream, first) = Following::begin(&base.get());
        let Some(Request::Hello(hello)) = first.message else {
            panic!("the first message is hello");
        };
        Self { base, stream, hello }
    }

    /// An agent that has the server's whole set.
    fn of(server: &Server) -> Self {
        let mut agent = Self::new();
        agent.hear(welcome(api::FullReason::First)).unwrap();
        agent.hear(server.page()).unwrap();
        agent
    }

    /// Takes in a message, and learns; whether the whole set was asked for.
    fn hear(&mut self, message: api::FollowResponse) -> Result<bool, ProtocolError> {
        let heard = self.stream.hear(message, &self.base.get())?;
        if let Some(news) = heard.news {
            self.base.learn(news);
        }
        heard.fault.map_or(Ok(heard.reply.is_some()), Err)
    }

    fn ids(&self) -> Vec<String> {
        let known = self.base.get();
        let mut ids: Vec<_> = known.entries.iter().map(|e| e.id.to_string()).collect();
        ids.sort();
        ids
    }

    fn stands_at(&self) -> Option<u64> {
        self.base.get().resume.as_ref().map(|resume| resume.revision)
    }
}

#[test]
fn a_server_of_another_version_is_refused() {
    for version in [0, VERSION + 1] {
        let refused = Agent::new().hear(response(Response::Welcome(api::Welcome {
            version,
            full_reason: api::FullReason::First.into(),
            ..api::Welcome::default()
        })));
        assert_eq!(refused, Err(ProtocolError::Version(version)));
    }
}

#[test]
fn what_comes_out_of_turn_is_refused() {
    let server = Server::new(&["a"]);
    let first = |message| Agent::new().hear(message).unwrap_err();
    assert!(matches!(first(server.page()), ProtocolError::OutOfTurn { .. }));
    let changes = delta([], Some(server.point()));
    assert!(matches!(first(changes.clone()), ProtocolError::OutOfTurn { .. }));
    let unknown = api::FollowResponse { message: None };
    assert!(matches!(first(unknown.clone()), ProtocolError::OutOfTurn { .. }));
    assert_eq!(
        first(welcome(api::FullReason::Unspecified)),
        ProtocolError::NothingToFollow
    );

    let mut agent = Agent::new();
    agent.hear(welcome(api::FullReason::First)).unwrap();
    let second = agent.hear(welcome(api::FullReason::First)).unwrap_err();
    assert!(matches!(second, ProtocolError::OutOfTurn { .. }));
    let mut agent = Agent::new();
    agent.hear(welcome(api::FullReason::First)).unwrap();
    let early = agent.hear(changes).unwrap_err();
    assert!(matches!(early, ProtocolError::OutOfTurn { .. }));

    let mut agent = Agent::of(&server);
    assert_eq!(agent.hear(server.page()), Err(ProtocolError::PageAfterLast));
    let mut agent = Agent::of(&server);
    assert_eq!(
        agent.hear(unknown),
        Ok(false),
        "a later kind of message is skipped"
    );
}

#[test]
fn pages_and_resume_points_that_make_no_sense_are_refused() {
    let server = Server::new(&["a"]);
    let whole = |message| {
        let mut agent = Agent::new();
        agent.hear(welcome(api::FullReason::First)).unwrap();
        let refused = agent.hear(message).unwrap_err();
        assert!(!agent.base.get().complete, "nothing of it is taken");
        refused
    };
    let many = (0..=MAX_PAGE).map(|n| entry(&format!("e{n}"), 1)).collect();
    assert_eq!(
        whole(page(many, Vec::new(), None, 0)),
        ProtocolError::PageTooLarge(MAX_PAGE + 1)
    );
    assert_eq!(
        whole(page(
            Vec::new(),
            vec![bundle("far.example", 1)],
            Some(server.point()),
            0
        )),
        ProtocolError::NoOwnBundle(domain())
    );
    assert!(matches!(
        whole(page(Vec::new(), vec![bundle("no domain!", 1)], None, 0)),
        ProtocolError::Bundle(_)
    ));
    let pointing = |change: fn(&mut api::ResumePoint)| {
        let mut point = server.point();
        change(&mut point);
        let bundles = server.bundles.values().cloned().collect();
        whole(page(Vec::new(), bundles, Some(point), 0))
    };
    assert!(matches!(
        pointing(|point| point.log_id = "other".to_owned()),
        ProtocolError::OtherLog { .. }
    ));
    assert_eq!(
        pointing(|point| point.digest.truncate(31)),
        ProtocolError::DigestLength(31)
    );
    let mut agent = Agent::of(&server);
    let mut back = server.point();
    back.revision = 9;
    assert_eq!(
        agent.hear(delta([], Some(back))),
        Err(ProtocolError::Backwards { came: 9, last: 10 })
    );
    let mut agent = Agent::of(&server);
    let own = Kind::BundleGone("example.org".to_owned());
    assert_eq!(
        agent.hear(delta([own], None)),
        Err(ProtocolError::NoOwnBundle(domain()))
    );
}

#[test]
fn the_old_set_stays_until_the_last_page() {
    let mut server = Server::new(&["a"]);
    let mut agent = Agent::of(&server);
    server.entries.clear();
    for n in 0..3 {
        let id = format!("n{n}");
        server.entries.insert(id.clone(), entry(&id, 1));
    }
    let slow = i32::from(api::FullReason::Slow);
    let some = server.entries.values().take(2).cloned().collect();
    agent.hear(page(some, Vec::new(), None, slow)).unwrap();
    assert_eq!(agent.ids(), ["a"]);
    agent.hear(server.page()).unwrap();
    assert_eq!(agent.ids(), ["n0", "n1", "n2"]);
    assert_eq!(agent.stands_at(), Some(10));
}

#[test]
fn a_whole_set_that_begins_anew_forgets_its_first_pages() {
    let server = Server::new(&["a"]);
    let mut agent = Agent::new();
    agent.hear(welcome(api::FullReason::First)).unwrap();
    agent
        .hear(page(vec![entry("stale", 1)], Vec::new(), None, 0))
        .unwrap();
    let slow = i32::from(api::FullReason::Slow);
    agent.hear(page(Vec::new(), Vec::new(), None, slow)).unwrap();
    assert_eq!(agent.hear(server.page()), Ok(false));
    assert_eq!(agent.ids(), ["a"]);
}

#[test]
fn changes_are_taken_at_their_resume_point_and_unknown_kinds_are_skipped() {
    let mut server = Server::new(&["a", "b"]);
    let mut agent = Agent::of(&server);
    server.entries.insert("c".to_owned(), entry("c", 1));
    server.entries.remove("a");
    server.revision = 12;
    agent.hear(delta([Kind::EntryPut(entry("c", 1))], None)).unwrap();
    assert_eq!(agent.ids(), ["a", "b"]);
    let unknown = api::Change { kind: None };
    let gone = |id: &str| api::Change {
        kind: Some(Kind::EntryGone(id.to_owned())),
    };
    let last = response(Response::Delta(api::Delta {
        changes: vec![unknown, gone("a"), gone("never known")],
        resume: Some(server.point()),
    }));
    assert_eq!(agent.hear(last), Ok(false));
    assert_eq!(agent.ids(), ["b", "c"]);
    assert_eq!(agent.stands_at(), Some(12));
}

#[test]
fn a_cut_is_followed_by_the_last_resume_point() {
    let mut server = Server::new(&["a"]);
    let mut agent = Agent::of(&server);
    assert_eq!(agent.hello.resume, None);
    // Half of a revision is no resume point.
    agent
        .hear(delta([Kind::EntryPut(entry("half", 1))], None))
        .unwrap();
    let mut agent = Agent::on(agent.base);
    assert_eq!(agent.hello.resume, Some(server.point()));
    agent.hear(welcome(api::FullReason::Unspecified)).unwrap();
    assert_eq!(agent.hear(server.put(entry("b", 1))), Ok(false));
    assert_eq!(agent.ids(), ["a", "b"]);
    // A server that counts in another log has to say so by the whole set.
    let mut agent = Agent::on(agent.base);
    let other = response(Response::Welcome(api::Welcome {
        version: 1,
        log_id: "log-2".to_owned(),
        ..api::Welcome::default()
    }));
    assert!(matches!(
        agent.hear(other).unwrap_err(),
        ProtocolError::OtherLog { .. }
    ));
}

#[test]
fn a_set_that_differs_is_asked_for_once_and_what_is_under_way_meanwhile_proves_nothing() {
    let mut server = Server::new(&["a"]);
    let mut agent = Agent::of(&server);
    // The server has an entry of which it never told.
    server.entries.insert("lost".to_owned(), entry("lost", 1));
    assert_eq!(agent.hear(server.put(entry("b", 1))), Ok(true));
    assert_eq!(agent.ids(), ["a", "b"], "what was told is used");
    assert_eq!(agent.stands_at(), None, "nothing to go on from after a cut");
    assert_eq!(agent.hear(server.put(entry("c", 1))), Ok(false), "asked already");
    assert_eq!(agent.stands_at(), None);
    let digest = i32::from(api::FullReason::Digest);
    let Some(Response::Page(mut whole)) = server.page().message else {
        panic!("a page");
    };
    whole.full_reason = digest;
    assert_eq!(agent.hear(response(Response::Page(whole))), Ok(false));
    assert_eq!(agent.ids(), ["a", "b", "c", "lost"]);
    assert_eq!(agent.stands_at(), Some(server.revision));
    // All is well again, and the next difference counts anew.
    server.entries.insert("again".to_owned(), entry("again", 1));
    assert_eq!(agent.hear(server.put(entry("d", 1))), Ok(true));
}

#[test]
fn a_whole_set_that_differs_again_ends_the_stream_and_is_used_all_the_same() {
    let server = Server::new(&["a"]);
    let mut agent = Agent::new();
    agent.hear(welcome(api::FullReason::First)).unwrap();
    let wrong = |full_reason| {
        let mut point = server.point();
        point.digest = vec![0; 32];
        let entries = server.entries.values().cloned().collect();
        page(
            entries,
            server.bundles.values().cloned().collect(),
            Some(point),
            full_reason,
        )
    };
    assert_eq!(agent.hear(wrong(0)), Ok(true));
    let digest = i32::from(api::FullReason::Digest);
    assert_eq!(agent.hear(wrong(digest)), Err(ProtocolError::Digest));
    assert_eq!(agent.ids(), ["a"]);
    assert_eq!(agent.stands_at(), None);
}

#[test]
fn an_entry_that_cannot_be_used_is_left_out_and_counts_in_the_digest() {
    let mut server = Server::new(&["a"]);
    server.entries.insert("bad".to_owned(), unusable("bad", 1));
    let mut foreign = entry("foreign", 1);
    foreign.spiffe_id = Some(types::Spiffeid {
        trust_domain: "far.example".to_owned(),
        path: "/x".to_owned(),
    });
    server.entries.insert("foreign".to_owned(), foreign);
    let mut agent = Agent::of(&server);
    assert_eq!(agent.ids(), ["a"]);
    assert_eq!(agent.stands_at(), Some(10), "the digest agrees");
    // A good one that becomes bad is served no longer; a bad one can become good, change or go.
    assert_eq!(agent.hear(server.put(unusable("a", 2))), Ok(false));
    assert!(agent.ids().is_empty());
    assert_eq!(agent.hear(server.put(entry("bad", 2))), Ok(false));
    assert_eq!(agent.hear(server.put(unusable("foreign", 2))), Ok(false));
    let mut agent = Agent::on(agent.base);
    assert_eq!(agent.hello.resume, Some(server.point()), "also after a cut");
    agent.hear(welcome(api::FullReason::Unspecified)).unwrap();
    assert_eq!(agent.hear(server.remove("foreign")), Ok(false));
    assert_eq!(agent.hear(server.remove("a")), Ok(false));
    assert_eq!(agent.ids(), ["bad"]);
    assert!(agent.base.get().resume.as_ref().unwrap().unusable.is_empty());
}

#[test]
fn bundles_come_change_are_tainted_and_go() {
    let mut server = Server::new(&[]);
    let mut agent = Agent::of(&server);
    let far = bundle("far.example", 1);
    server.bundles.insert("far.example".to_owned(), far.clone());
    assert_eq!(agent.hear(server.change([Kind::BundlePut(far)])), Ok(false));
    assert_eq!(agent.base.get().bundles.len(), 2);

    let own = server.bundles.get_mut("example.org").unwrap();
    own.x509_authorities[0].tainted = true;
    own.sequence_number = 5;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &[1, 2, 3]);
    let taint = Kind::AuthorityTaint(api::AuthorityTaint {
        trust_domain: "example.org".to_owned(),
        authority: Some(api::authority_taint::Authority::X509Sha256(
            hash.as_ref().to_vec(),
        )),
        sequence_number: 5,
    });
    assert_eq!(agent.hear(server.change([taint])), Ok(false));
    let known = agent.base.get();
    let mut expected = Bundle::empty(domain());
    expected.sequence = 5;
    expected.x509_authorities.push(X509Authority {
        certificate: vec![1, 2, 3],
        tainted: true,
    });
    assert_eq!(**known.own_bundle().unwrap(), expected);

    server.bundles.remove("far.example");
    let gone = Kind::BundleGone("far.example".to_owned());
    assert_eq!(agent.hear(server.change([gone])), Ok(false));
    assert_eq!(agent.base.get().bundles.len(), 1);
    // A taint of what the agent does not have shows in the digest.
    let strange = Kind::AuthorityTaint(api::AuthorityTaint {
        trust_domain: "example.org".to_owned(),
        authority: None,
        sequence_number: 9,
    });
    assert_eq!(agent.hear(server.change([strange])), Ok(true));
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8, i64),
    PutUnusable(u8, i64),
    Remove(u8),
    Cut,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (0_u8..12, 1_i64..4).prop_map(|(id, revision)| Op::Put(id, revision)),
        1 => (0_u8..12, 1_i64..4).prop_map(|(id, revision)| Op::PutUnusable(id, revision)),
        3 => (0_u8..12).prop_map(Op::Remove),
        1 => Just(Op::Cut),
    ];
    proptest::collection::vec(op, 0..40)
}

proptest! {
    #[test]
    fn whatever_changes_the_digest_agrees_and_the_agent_has_what_can_be_used(ops in ops()) {
        let mut server = Server::new(&["e0", "e1"]);
        let mut agent = Agent::of(&server);
        for op in ops {
            let message = match op {
                Op::Put(id, revision) => server.put(entry(&format!("e{id}"), revision)),
                Op::PutUnusable(id, revision) => server.put(unusable(&format!("e{id}"), revision)),
                Op::Remove(id) => server.remove(&format!("e{id}")),
                Op::Cut => {
                    agent = Agent::on(agent.base);
                    prop_assert_eq!(agent.hello.resume.clone(), Some(server.point()));
                    welcome(api::FullReason::Unspecified)
                }
            };
            prop_assert_eq!(agent.hear(message), Ok(false));
            let usable = |entry: &&types::Entry| convert::entry(types::Entry::clone(entry)).is_ok();
            let expected: Vec<_> = server.entries.values().filter(usable).map(|e| e.id.clone()).collect();
            prop_assert_eq!(agent.ids(), expected);
        }
    }
}
