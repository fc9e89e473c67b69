//! Methods of SPIRE's that this release does not have: they go through the whole stack, and say so.

use vouchsafe_proto::spire::api::server::debug::v1 as debug;
use vouchsafe_proto::spire::api::server::trustdomain::v1 as trustdomain;
use vouchsafe_proto::spire::api::types;

use super::Api;

/// What callers of such methods are told.
pub(super) const TEXT: &str = "this method is not there in this release; docs/spire.md lists those that are";

/// Writes such methods of a service, in the form to which `async_trait` turns an async method.
macro_rules! absent {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        $(
            fn $name<'life0, 'async_trait>(
                &'life0 self,
                _request: tonic::Request<$request>,
            ) -> std::pin::Pin<
                Box<
                    dyn std::future::Future<Output = Result<tonic::Response<$response>, tonic::Status>>
                        + Send
                        + 'async_trait,
                >,
            >
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(std::future::ready(Err(tonic::Status::unimplemented($crate::api::absent::TEXT))))
            }
        )*
    };
}
pub(super) use absent;

impl trustdomain::trust_domain_server::TrustDomain for Api {
    absent! {
        list_federation_relationships(trustdomain::ListFederationRelationshipsRequest) -> trustdomain::ListFederationRelationshipsResponse;
        get_federation_relationship(trustdomain::GetFederationRelationshipRequest) -> types::FederationRelationship;
        batch_create_federation_relationship(trustdomain::BatchCreateFederationRelationshipRequest) -> trustdomain::BatchCreateFederationRelationshipResponse;
        batch_update_federation_relationship(trustdomain::BatchUpdateFederationRelationshipRequest) -> trustdomain::BatchUpdateFederationRelationshipResponse;
        batch_delete_federation_relationship(trustdomain::BatchDeleteFederationRelationshipRequest) -> trustdomain::BatchDeleteFederationRelationshipResponse;
        refresh_bundle(trustdomain::RefreshBundleRequest) -> ();
    }
}

impl debug::debug_server::Debug for Api {
    absent! {
        get_info(debug::GetInfoRequest) -> debug::GetInfoResponse;
    }
}
