//! `spire.api.server.svid.v1.SVID`.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_proto::spire::api::server::svid::v1::svid_server::Svid;
use vouchsafe_proto::spire::api::server::svid::v1::{
    BatchNewWitsvidRequest, BatchNewWitsvidResponse, BatchNewX509svidRequest, BatchNewX509svidResponse,
    MintJwtsvidRequest, MintJwtsvidResponse, MintWitsvidRequest, MintWitsvidResponse, MintX509svidRequest,
    MintX509svidResponse, NewDownstreamX509caRequest, NewDownstreamX509caResponse, NewJwtsvidRequest,
    NewJwtsvidResponse, batch_new_x509svid_response,
};

use super::absent::absent;
use super::{Api, call, refuse};
use crate::convert::{self, svid};
use crate::errors::{ToStatus, item_ok};
use crate::layers::Call;
use crate::usecases::issuing::IssuedToken;

#[async_trait]
impl Svid for Api {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let call = call(&request)?;
        let asked = request.get_ref();
        let ttl = convert::ttl("ttl", asked.ttl).map_err(refuse)?;
        let minted = self.issuing.mint_x509(&asked.csr, ttl).map_err(refuse)?;
        call.fact("spiffe_id", minted.spiffe_id.as_str());
        call.fact("serial", minted.serial.as_str());
        Ok(Response::new(MintX509svidResponse {
            svid: Some(svid::x509_message(minted, String::new())),
        }))
    }

    async fn mint_jwtsvid(
        &self,
        request: Request<MintJwtsvidRequest>,
    ) -> Result<Response<MintJwtsvidResponse>, Status> {
        let call = call(&request)?;
        let asked = request.into_inner();
        let id = convert::spiffe_id("id", asked.id.as_ref()).map_err(refuse)?;
        let ttl = convert::ttl("ttl", asked.ttl).map_err(refuse)?;
        call.fact("audience", asked.audience.join(" "));
        let minted = self.issuing.mint_jwt(id, asked.audience, ttl).map_err(refuse)?;
        note(&call, &minted);
        Ok(Response::new(MintJwtsvidResponse {
            svid: Some(svid::jwt_message(minted)),
        }))
    }

    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let call = call(&request)?;
        let agent = call.agent().map_err(|status| *status)?;
        let params = request.into_inner().params;
        // The layer has counted one signature for the call itself.
        let more = u32::try_from(params.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let taken = self.rates.signatures.take(agent, more).await;
        taken.map_err(|e| Status::resource_exhausted(e.to_string()))?;
        let ids: Vec<String> = params.iter().map(|item| item.entry_id.clone()).collect();
        let items = params.into_iter().map(|item| (item.entry_id, item.csr)).collect();
        let outcomes = self.issuing.x509_for_entries(agent, items, call.at).await;
        let mut issued = Vec::new();
        let results: Vec<_> = outcomes
            .into_iter()
            .zip(&ids)
            .map(|(outcome, id)| {
                let (status, svid) = match outcome {
                    Ok(made) => {
                        issued.push(format!("{id}={}", made.svid.serial));
                        (item_ok(), Some(svid::x509_message(made.svid, made.hint)))
                    }
                    Err(e) => (e.to_item(), None),
                };
                batch_new_x509svid_response::Result {
                    status: Some(status),
                    svid,
                }
            })
            .collect();
        call.fact("count", results.len().to_string());
        call.fact("failed", (results.len() - issued.len()).to_string());
        call.fact("issued", issued.join(" "));
        Ok(Response::new(BatchNewX509svidResponse { results }))
    }

    async fn new_jwtsvid(
        &self,
        request: Request<NewJwtsvidRequest>,
    ) -> Result<Response<NewJwtsvidResponse>, Status> {
        let call = call(&request)?;
        let agent = call.agent().map_err(|status| *status)?;
        let NewJwtsvidRequest { entry_id, audience } = request.into_inner();
        call.fact("entry_id", entry_id.as_str());
        call.fact("audience", audience.join(" "));
        let issued = self
            .issuing
            .jwt_for_entry(agent, &entry_id, audience, call.at)
            .map_err(refuse)?;
        note(&call, &issued);
        Ok(Response::new(NewJwtsvidResponse {
            svid: Some(svid::jwt_message(issued)),
        }))
    }

    absent! {
        mint_witsvid(MintWitsvidRequest) -> MintWitsvidResponse;
        batch_new_witsvid(BatchNewWitsvidRequest) -> BatchNewWitsvidResponse;
        new_downstream_x509ca(NewDownstreamX509caRequest) -> NewDownstreamX509caResponse;
    }
}

pub(super) fn note(call: &Call, issued: &IssuedToken) {
    call.fact("spiffe_id", issued.spiffe_id.as_str());
    call.fact("expires_at", issued.jwt.expires_at.unix_timestamp().to_string());
    if let Some(jti) = &issued.jwt.jti {
        call.fact("jti", jti.as_str());
    }
}
