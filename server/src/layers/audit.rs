//! One record for each call, refusals too, written here and nowhere else.
//!
//! A place in the log is taken before the call is let in: when the log takes no records, nothing is done.
//! Calls without an SVID are gathered by source and minute, so that nobody can fill the disk.

use std::sync::Arc;

use http::HeaderValue;
use tonic::{Code, Status};
use vouchsafe_runtime::Clock;
use vouchsafe_store::{AuditPlace, AuditSink};

use super::anonymous::AnonymousCalls;
use super::body::{Watched, ended};
use super::call::{Call, traceparent};
use super::step::{Handler, Next, Request, Response, Step};
use crate::authorize;
use crate::caller::Peer;

/// Header by which callers learn the id of their call.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// Longest method name that is recorded, in bytes.
const MAX_METHOD_BYTES: usize = 128;
/// The fact that tells the two records of a call that stays open apart.
const STREAM: &str = "stream";
/// The one call without an SVID that gets its own record when it succeeds.
const ATTEST: &str = "/spire.api.server.agent.v1.Agent/AttestAgent";

/// Records calls.
#[derive(Debug)]
pub struct Audit {
    clock: Clock,
    sink: AuditSink,
    anonymous: Arc<AnonymousCalls>,
}

impl Audit {
    /// Records by this clock, to this log.
    pub fn new(clock: Clock, sink: AuditSink, anonymous: Arc<AnonymousCalls>) -> Self {
        Self {
            clock,
            sink,
            anonymous,
        }
    }

    fn call(&self, request: &Request) -> Option<Call> {
        let peer = request.extensions().get::<Arc<Peer>>().map(Arc::clone)?;
        let trace = request.headers().get("traceparent");
        let trace = trace.and_then(|value| value.to_str().ok()).and_then(traceparent);
        let path = request.uri().path();
        let method = match authorize::rule(path) {
            Some((name, _)) => name.into(),
            None => path
                .get(..path.floor_char_boundary(MAX_METHOD_BYTES))
                .unwrap_or_default()
                .to_owned()
                .into(),
        };
        Some(Call::new(method, peer, trace, self.clock.now()))
    }
}

impl Step for Audit {
    async fn handle<S: Handler>(&self, mut request: Request, next: Next<S>) -> Response {
        let Some(call) = self.call(&request).map(Arc::new) else {
            return Status::internal("the connection names no peer").into_http();
        };
        let place = match self.sink.reserve().await {
            Ok(place) => place,
            Err(error) => {
                tracing::error!(%error, method = &*call.method, "a call is refused, because it cannot be recorded");
                return Status::unavailable("the audit log takes no records").into_http();
            }
        };
        request.extensions_mut().insert(Arc::clone(&call));
        let stays = authorize::rule(&call.method).is_some_and(|(_, rule)| rule.stays);
        let record = Record {
            call: Arc::clone(&call),
            room: Some(Room::Kept(place)),
            anonymous: Arc::clone(&self.anonymous),
        };
        let mut response = next.run(request).await;
        if let Ok(id) = HeaderValue::from_str(&call.request_id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        match ended(response.headers()) {
            Some((code, reason)) => {
                record.write(code, reason);
                response
            }
            None => {
                let record = if stays {
                    record.opened(self.sink.clone())
                } else {
                    record
                };
                response.map(|body| Watched::around(body, move |code, reason| record.write(code, reason)))
            }
        }
    }
}

/// Where a call's record goes.
enum Room {
    /// To a place that is kept for it.
    Kept(AuditPlace),
    /// To wherever there is room at its end: a call that stays open must not keep a place for all that time.
    Later(AuditSink),
}

/// A call's record. A call whose caller left is recorded when this is dropped.
struct Record {
    call: Arc<Call>,
    room: Option<Room>,
    anonymous: Arc<AnonymousCalls>,
}

impl Record {
    /// Records that a call which stays open was let in; its end gets a record of its own.
    fn opened(mut self, sink: AuditSink) -> Self {
        if let Some(Room::Kept(place)) = self.room.replace(Room::Later(sink)) {
            self.call.fact(STREAM, "opened");
            place.record(self.call.draft(Code::Ok, None));
            self.call.fact(STREAM, "ended");
        }
        self
    }

    fn write(mut self, code: Code, reason: Option<String>) {
        self.write_once(code, reason);
    }

    fn write_once(&mut self, code: Code, reason: Option<String>) {
        let Some(room) = self.room.take() else { return };
        let admitted = code == Code::Ok && self.call.method == ATTEST;
        if self.call.peer.is_anonymous() && !admitted {
            let method = authorize::rule(&self.call.method).map_or("unknown", |(name, _)| name);
            self.anonymous.note(self.call.peer.source, method, code);
            return;
        }
        let Call { peer, method, .. } = self.call.as_ref();
        if code == Code::Ok && self.anonymous.polls.note(peer, self.call.scope(), method) {
            return;
        }
        let draft = self.call.draft(code, reason);
        match room {
            Room::Kept(place) => place.record(draft),
            Room::Later(sink) => {
                if let Err(draft) = sink.try_record(draft) {
                    self.anonymous.keep(*draft);
                }
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.write_once(Code::Cancelled, Some("the caller left before the end".to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tonic::body::Body;
    use tower::{Layer, ServiceExt};
    use vouchsafe_store::{AuditConfig, AuditWriter, MemoryStore};

    use super::super::step::StepLayer;
    use super::*;
    use crate::caller::{Proof, Source};

    #[tokio::test]
    async fn what_cannot_be_recorded_is_not_done() {
        let store = Arc::new(MemoryStore::new("server-1"));
        let (sink, writer) = AuditWriter::new(store, &AuditConfig::default());
        drop(writer);
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let handler = tower::service_fn(move |_: Request| {
            seen.store(true, Ordering::SeqCst);
            async { Ok::<_, Infallible>(Response::new(Body::empty())) }
        });
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Arc::new(Peer {
            source: Source::of(Ipv4Addr::LOCALHOST.into()),
            proof: Proof::None,
        }));
        let audit = Audit::new(Clock::system(), sink, AnonymousCalls::new(1));
        let response = StepLayer::new(audit).layer(handler).oneshot(request).await;
        let status = Status::from_header_map(response.unwrap().headers()).unwrap();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(!done.load(Ordering::SeqCst));
    }
}
