//! Methods of SPIRE's that this release does not have: they go through the whole stack, and say so.

use vouchsafe_proto::spire::api::server::debug::v1 as debug;
use vouchsafe_proto::spire::api::server::localauthority::v1 as authority;
use vouchsafe_proto::spire::api::server::logger::v1 as logger;
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

impl authority::local_authority_server::LocalAuthority for Api {
    absent! {
        get_jwt_authority_state(authority::GetJwtAuthorityStateRequest) -> authority::GetJwtAuthorityStateResponse;
        prepare_jwt_authority(authority::PrepareJwtAuthorityRequest) -> authority::PrepareJwtAuthorityResponse;
        activate_jwt_authority(authority::ActivateJwtAuthorityRequest) -> authority::ActivateJwtAuthorityResponse;
        taint_jwt_authority(authority::TaintJwtAuthorityRequest) -> authority::TaintJwtAuthorityResponse;
        revoke_jwt_authority(authority::RevokeJwtAuthorityRequest) -> authority::RevokeJwtAuthorityResponse;
        get_x509_authority_state(authority::GetX509AuthorityStateRequest) -> authority::GetX509AuthorityStateResponse;
        prepare_x509_authority(authority::PrepareX509AuthorityRequest) -> authority::PrepareX509AuthorityResponse;
        activate_x509_authority(authority::ActivateX509AuthorityRequest) -> authority::ActivateX509AuthorityResponse;
        taint_x509_authority(authority::TaintX509AuthorityRequest) -> authority::TaintX509AuthorityResponse;
        taint_x509_upstream_authority(authority::TaintX509UpstreamAuthorityRequest) -> authority::TaintX509UpstreamAuthorityResponse;
        revoke_x509_authority(authority::RevokeX509AuthorityRequest) -> authority::RevokeX509AuthorityResponse;
        revoke_x509_upstream_authority(authority::RevokeX509UpstreamAuthorityRequest) -> authority::RevokeX509UpstreamAuthorityResponse;
        get_wit_authority_state(authority::GetWitAuthorityStateRequest) -> authority::GetWitAuthorityStateResponse;
        prepare_wit_authority(authority::PrepareWitAuthorityRequest) -> authority::PrepareWitAuthorityResponse;
        activate_wit_authority(authority::ActivateWitAuthorityRequest) -> authority::ActivateWitAuthorityResponse;
        taint_wit_authority(authority::TaintWitAuthorityRequest) -> authority::TaintWitAuthorityResponse;
        revoke_wit_authority(authority::RevokeWitAuthorityRequest) -> authority::RevokeWitAuthorityResponse;
    }
}

impl logger::logger_server::Logger for Api {
    absent! {
        get_logger(logger::GetLoggerRequest) -> types::Logger;
        set_log_level(logger::SetLogLevelRequest) -> types::Logger;
        reset_log_level(logger::ResetLogLevelRequest) -> types::Logger;
    }
}

impl debug::debug_server::Debug for Api {
    absent! {
        get_info(debug::GetInfoRequest) -> debug::GetInfoResponse;
    }
}
