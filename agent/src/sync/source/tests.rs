//! Against servers that push, that do not, and that push what cannot be used. Time is paused: the streams go through
//! memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_identity::TrustDomain;
use vouchsafe_proto::spire::api::types::{self, PermissionDeniedDetails, permission_denied_details};
use vouchsafe_proto::vouchsafe::sync::v1 as api;
use vouchsafe_proto::vouchsafe::sync::v1::follow_request::Message as Asked;
use vouchsafe_proto::vouchsafe::sync::v1::follow_response::Message;
use vouchsafe_proto::vouchsafe::sync::v1::sync_server::{Sync, SyncServer};
use vouchsafe_runtime::{Clock, SetDigest, TaskGroup};

use super::*;
use crate::knowledge::KnowledgeBase;
use crate::testing::at;

/// A stream of that age may end in good order.
const SHORTEST: Duration = crate::sync::push::SHORTEST_LIFE;

type Answers = mpsc::Sender<Result<api::FollowResponse, Status>>;

/// A server whose streams the test holds in its hands.
#[derive(Clone)]
struct Fake {
    /// Answers to the next streams; without one a stream opens.
    refusals: Arc<Mutex<VecDeque<Status>>>,
    opened: mpsc::Sender<(api::Hello, Answers)>,
}

#[tonic::async_trait]
impl Sync for Fake {
    type FollowStream = ReceiverStream<Result<api::FollowResponse, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<api::FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        if let Some(refusal) = self.refusals.lock().unwrap().pop_front() {
            return Err(refusal);
        }
        let first = request.into_inner().message().await?;
        let Some(Asked::Hello(hello)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to, answers) = mpsc::channel(16);
        let _nobody_looks = self.opened.send((hello, to)).await;
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct Rig {
    fake: Fake,
    opened: mpsc::Receiver<(api::Hello, Answers)>,
    upstream: Upstream,
    source: Source,
    base: KnowledgeBase,
    _group: TaskGroup,
}

fn rig() -> Rig {
    let (opened, seen) = mpsc::channel(16);
    let fake = Fake {
        refusals: Arc::default(),
        opened,
    };
    let (group, _failures) = TaskGroup::new();
    let (connections, incoming) = mpsc::channel::<Result<DuplexStream, std::io::Error>>(16);
    let router = Server::builder().add_service(SyncServer::new(fake.clone()));
    group.passing("fake server", async move {
        let _ended = router.serve_with_incoming(ReceiverStream::new(incoming)).await;
    });
    let upstream = Upstream::new(move || channel(connections.clone()));
    let clock = Clock::manual(at(0));
    let polling = Polling::new(upstream.clone(), Duration::from_secs(3600), clock);
    Rig {
        fake,
        opened: seen,
        source: Source::new(upstream.clone(), polling),
        upstream,
        base: KnowledgeBase::new(TrustDomain::new("example.org").unwrap(), None),
        _group: group,
    }
}

fn channel(connections: mpsc::Sender<Result<DuplexStream, std::io::Error>>) -> Channel {
    let connect = tower::service_fn(move |_uri| {
        let connections = connections.clone();
        async move {
            let (here, there) = tokio::io::duplex(1 << 16);
            let _ended = connections.send(Ok(there)).await;
            Ok::<_, std::io::Error>(TokioIo::new(here))
        }
    });
    Endpoint::from_static("http://server").connect_with_connector_lazy(connect)
}

fn welcome(full_reason: api::FullReason) -> Message {
    Message::Welcome(api::Welcome {
        version: 1,
        full_reason: full_reason.into(),
        log_id: "log".to_owned(),
        ..api::Welcome::default()
    })
}

fn bundle() -> types::Bundle {
    types::Bundle {
        trust_domain: "example.org".to_owned(),
        sequence_number: 1,
        ..types::Bundle::default()
    }
}

fn point(revision: u64) -> api::ResumePoint {
    let bundle = crate::upstream::convert::bundle(bundle()).unwrap();
    let digest: SetDigest = [vouchsafe_runtime::ItemDigest::of_bundle(&bundle)]
        .into_iter()
        .collect();
    api::ResumePoint {
        log_id: "log".to_owned(),
        revision,
        digest: digest.as_bytes().to_vec(),
    }
}

fn page(revision: u64) -> Message {
    Message::Page(api::Page {
        bundles: vec![bundle()],
        resume: Some(point(revision)),
        ..api::Page::default()
    })
}

fn resumed(revision: u64) -> Message {
    Message::Delta(api::Delta {
        changes: Vec::new(),
        resume: Some(point(revision)),
    })
}

async fn say(to: &Answers, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        let message = Some(message);
        to.send(Ok(api::FollowResponse { message })).await.unwrap();
    }
}

impl Rig {
    /// The next news, learned.
    async fn next(&mut self) -> Result<(), UpstreamError> {
        let news = self.source.next(&self.base.get()).await?;
        self.base.learn(news);
        Ok(())
    }

    /// The next stream that the agent opens, while it waits for news; the server begins it with these messages.
    async fn open_with(&mut self, messages: Vec<Message>) -> (api::Hello, Answers) {
        let (source, known) = (&mut self.source, self.base.get());
        let opened = async {
            let (hello, to) = self.opened.recv().await.unwrap();
            say(&to, messages).await;
            (hello, to)
        };
        let (opened, news) = tokio::join!(opened, source.next(&known));
        self.base.learn(news.unwrap());
        opened
    }

    /// An agent that follows at revision 7.
    async fn following() -> (Self, Answers) {
        let mut rig = rig();
        let whole = vec![welcome(api::FullReason::First), page(7)];
        let (hello, to) = rig.open_with(whole).await;
        assert_eq!(hello.resume, None);
        assert_eq!(rig.source.mode(), SyncMode::Push);
        (rig, to)
    }

    fn revision(&self) -> Option<u64> {
        self.base.get().resume.as_ref().map(|resume| resume.revision)
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

fn with_detail(code: Code, name: &str, detail: &impl prost::Message) -> Status {
    use prost::Message as _;

    let status = RpcStatus {
        code: code.into(),
        message: "no".to_owned(),
        details: vec![prost_types::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: detail.encode_to_vec(),
        }],
    };
    Status::with_details(code, "no", status.encode_to_vec().into())
}

fn refused(reason: permission_denied_details::Reason) -> Status {
    let details = PermissionDeniedDetails {
        reason: reason.into(),
    };
    with_detail(
        Code::PermissionDenied,
        "spire.api.types.PermissionDeniedDetails",
        &details,
    )
}

/// What the server says to a stream that has grown old.
fn come_again() -> Status {
    let retry_delay = Some(prost_types::Duration::default());
    with_detail(
        Code::Unavailable,
        "google.rpc.RetryInfo",
        &RetryInfo { retry_delay },
    )
}

/// The server polled has no entries to give here, which is an answer that polling alone gives.
fn is_polling_error(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Rejected {
            code: Code::Unimplemented,
            ..
        }
    )
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_push_is_asked_and_push_is_tried_again_later() {
    let mut rig = rig();
    let none = Status::unimplemented("unknown service");
    rig.fake.refusals.lock().unwrap().push_back(none);
    assert!(is_polling_error(&rig.next().await.unwrap_err()));
    assert_eq!(rig.source.mode(), SyncMode::Poll);
    // It fails here, and so asks again at once each time; after a while it tries push.
    tokio::time::advance(PUSH_AGAIN).await;
    assert_eq!(rig.source.mode(), SyncMode::Poll);
    let begin = tokio::time::Instant::now();
    let whole = vec![welcome(api::FullReason::First), page(7)];
    while rig.source.mode() == SyncMode::Poll {
        let known = rig.base.get();
        let opened = async {
            let (_, to) = rig.opened.recv().await.unwrap();
            say(&to, whole.clone()).await;
            to
        };
        tokio::select! {
            _to = opened => {}
            asked = rig.source.next(&known) => {
                let asked_again = is_polling_error(&asked.unwrap_err());
                assert!(asked_again && begin.elapsed() < PUSH_AGAIN);
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        }
    }
    assert_eq!(rig.source.mode(), SyncMode::Push);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_thrice_in_a_row_is_asked_for_instead() {
    let mut rig = rig();
    for fault in 1..=MOST_FAULTS {
        let (source, known) = (&mut rig.source, rig.base.get());
        let nonsense = async {
            let (_, to) = rig.opened.recv().await.unwrap();
            say(&to, [page(7)]).await;
            to
        };
        let (_to, outcome) = tokio::join!(nonsense, source.next(&known));
        let error = outcome.unwrap_err();
        match fault < MOST_FAULTS {
            true => assert!(matches!(error, UpstreamError::Nonsense(_)), "{error}"),
            false => assert!(is_polling_error(&error), "{error}"),
        }
    }
    assert_eq!(rig.source.mode(), SyncMode::Poll);
}

/// A server whose digest never agrees must not make the agent fetch everything again and again.
#[tokio::test(start_paused = true)]
async fn a_digest_that_never_agrees_leads_to_asking_too() {
    let mut rig = rig();
    let wrong = |reason: i32| {
        let mut point = point(7);
        point.digest = vec![0; 32];
        Message::Page(api::Page {
            bundles: vec![bundle()],
            resume: Some(point),
            full_reason: reason,
            ..api::Page::default()
        })
    };
    for fault in 1..=MOST_FAULTS {
        let digest = api::FullReason::Digest.into();
        let messages = vec![welcome(api::FullReason::First), wrong(0), wrong(digest)];
        let (hello, _to) = rig.open_with(messages).await;
        assert_eq!(hello.resume, None);
        rig.next().await.unwrap();
        let told = tokio::time::timeout(Duration::from_secs(3600), rig.next()).await;
        let error = told.expect("the fault is noticed").unwrap_err();
        match fault < MOST_FAULTS {
            true => assert!(matches!(error, UpstreamError::Nonsense(_)), "{error}"),
            false => assert!(is_polling_error(&error), "{error}"),
        }
    }
    assert_eq!(rig.source.mode(), SyncMode::Poll);
    assert!(rig.base.get().own_bundle().is_some(), "what was told is used");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_grew_old_is_followed_by_the_next_at_once() {
    let (mut rig, to) = Rig::following().await;
    tokio::time::advance(SHORTEST).await;
    to.send(Err(come_again())).await.unwrap();
    let on = vec![welcome(api::FullReason::Unspecified), resumed(8)];
    let (_, to) = rig.open_with(on).await;
    assert_eq!(rig.revision(), Some(8));
    // One that ends as soon as it was opened is not.
    to.send(Err(come_again())).await.unwrap();
    assert!(rig.next().await.unwrap_err().is_temporary());
}

#[tokio::test(start_paused = true)]
async fn a_renewed_svid_opens_a_new_stream_and_the_end_of_the_old_one_is_no_refusal() {
    let (mut rig, old) = Rig::following().await;
    rig.upstream.reconnect();
    let on = vec![welcome(api::FullReason::Unspecified), resumed(9)];
    let (hello, _to) = rig.open_with(on).await;
    assert_eq!(hello.resume, Some(point(7)));
    assert_eq!(rig.revision(), Some(9));
    assert!(old.is_closed(), "the old stream was let go of");

    // The other order: the server ends the old stream before the agent has opened another.
    let (mut rig, old) = Rig::following().await;
    let reason = permission_denied_details::Reason::AgentNotActive;
    old.send(Err(refused(reason))).await.unwrap();
    rig.upstream.reconnect();
    let on = vec![welcome(api::FullReason::Unspecified), resumed(8)];
    rig.open_with(on).await;
    assert_eq!(rig.revision(), Some(8));
    // And where the two are seen at the same moment.
    let replaced = rig.upstream.link();
    rig.upstream.reconnect();
    let error = rig.upstream.judge(&replaced, refused(reason));
    assert!(matches!(error, UpstreamError::Refused(_)));
    let refusal = tokio::time::timeout(Duration::from_secs(1), rig.upstream.refused()).await;
    assert!(refusal.is_err(), "the agent is not refused");
}

#[tokio::test(start_paused = true)]
async fn a_banned_agent_hears_of_it_by_its_stream() {
    let (mut rig, to) = Rig::following().await;
    let reason = permission_denied_details::Reason::AgentBanned;
    to.send(Err(refused(reason))).await.unwrap();
    let error = rig.next().await.unwrap_err();
    assert!(matches!(error, UpstreamError::Refused(_)), "{error}");
    assert_eq!(rig.upstream.refused().await.reason, reason);
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_an_error_and_the_next_one_goes_on_where_it_was() {
    let (mut rig, to) = Rig::following().await;
    drop(to);
    let error = rig.next().await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    let on = vec![welcome(api::FullReason::Unspecified), resumed(7)];
    let (hello, _to) = rig.open_with(on).await;
    assert_eq!(hello.resume, Some(point(7)));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_not_waited_for_and_one_without_changes_is() {
    let mut rig = rig();
    let (source, known) = (&mut rig.source, rig.base.get());
    let (opened, outcome) = tokio::join!(rig.opened.recv(), source.next(&known));
    assert!(outcome.unwrap_err().is_temporary());
    drop(opened);

    let (mut rig, to) = Rig::following().await;
    let day = Duration::from_secs(24 * 3600);
    assert!(tokio::time::timeout(day, rig.next()).await.is_err());
    drop(to);
}
