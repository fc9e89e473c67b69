//! What an agent that stops still answers: nothing, however far a call had come.

use async_trait::async_trait;
use futures_util::StreamExt;
use tonic::Code;
use tonic::transport::server::Connected;
use vouchsafe_identity::TrustDomain;
use vouchsafe_identity::secret::Secret;
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use vouchsafe_proto::workload::{JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesResponse};
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::telemetry::traces::Traces;

use super::feed::{Frame, Topic};
use super::service::Service;
use super::*;
use crate::cache::rotation::Lifetime;
use crate::cache::slots::Watcher;
use crate::cache::{JwtCache, X509Cache};
use crate::caller::{CallerStream, ExecWatch, connection};
use crate::entry::EntryId;
use crate::knowledge::{News, Whole};
use crate::metrics::Metrics;
use crate::testing::{at, entry, gate, listener};
use crate::upstream::{Authority, IssuedJwt, UpstreamError, X509Request};

/// Gives a token, and has the agent stop meanwhile.
struct StopsMeanwhile(CancellationToken);

#[async_trait]
impl Authority for StopsMeanwhile {
    async fn issue_x509(
        &self,
        _requests: &[X509Request],
    ) -> Result<Vec<Result<Vec<Vec<u8>>, String>>, UpstreamError> {
        Ok(Vec::new())
    }

    async fn issue_jwt(&self, _entry: &EntryId, _audience: &[String]) -> Result<IssuedJwt, UpstreamError> {
        self.0.cancel();
        Ok(IssuedJwt {
            token: Secret::new("a.b.c".to_owned()),
            spiffe_id: None,
            lifetime: Lifetime {
                not_before: at(0),
                not_after: at(3600),
            },
        })
    }
}

/// The same of a stream: its message is made when the agent stops.
struct Stopping;

impl Topic for Stopping {
    type Message = X509BundlesResponse;

    fn frame(
        &mut self,
        parts: &Parts,
        _known: &Knowledge,
        _caller: &Caller,
        _watcher: &Watcher,
        _late: bool,
    ) -> Frame<X509BundlesResponse> {
        parts.stopping.cancel();
        Frame::Settled(X509BundlesResponse::default())
    }
}

/// An agent that knows one entry, which is this process's.
fn parts() -> Parts {
    let uid = nix::unistd::geteuid().as_raw();
    let knowledge = KnowledgeBase::new(TrustDomain::new("example.org").unwrap(), None);
    knowledge.learn(News::Whole(Whole {
        entries: vec![entry("worker", &[&format!("unix:uid:{uid}")])],
        ..Whole::default()
    }));
    let stopping = CancellationToken::new();
    let shelf = Shelf {
        x509: X509Cache::new(8),
        jwt: Arc::new(JwtCache::new(8)),
        authority: Arc::new(StopsMeanwhile(stopping.clone())),
    };
    Parts {
        gate: Arc::new(gate()),
        attestations: Metrics::new(&Traces::default()).attestations,
        knowledge,
        svids: shelf.clone(),
        runs: Runs::new(shelf),
        holding: Holding::new(Duration::ZERO, 8),
        status: Arc::new(crate::status::Status::new(Clock::system())),
        clock: Clock::system(),
        stopping,
    }
}

/// A connection of this process, as the listener has it.
async fn connected(parts: &Parts, group: &TaskGroup) -> (tokio::net::UnixStream, CallerStream) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = listener(&socket);
    let execs = ExecWatch::start();
    let incoming = connection::incoming(listener, Arc::clone(&parts.gate), execs, group);
    let client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let accepted = std::pin::pin!(incoming).next().await.unwrap().unwrap();
    (client, accepted)
}

fn request<T>(accepted: &CallerStream, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(accepted.connect_info());
    request
}

fn is_stopping(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message() == "the agent is stopping"
}

fn a_token() -> JwtsvidRequest {
    JwtsvidRequest {
        audience: vec!["a".to_owned()],
        spiffe_id: String::new(),
    }
}

#[tokio::test]
async fn an_agent_that_stops_takes_no_calls() {
    let (group, _failures) = TaskGroup::new();
    let parts = parts();
    let (_client, accepted) = connected(&parts, &group).await;
    let caller = parts.caller(&request(&accepted, ())).await.unwrap();
    assert!(parts.may_answer(&caller).await.is_ok());
    parts.stopping.cancel();
    assert!(is_stopping(
        &parts.caller(&request(&accepted, ())).await.unwrap_err()
    ));
    let service = Service(parts);
    let refused = service.fetch_jwtsvid(request(&accepted, a_token())).await;
    assert!(is_stopping(&refused.unwrap_err()));
    let refused = service.validate_jwtsvid(request(&accepted, ValidateJwtsvidRequest::default()));
    assert!(is_stopping(&refused.await.unwrap_err()));
}

#[tokio::test]
async fn a_call_under_way_when_the_agent_stops_gets_no_answer() {
    let (group, _failures) = TaskGroup::new();
    let token = parts();
    let (_client, accepted) = connected(&token, &group).await;
    let refused = Service(token).fetch_jwtsvid(request(&accepted, a_token())).await;
    assert!(is_stopping(&refused.unwrap_err()));

    let stream = parts();
    let (_client, accepted) = connected(&stream, &group).await;
    let caller = stream.caller(&request(&accepted, ())).await.unwrap();
    let mut messages = std::pin::pin!(feed::stream(stream, caller, Stopping).await);
    let first = messages.next().await.unwrap();
    assert!(is_stopping(&first.unwrap_err()));
    assert!(messages.next().await.is_none());
}
