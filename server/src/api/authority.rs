//! `spire.api.server.localauthority.v1.LocalAuthority`: the signing keys of this server, by hand.
//!
//! Vouchsafe signs with roots of its own, so there is no upstream authority to taint.

use async_trait::async_trait;
use tonic::{Request, Response, Status};
use vouchsafe_ca::{Authority, Kind, Step};
use vouchsafe_proto::spire::api::server::localauthority::v1::local_authority_server::LocalAuthority;
use vouchsafe_proto::spire::api::server::localauthority::v1::{
    ActivateJwtAuthorityRequest, ActivateJwtAuthorityResponse, ActivateWitAuthorityRequest,
    ActivateWitAuthorityResponse, ActivateX509AuthorityRequest, ActivateX509AuthorityResponse,
    AuthorityState, GetJwtAuthorityStateRequest, GetJwtAuthorityStateResponse, GetWitAuthorityStateRequest,
    GetWitAuthorityStateResponse, GetX509AuthorityStateRequest, GetX509AuthorityStateResponse,
    PrepareJwtAuthorityRequest, PrepareJwtAuthorityResponse, PrepareWitAuthorityRequest,
    PrepareWitAuthorityResponse, PrepareX509AuthorityRequest, PrepareX509AuthorityResponse,
    RevokeJwtAuthorityRequest, RevokeJwtAuthorityResponse, RevokeWitAuthorityRequest,
    RevokeWitAuthorityResponse, RevokeX509AuthorityRequest, RevokeX509AuthorityResponse,
    RevokeX509UpstreamAuthorityRequest, RevokeX509UpstreamAuthorityResponse, TaintJwtAuthorityRequest,
    TaintJwtAuthorityResponse, TaintWitAuthorityRequest, TaintWitAuthorityResponse,
    TaintX509AuthorityRequest, TaintX509AuthorityResponse, TaintX509UpstreamAuthorityRequest,
    TaintX509UpstreamAuthorityResponse,
};
use vouchsafe_store::SlotState;

use super::absent::absent;
use super::{Api, call, refuse};

/// SPIRE's text for what needs an authority above this server's.
const NO_UPSTREAM: &str = "upstream authority is not configured: this server signs with roots of its own, which are tainted and revoked \
     as local authorities";

/// The authorities as SPIRE's messages have them: of old ones the latest alone.
struct States {
    active: Option<AuthorityState>,
    prepared: Option<AuthorityState>,
    old: Option<AuthorityState>,
}

impl Api {
    fn authority_states(&self, kind: Kind) -> Result<States, Status> {
        let all = self.ca.authorities(kind);
        let in_state = |state| all.iter().find(|authority| authority.state == state).map(message);
        let active = in_state(SlotState::Active);
        if active.is_none() {
            return Err(Status::unavailable(
                "server is initializing: no authority is active yet",
            ));
        }
        Ok(States {
            active,
            prepared: in_state(SlotState::Prepared),
            old: in_state(SlotState::Old),
        })
    }

    /// Takes a step in the name of the caller.
    async fn authority_step<T>(
        &self,
        request: &Request<T>,
        kind: Kind,
        step: Step<'_>,
    ) -> Result<Option<AuthorityState>, Status> {
        let call = call(request)?;
        if let Step::Activate(id) | Step::Taint(id) | Step::Revoke(id) = step {
            call.fact("authority_id", id);
        }
        let by = call.origin().change("", []);
        let authority = self.ca.step(kind, step, &by).await.map_err(refuse)?;
        call.fact("authority_id", authority.id.as_str());
        Ok(Some(message(&authority)))
    }
}

fn message(authority: &Authority) -> AuthorityState {
    AuthorityState {
        authority_id: authority.id.clone(),
        expires_at: authority.expires_at.unix_timestamp(),
        upstream_authority_subject_key_id: String::new(),
    }
}

/// Writes the methods of one kind of step, in the form to which `async_trait` turns an async method.
macro_rules! steps {
    ($($name:ident($request:ty) -> $response:ident { $field:ident }: $kind:expr, $step:expr;)*) => {
        $(
            fn $name<'life0, 'async_trait>(
                &'life0 self,
                request: Request<$request>,
            ) -> std::pin::Pin<
                Box<dyn std::future::Future<Output = Result<Response<$response>, Status>> + Send + 'async_trait>,
            >
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(async move {
                    let step: fn(&$request) -> Step<'_> = $step;
                    let step = step(request.get_ref());
                    let $field = self.authority_step(&request, $kind, step).await?;
                    Ok(Response::new($response { $field }))
                })
            }
        )*
    };
}

#[async_trait]
impl LocalAuthority for Api {
    async fn get_x509_authority_state(
        &self,
        _request: Request<GetX509AuthorityStateRequest>,
    ) -> Result<Response<GetX509AuthorityStateResponse>, Status> {
        let States {
            active,
            prepared,
            old,
        } = self.authority_states(Kind::X509)?;
        Ok(Response::new(GetX509AuthorityStateResponse {
            active,
            prepared,
            old,
        }))
    }

    async fn get_jwt_authority_state(
        &self,
        _request: Request<GetJwtAuthorityStateRequest>,
    ) -> Result<Response<GetJwtAuthorityStateResponse>, Status> {
        let States {
            active,
            prepared,
            old,
        } = self.authority_states(Kind::Jwt)?;
        Ok(Response::new(GetJwtAuthorityStateResponse {
            active,
            prepared,
            old,
        }))
    }

    async fn taint_x509_upstream_authority(
        &self,
        _request: Request<TaintX509UpstreamAuthorityRequest>,
    ) -> Result<Response<TaintX509UpstreamAuthorityResponse>, Status> {
        Err(Status::failed_precondition(NO_UPSTREAM))
    }

    async fn revoke_x509_upstream_authority(
        &self,
        _request: Request<RevokeX509UpstreamAuthorityRequest>,
    ) -> Result<Response<RevokeX509UpstreamAuthorityResponse>, Status> {
        Err(Status::failed_precondition(NO_UPSTREAM))
    }

    steps! {
        prepare_x509_authority(PrepareX509AuthorityRequest) -> PrepareX509AuthorityResponse { prepared_authority }:
            Kind::X509, |_| Step::Prepare;
        activate_x509_authority(ActivateX509AuthorityRequest) -> ActivateX509AuthorityResponse { activated_authority }:
            Kind::X509, |asked| Step::Activate(&asked.authority_id);
        taint_x509_authority(TaintX509AuthorityRequest) -> TaintX509AuthorityResponse { tainted_authority }:
            Kind::X509, |asked| Step::Taint(&asked.authority_id);
        revoke_x509_authority(RevokeX509AuthorityRequest) -> RevokeX509AuthorityResponse { revoked_authority }:
            Kind::X509, |asked| Step::Revoke(&asked.authority_id);
        prepare_jwt_authority(PrepareJwtAuthorityRequest) -> PrepareJwtAuthorityResponse { prepared_authority }:
            Kind::Jwt, |_| Step::Prepare;
        activate_jwt_authority(ActivateJwtAuthorityRequest) -> ActivateJwtAuthorityResponse { activated_authority }:
            Kind::Jwt, |asked| Step::Activate(&asked.authority_id);
        taint_jwt_authority(TaintJwtAuthorityRequest) -> TaintJwtAuthorityResponse { tainted_authority }:
            Kind::Jwt, |asked| Step::Taint(&asked.authority_id);
        revoke_jwt_authority(RevokeJwtAuthorityRequest) -> RevokeJwtAuthorityResponse { revoked_authority }:
            Kind::Jwt, |asked| Step::Revoke(&asked.authority_id);
    }

    absent! {
        get_wit_authority_state(GetWitAuthorityStateRequest) -> GetWitAuthorityStateResponse;
        prepare_wit_authority(PrepareWitAuthorityRequest) -> PrepareWitAuthorityResponse;
        activate_wit_authority(ActivateWitAuthorityRequest) -> ActivateWitAuthorityResponse;
        taint_wit_authority(TaintWitAuthorityRequest) -> TaintWitAuthorityResponse;
        revoke_wit_authority(RevokeWitAuthorityRequest) -> RevokeWitAuthorityResponse;
    }
}
