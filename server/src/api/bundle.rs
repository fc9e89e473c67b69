//! `spire.api.server.bundle.v1.Bundle`.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_server::Bundle;
use vouchsafe_proto::spire::api::server::bundle::v1::{
    AppendBundleRequest, BatchCreateFederatedBundleRequest, BatchCreateFederatedBundleResponse,
    BatchDeleteFederatedBundleRequest, BatchDeleteFederatedBundleResponse, BatchSetFederatedBundleRequest,
    BatchSetFederatedBundleResponse, BatchUpdateFederatedBundleRequest, BatchUpdateFederatedBundleResponse,
    CountBundlesRequest, CountBundlesResponse, GetBundleRequest, GetFederatedBundleRequest,
    ListFederatedBundlesRequest, ListFederatedBundlesResponse, PublishJwtAuthorityRequest,
    PublishJwtAuthorityResponse, PublishWitAuthorityRequest, PublishWitAuthorityResponse,
};
use vouchsafe_proto::spire::api::types;

use super::absent::absent;
use super::{Api, refuse};
use crate::convert;

#[async_trait]
impl Bundle for Api {
    async fn count_bundles(
        &self,
        _request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let bundles = self.store.bundles().await.map_err(refuse)?;
        let count = convert::count_message(bundles.len());
        Ok(Response::new(CountBundlesResponse { count }))
    }

    async fn get_bundle(
        &self,
        request: Request<GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let mask = request.get_ref().output_mask;
        let message = convert::bundle::message(&self.ca.bundle(), mask.as_ref());
        Ok(Response::new(message))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let asked = request.get_ref();
        let trust_domain = convert::trust_domain("trust_domain", &asked.trust_domain).map_err(refuse)?;
        if trust_domain == self.trust_domain {
            let text = "this is the server's own trust domain: its bundle is got with GetBundle";
            return Err(Status::invalid_argument(text));
        }
        let found = self.store.bundle(&trust_domain).await.map_err(refuse)?;
        let found = found.ok_or_else(|| Status::not_found("bundle not found"))?;
        let message = convert::bundle::message(&found.value, asked.output_mask.as_ref());
        Ok(Response::new(message))
    }

    absent! {
        append_bundle(AppendBundleRequest) -> types::Bundle;
        publish_jwt_authority(PublishJwtAuthorityRequest) -> PublishJwtAuthorityResponse;
        publish_wit_authority(PublishWitAuthorityRequest) -> PublishWitAuthorityResponse;
        list_federated_bundles(ListFederatedBundlesRequest) -> ListFederatedBundlesResponse;
        batch_create_federated_bundle(BatchCreateFederatedBundleRequest) -> BatchCreateFederatedBundleResponse;
        batch_update_federated_bundle(BatchUpdateFederatedBundleRequest) -> BatchUpdateFederatedBundleResponse;
        batch_set_federated_bundle(BatchSetFederatedBundleRequest) -> BatchSetFederatedBundleResponse;
        batch_delete_federated_bundle(BatchDeleteFederatedBundleRequest) -> BatchDeleteFederatedBundleResponse;
    }
}
