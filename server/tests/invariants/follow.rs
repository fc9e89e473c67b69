//! What holds for any messages that an agent may send on the stream of changes: they are refused with words, or the
//! stream begins with what brings such an agent to what it may serve.

use std::sync::{Arc, LazyLock};

use prost::Message;
use time::OffsetDateTime;
use vouchsafe_identity::{Bundle, SelectorSet, SpiffeId, TrustDomain};
use vouchsafe_proto::vouchsafe::sync::v1::FollowRequest;
use vouchsafe_server::api::follow::hello::{self, Hello};
use vouchsafe_server::index::Index;
use vouchsafe_server::usecases::following::{Audience, Item, Opening, Told, WholeReason, open};
use vouchsafe_store::{ChangeKind, Commit, Entry, EntryId, MemoryStore, Record, Revision, SharedStore};

/// The log of this server.
pub(crate) const LOG: &str = "log-1";
const ENTRIES: u64 = 4;

fn agent() -> SpiffeId {
    "spiffe://example.org/spire/agent/join_token/one"
        .parse()
        .expect("it is one")
}

fn own() -> TrustDomain {
    TrustDomain::new("example.org").expect("it is one")
}

fn entry(number: u64) -> Entry {
    Entry::new(
        EntryId::new(&format!("e{number}")).expect("it is one"),
        format!("spiffe://example.org/{number}")
            .parse()
            .expect("it is one"),
        agent(),
        std::iter::once("unix:uid:1".parse().expect("it is one")).collect::<SelectorSet>(),
        OffsetDateTime::UNIX_EPOCH,
    )
}

/// An index of some entries, each of its own revision. Nothing of it changes, so that nobody needs to follow the store.
static INDEX: LazyLock<Arc<Index>> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store: SharedStore = Arc::new(MemoryStore::new("server-1"));
        let bundle = Bundle::empty(own());
        let commit = Commit::default()
            .put(Record::Bundle(bundle))
            .change(ChangeKind::Bundle(own()));
        store.commit(commit).await.expect("a bundle");
        for entry in (0..ENTRIES).map(entry) {
            let kind = ChangeKind::Entry(entry.id.clone());
            let commit = Commit::default().put(Record::Entry(entry)).change(kind);
            store.commit(commit).await.expect("an entry");
        }
        Index::load(&store).await.expect("an index")
    })
});

/// The digest that an agent with all entries has.
pub(crate) fn right_digest() -> Vec<u8> {
    let now = OffsetDateTime::UNIX_EPOCH;
    let (agent, own) = (agent(), own());
    let audience = Audience {
        agent: &agent,
        own: &own,
        runs: false,
    };
    let (_following, told) = INDEX.join(&agent, |view| Told::everything(view, audience, now));
    told.point().digest.as_bytes().to_vec()
}

fn begin(hello: &Hello) -> (Told, Opening) {
    let now = OffsetDateTime::UNIX_EPOCH;
    let resume = hello.resume.as_ref();
    let (agent, own) = (agent(), own());
    let audience = Audience {
        agent: &agent,
        own: &own,
        runs: hello.runs,
    };
    let (_following, opened) = INDEX.join(&agent, |view| open(view, audience, LOG, resume, now));
    opened
}

/// Reads any bytes as the first message, and begins a stream with it.
pub(crate) fn check(data: &[u8]) {
    let Ok(request) = FollowRequest::decode(data) else {
        return;
    };
    let hello = match hello::read(Some(request)) {
        Ok(hello) => hello,
        Err(refused) => {
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(!refused.message().is_empty() && refused.message().len() < 200);
            return;
        }
    };
    assert_eq!(hello.version, 1);
    assert!(hello.agent_version.len() <= 255);
    let (told, opening) = begin(&hello);
    assert_eq!(told.len(), told.entries().len() + told.bundles().len());
    assert_eq!(told.entries().len() as u64, ENTRIES);
    let Some(resume) = &hello.resume else {
        assert_eq!(opening, Opening::Whole(WholeReason::First));
        return;
    };
    let foreign = resume.log_id != LOG || resume.revision > told.point().revision;
    let right = resume.digest == *told.point().digest.as_bytes();
    match opening {
        Opening::Whole(reason) => {
            assert!(!right || foreign, "{reason:?} for an agent that has all of it");
            assert!(!foreign || reason == WholeReason::Pruned, "{reason:?}");
        }
        Opening::Changes(items) => {
            assert!(!foreign);
            assert_eq!(items.is_empty(), right);
            let after = |item: &Item| match item {
                Item::Entry(entry) => resume.revision < Revision(2 + number(&entry.id)),
                Item::Bundle(_) => resume.revision < Revision(1),
                other => panic!("{other:?} of a set that only grew"),
            };
            assert!(
                items.iter().all(after),
                "{items:?} to an agent at {:?}",
                resume.revision
            );
        }
    }
}

fn number(id: &EntryId) -> u64 {
    id.as_str().trim_start_matches('e').parse().expect("a number")
}
