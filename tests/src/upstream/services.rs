//! The calls that an agent makes. Everything else is absent: an agent that made it would fail its test.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use prost::Message;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use vouchsafe_proto::spire::api::server::agent::v1 as agent;
use vouchsafe_proto::spire::api::server::agent::v1::agent_server::AgentServer;
use vouchsafe_proto::spire::api::server::bundle::v1 as bundle;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_server::BundleServer;
use vouchsafe_proto::spire::api::server::entry::v1 as entry;
use vouchsafe_proto::spire::api::server::entry::v1::entry_server::EntryServer;
use vouchsafe_proto::spire::api::server::svid::v1 as svid;
use vouchsafe_proto::spire::api::server::svid::v1::svid_server::SvidServer;
use vouchsafe_proto::spire::api::types;
use vouchsafe_proto::spire::api::types::PermissionDeniedDetails;
use vouchsafe_proto::spire::api::types::permission_denied_details::Reason;
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::tls::{TlsConnection, TlsPeer};

use super::{Shared, State, TOKEN, TRUST_DOMAIN, bundle_message};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Call<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// Methods that no agent calls.
macro_rules! absent {
    ($($method:ident($request:ty) -> $response:ty;)+) => {
        $(fn $method<'a, 'b>(&'a self, _request: Request<$request>) -> Call<'b, $response>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented("no agent calls this")) })
        })+
    };
}

/// One of the services.
#[derive(Clone)]
struct Service(Arc<Shared>);

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

fn refused(reason: Reason) -> Status {
    let status = RpcStatus {
        code: Code::PermissionDenied.into(),
        message: "refused by the test".to_owned(),
        details: vec![prost_types::Any {
            type_url: "type.googleapis.com/spire.api.types.PermissionDeniedDetails".to_owned(),
            value: PermissionDeniedDetails {
                reason: reason.into(),
            }
            .encode_to_vec(),
        }],
    };
    let details = status.encode_to_vec().into();
    Status::with_details(Code::PermissionDenied, "refused by the test", details)
}

fn failed(error: anyhow::Error) -> Status {
    Status::invalid_argument(format!("{error:#}"))
}

/// Serves every call on these connections.
pub(super) fn serve(
    shared: Arc<Shared>,
    incoming: impl Stream<Item = std::io::Result<TlsConnection>> + Send + Unpin + 'static,
    group: &TaskGroup,
) {
    let service = Service(shared);
    let router = Server::builder()
        .add_service(AgentServer::new(service.clone()))
        .add_service(BundleServer::new(service.clone()))
        .add_service(EntryServer::new(service.clone()))
        .add_service(SvidServer::new(service));
    group.passing("upstream", async move {
        let _ended = router.serve_with_incoming(incoming).await;
    });
}

impl Service {
    /// The caller must be the agent, with its current SVID or the one that it got last; the first use of that one ends
    /// the other, as servers do.
    fn agent<T>(&self, request: &Request<T>) -> Result<std::sync::MutexGuard<'_, State>, Status> {
        let peer = request.extensions().get::<Arc<TlsPeer>>();
        let svid = peer.and_then(|peer| peer.svid.as_ref());
        let serial = svid.map(|svid| svid.leaf.serial.clone());
        let serial = serial.ok_or_else(|| Status::unauthenticated("no SVID"))?;
        let mut state = self.0.lock();
        if let Some(reason) = state.behaviour.refuse {
            return Err(refused(reason));
        }
        if state.behaviour.away {
            return Err(Status::unavailable("away"));
        }
        if state.serials.next.as_ref() == Some(&serial) {
            state.serials.current = serial;
            state.serials.next = None;
        } else if state.serials.current != serial {
            return Err(refused(Reason::AgentNotActive));
        }
        Ok(state)
    }
}

#[tonic::async_trait]
impl agent::agent_server::Agent for Service {
    type AttestAgentStream = Answers<agent::AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<agent::AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let first = request
            .into_inner()
            .message()
            .await?
            .and_then(|message| message.step);
        let Some(agent::attest_agent_request::Step::Params(params)) = first else {
            return Err(Status::invalid_argument("no params"));
        };
        let payload = params.data.unwrap_or_default().payload;
        let life = {
            let mut state = self.0.lock();
            if state.behaviour.refuse == Some(Reason::AgentBanned) {
                return Err(Status::permission_denied("failed to attest: agent is banned"));
            }
            if payload != TOKEN.as_bytes() || !std::mem::take(&mut state.behaviour.token_unused) {
                return Err(Status::invalid_argument(
                    "join token does not exist or has already been used",
                ));
            }
            state.behaviour.agent_ttl
        };
        let id = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{TOKEN}");
        let csr = params.params.unwrap_or_default().csr;
        let (svid, serial) = self.0.sign(&id, &csr, life).map_err(failed)?;
        let mut state = self.0.lock();
        state.counts.attested += 1;
        state.serials.current = serial;
        let result = agent::attest_agent_response::Result {
            svid: Some(svid),
            reattestable: false,
        };
        let answer = agent::AttestAgentResponse {
            step: Some(agent::attest_agent_response::Step::Result(result)),
        };
        Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(answer)]))))
    }

    async fn renew_agent(
        &self,
        request: Request<agent::RenewAgentRequest>,
    ) -> Result<Response<agent::RenewAgentResponse>, Status> {
        let life = self.agent(&request)?.behaviour.agent_ttl;
        let csr = request.into_inner().params.unwrap_or_default().csr;
        let id = format!("spiffe://{TRUST_DOMAIN}/spire/agent/join_token/{TOKEN}");
        let (svid, serial) = self.0.sign(&id, &csr, life).map_err(failed)?;
        let mut state = self.0.lock();
        state.counts.renewed += 1;
        state.serials.next = Some(serial);
        Ok(Response::new(agent::RenewAgentResponse { svid: Some(svid) }))
    }

    async fn post_status(
        &self,
        request: Request<agent::PostStatusRequest>,
    ) -> Result<Response<agent::PostStatusResponse>, Status> {
        drop(self.agent(&request)?);
        Ok(Response::new(agent::PostStatusResponse {}))
    }

    absent! {
        count_agents(agent::CountAgentsRequest) -> agent::CountAgentsResponse;
        list_agents(agent::ListAgentsRequest) -> agent::ListAgentsResponse;
        get_agent(agent::GetAgentRequest) -> types::Agent;
        delete_agent(agent::DeleteAgentRequest) -> ();
        ban_agent(agent::BanAgentRequest) -> ();
        create_join_token(agent::CreateJoinTokenRequest) -> types::JoinToken;
    }
}

#[tonic::async_trait]
impl bundle::bundle_server::Bundle for Service {
    async fn get_bundle(
        &self,
        _request: Request<bundle::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        Ok(Response::new(bundle_message(&self.0.lock().bundle)))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<bundle::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let state = self.agent(&request)?;
        let bundle = state.behaviour.federated.get(&request.get_ref().trust_domain);
        let message = bundle.map(bundle_message);
        message
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no such bundle"))
    }

    absent! {
        count_bundles(bundle::CountBundlesRequest) -> bundle::CountBundlesResponse;
        append_bundle(bundle::AppendBundleRequest) -> types::Bundle;
        publish_jwt_authority(bundle::PublishJwtAuthorityRequest) -> bundle::PublishJwtAuthorityResponse;
        publish_wit_authority(bundle::PublishWitAuthorityRequest) -> bundle::PublishWitAuthorityResponse;
        list_federated_bundles(bundle::ListFederatedBundlesRequest) -> bundle::ListFederatedBundlesResponse;
        batch_create_federated_bundle(bundle::BatchCreateFederatedBundleRequest) -> bundle::BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle(bundle::BatchUpdateFederatedBundleRequest) -> bundle::BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle(bundle::BatchSetFederatedBundleRequest) -> bundle::BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle(bundle::BatchDeleteFederatedBundleRequest) -> bundle::BatchDeleteFederatedBundleResponse;
    }
}

#[tonic::async_trait]
impl entry::entry_server::Entry for Service {
    type SyncAuthorizedEntriesStream = Answers<entry::SyncAuthorizedEntriesResponse>;

    async fn sync_authorized_entries(
        &self,
        request: Request<Streaming<entry::SyncAuthorizedEntriesRequest>>,
    ) -> Result<Response<Self::SyncAuthorizedEntriesStream>, Status> {
        let (entries, page) = {
            let mut state = self.agent(&request)?;
            state.counts.synced += 1;
            (state.behaviour.entries.clone(), state.behaviour.page_size)
        };
        let all: Vec<types::Entry> = entries.into_values().collect();
        let mut wanted = request.into_inner();
        if all.len() <= page {
            let whole = entry::SyncAuthorizedEntriesResponse {
                entries: all,
                ..Default::default()
            };
            return Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(whole)]))));
        }
        let revisions = pages_of_revisions(&all, page);
        let asked = wanted.message().await?;
        debug_assert!(asked.is_some_and(|first| first.ids.is_empty()));
        let entries = futures_util::stream::unfold((wanted, all), async |(mut wanted, all)| {
            let ids: BTreeSet<String> = wanted.message().await.ok()??.ids.into_iter().collect();
            let page = entry::SyncAuthorizedEntriesResponse {
                entries: all
                    .iter()
                    .filter(|entry| ids.contains(&entry.id))
                    .cloned()
                    .collect(),
                ..Default::default()
            };
            Some((Ok(page), (wanted, all)))
        });
        let given = futures_util::stream::iter(revisions.into_iter().map(Ok)).chain(entries);
        Ok(Response::new(Box::pin(given)))
    }

    absent! {
        count_entries(entry::CountEntriesRequest) -> entry::CountEntriesResponse;
        list_entries(entry::ListEntriesRequest) -> entry::ListEntriesResponse;
        get_entry(entry::GetEntryRequest) -> types::Entry;
        batch_create_entry(entry::BatchCreateEntryRequest) -> entry::BatchCreateEntryResponse;
        batch_update_entry(entry::BatchUpdateEntryRequest) -> entry::BatchUpdateEntryResponse;
        batch_delete_entry(entry::BatchDeleteEntryRequest) -> entry::BatchDeleteEntryResponse;
        get_authorized_entries(entry::GetAuthorizedEntriesRequest) -> entry::GetAuthorizedEntriesResponse;
    }
}

#[tonic::async_trait]
impl svid::svid_server::Svid for Service {
    async fn batch_new_x509svid(
        &self,
        request: Request<svid::BatchNewX509svidRequest>,
    ) -> Result<Response<svid::BatchNewX509svidResponse>, Status> {
        let (entries, life) = {
            let state = self.agent(&request)?;
            (state.behaviour.entries.clone(), state.behaviour.x509_ttl)
        };
        let params = request.into_inner().params;
        let issue = |params: svid::NewX509svidParams| {
            let Some(entry) = entries.get(&params.entry_id) else {
                let status = types::Status {
                    code: Code::NotFound.into(),
                    message: "entry not found or not authorized".to_owned(),
                };
                return Ok(svid::batch_new_x509svid_response::Result {
                    status: Some(status),
                    svid: None,
                });
            };
            let id = spiffe_id(entry);
            let (svid, _) = self.0.sign(&id, &params.csr, life).map_err(failed)?;
            Ok(svid::batch_new_x509svid_response::Result {
                status: Some(types::Status::default()),
                svid: Some(svid),
            })
        };
        let results: Result<Vec<_>, Status> = params.into_iter().map(issue).collect();
        let results = results?;
        self.0.lock().counts.x509 += results.len();
        Ok(Response::new(svid::BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<svid::NewJwtsvidRequest>,
    ) -> Result<Response<svid::NewJwtsvidResponse>, Status> {
        let delay = self.agent(&request)?.behaviour.jwt_delay;
        let _waited = tokio::time::timeout(delay, std::future::pending::<()>()).await;
        let (id, life) = {
            let mut state = self.agent(&request)?;
            state.counts.jwt += 1;
            let entry = state.behaviour.entries.get(&request.get_ref().entry_id);
            let entry = entry.ok_or_else(|| Status::not_found("entry not found or not authorized"))?;
            (spiffe_id(entry), state.behaviour.jwt_ttl)
        };
        let id = id.parse().map_err(|error| failed(anyhow::Error::new(error)))?;
        let audience = request.into_inner().audience;
        let svid = self.0.jwt(&id, audience, life).map_err(failed)?;
        Ok(Response::new(svid::NewJwtsvidResponse { svid: Some(svid) }))
    }

    absent! {
        mint_x509svid(svid::MintX509svidRequest) -> svid::MintX509svidResponse;
        mint_jwtsvid(svid::MintJwtsvidRequest) -> svid::MintJwtsvidResponse;
        mint_witsvid(svid::MintWitsvidRequest) -> svid::MintWitsvidResponse;
        batch_new_witsvid(svid::BatchNewWitsvidRequest) -> svid::BatchNewWitsvidResponse;
        new_downstream_x509ca(svid::NewDownstreamX509caRequest) -> svid::NewDownstreamX509caResponse;
    }
}

fn pages_of_revisions(all: &[types::Entry], size: usize) -> Vec<entry::SyncAuthorizedEntriesResponse> {
    let count = all.len().div_ceil(size);
    all.chunks(size)
        .enumerate()
        .map(|(at, page)| entry::SyncAuthorizedEntriesResponse {
            entry_revisions: page
                .iter()
                .map(|entry| entry::EntryRevision {
                    id: entry.id.clone(),
                    revision_number: entry.revision_number,
                    created_at: entry.created_at,
                })
                .collect(),
            entries: Vec::new(),
            more: at + 1 < count,
        })
        .collect()
}

fn spiffe_id(entry: &types::Entry) -> String {
    let id = entry.spiffe_id.clone().unwrap_or_default();
    format!("spiffe://{}{}", id.trust_domain, id.path)
}
