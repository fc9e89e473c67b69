//! `spire.api.server.agent.v1.Agent`.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_attestors::{Challenger, NodeAttestError};
use vouchsafe_identity::SpiffeId;
use vouchsafe_proto::spire::api::server::agent::v1::agent_server::Agent;
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_request::{Params, Step as Asked};
use vouchsafe_proto::spire::api::server::agent::v1::attest_agent_response::{self, Step as Answer};
use vouchsafe_proto::spire::api::server::agent::v1::{
    AgentX509svidParams, AttestAgentRequest, AttestAgentResponse, BanAgentRequest, CountAgentsRequest,
    CountAgentsResponse, CreateJoinTokenRequest, DeleteAgentRequest, GetAgentRequest, ListAgentsRequest,
    ListAgentsResponse, PostStatusRequest, PostStatusResponse, RenewAgentRequest, RenewAgentResponse,
};
use vouchsafe_proto::spire::api::types;

use super::conversation::{Outgoing, Responses, conversation};
use super::{Api, call, refuse};
use crate::convert::{self, filter, svid};
use crate::usecases::nodes::NodeError;

#[async_trait]
impl Agent for Api {
    type AttestAgentStream = Responses<AttestAgentResponse>;

    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let filter = filter::count_agents(request.get_ref().filter.as_ref()).map_err(refuse)?;
        let count = convert::count_message(self.index.count_nodes(&filter));
        Ok(Response::new(CountAgentsResponse { count }))
    }

    async fn list_agents(
        &self,
        request: Request<ListAgentsRequest>,
    ) -> Result<Response<ListAgentsResponse>, Status> {
        let asked = request.get_ref();
        let filter = filter::list_agents(asked.filter.as_ref()).map_err(refuse)?;
        let size = convert::page_size(asked.page_size).map_err(refuse)?;
        let after = match asked.page_token.as_str() {
            "" => None,
            token => {
                let bad = |_| refuse(convert::ConvertError::PageToken(token.to_owned()));
                Some(SpiffeId::new(token).map_err(bad)?)
            }
        };
        let page = self.index.nodes(&filter, after.as_ref(), size);
        let last = page.rows.last().filter(|_| page.more);
        let mask = asked.output_mask.as_ref();
        Ok(Response::new(ListAgentsResponse {
            next_page_token: last.map(|node| node.value.id.to_string()).unwrap_or_default(),
            agents: page
                .rows
                .iter()
                .map(|node| convert::agent::message(&node.value, mask))
                .collect(),
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let asked = request.get_ref();
        let id = convert::spiffe_id("id", asked.id.as_ref()).map_err(refuse)?;
        let node = self
            .index
            .node(&id)
            .ok_or_else(|| refuse(NodeError::NotFound(id)))?;
        let message = convert::agent::message(&node.value, asked.output_mask.as_ref());
        Ok(Response::new(message))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let call = call(&request)?;
        let id = convert::spiffe_id("id", request.get_ref().id.as_ref()).map_err(refuse)?;
        call.fact("spiffe_id", id.as_str());
        self.nodes.delete(&call.origin(), &id).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let call = call(&request)?;
        let id = convert::spiffe_id("id", request.get_ref().id.as_ref()).map_err(refuse)?;
        call.fact("spiffe_id", id.as_str());
        self.nodes.ban(&call.origin(), &id).await.map_err(refuse)?;
        Ok(Response::new(()))
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let call = call(&request)?;
        let (api, limit) = (self.clone(), self.limits.attestation_timeout.get());
        let incoming = request.into_inner();
        let talk = conversation(move |outgoing| async move {
            let attestation = attest(&api, &call, Steps { incoming, outgoing });
            let late = |_| Status::deadline_exceeded("the attestation took too long");
            timeout(limit, attestation).await.map_err(late)?
        });
        Ok(Response::new(talk))
    }

    async fn renew_agent(
        &self,
        request: Request<RenewAgentRequest>,
    ) -> Result<Response<RenewAgentResponse>, Status> {
        let call = call(&request)?;
        let id = call.agent().map_err(|status| *status)?;
        let csr = csr_of(request.get_ref().params.as_ref())?;
        let renewed = self.nodes.renew(&call.origin(), id, csr).await.map_err(refuse)?;
        call.fact("serial", renewed.serial.as_str());
        Ok(Response::new(RenewAgentResponse {
            svid: Some(svid::x509_message(renewed, String::new())),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let call = call(&request)?;
        let asked = request.get_ref();
        let ttl = Duration::from_secs(convert::ttl("ttl", asked.ttl).map_err(refuse)?.into());
        let text = (!asked.token.is_empty()).then_some(asked.token.as_str());
        let alias = asked
            .agent_id
            .as_ref()
            .map(|id| convert::spiffe_id("agent_id", Some(id)));
        let alias = alias.transpose().map_err(refuse)?;
        if let Some(alias) = &alias {
            call.fact("alias", alias.as_str());
        }
        let new = self
            .tokens
            .create(&call.origin(), ttl, text, alias)
            .await
            .map_err(refuse)?;
        Ok(Response::new(svid::token_message(&new)))
    }

    async fn post_status(
        &self,
        request: Request<PostStatusRequest>,
    ) -> Result<Response<PostStatusResponse>, Status> {
        let call = call(&request)?;
        let id = call.agent().map_err(|status| *status)?;
        let version = &request.get_ref().agent_version;
        self.nodes
            .post_status(&call.origin(), id, version)
            .await
            .map_err(refuse)?;
        Ok(Response::new(PostStatusResponse {}))
    }
}

/// The two directions of an attestation.
struct Steps {
    incoming: Streaming<AttestAgentRequest>,
    outgoing: Outgoing<AttestAgentResponse>,
}

#[async_trait]
impl Challenger for Steps {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, NodeAttestError> {
        let step = Some(Answer::Challenge(challenge));
        let gone = |_| NodeAttestError::Invalid("the node left before it answered the challenge".to_owned());
        self.outgoing
            .send(AttestAgentResponse { step })
            .await
            .map_err(gone)?;
        let next = self.incoming.message().await.map_err(gone)?;
        match next.and_then(|message| message.step) {
            Some(Asked::ChallengeResponse(response)) => Ok(response),
            _ => Err(NodeAttestError::Invalid(
                "a challenge response is expected".to_owned(),
            )),
        }
    }
}

async fn attest(api: &Api, call: &crate::layers::Call, mut steps: Steps) -> Result<(), Status> {
    let Some(Asked::Params(params)) = steps.incoming.message().await?.and_then(|message| message.step) else {
        return Err(Status::invalid_argument("the first message must carry `params`"));
    };
    let Params { data, params } = params;
    let data = data.ok_or_else(|| missing("data"))?;
    if data.r#type.is_empty() {
        return Err(missing("data.type"));
    }
    if data.payload.is_empty() {
        return Err(missing("data.payload"));
    }
    let csr = csr_of(params.as_ref())?;
    call.fact("attestor", data.r#type.as_str());
    let (origin, kind) = (call.origin(), &data.r#type);
    let attesting = api.nodes.attest(&origin, kind, &data.payload, csr, &mut steps);
    let admitted = attesting.await.map_err(refuse)?;
    call.fact("spiffe_id", admitted.svid.spiffe_id.as_str());
    call.fact("serial", admitted.svid.serial.as_str());
    let result = attest_agent_response::Result {
        svid: Some(svid::x509_message(admitted.svid, String::new())),
        reattestable: admitted.can_reattest,
    };
    let step = Some(Answer::Result(result));
    steps.outgoing.send(AttestAgentResponse { step }).await
}

fn csr_of(params: Option<&AgentX509svidParams>) -> Result<&[u8], Status> {
    match params.map(|params| params.csr.as_slice()) {
        None => Err(missing("params")),
        Some([]) => Err(missing("params.csr")),
        Some(csr) => Ok(csr),
    }
}

fn missing(field: &'static str) -> Status {
    refuse(convert::ConvertError::Missing(field))
}
