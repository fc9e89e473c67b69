//! The operator's steps with the signing keys. A step for which the keys are in the wrong state is left out.

use tonic::transport::Channel;
use tonic::{Code, Status};
use vouchsafe_proto::spire::api::server::bundle::v1::GetBundleRequest;
use vouchsafe_proto::spire::api::server::bundle::v1::bundle_client::BundleClient;
use vouchsafe_proto::spire::api::server::localauthority::v1 as wire;
use wire::local_authority_client::LocalAuthorityClient;

use crate::steps::Kind;

/// Prepares an authority; its id, and its certificate where it has one. `None`: not now.
pub(crate) async fn prepare(operator: Channel, kind: Kind) -> anyhow::Result<Option<String>> {
    let mut client = LocalAuthorityClient::new(operator);
    let prepared = match kind {
        Kind::X509 => {
            let prepared = client
                .prepare_x509_authority(wire::PrepareX509AuthorityRequest {})
                .await;
            prepared.map(|answer| id(answer.into_inner().prepared_authority))
        }
        Kind::Jwt => {
            let prepared = client
                .prepare_jwt_authority(wire::PrepareJwtAuthorityRequest {})
                .await;
            prepared.map(|answer| id(answer.into_inner().prepared_authority))
        }
    };
    unless_untimely(prepared.map(Some))
}

/// Activates the authority that was prepared.
pub(crate) async fn activate(operator: Channel, kind: Kind, authority_id: String) -> anyhow::Result<()> {
    let mut client = LocalAuthorityClient::new(operator);
    let outcome = match kind {
        Kind::X509 => {
            let asked = wire::ActivateX509AuthorityRequest { authority_id };
            client.activate_x509_authority(asked).await.map(drop)
        }
        Kind::Jwt => {
            let asked = wire::ActivateJwtAuthorityRequest { authority_id };
            client.activate_jwt_authority(asked).await.map(drop)
        }
    };
    unless_untimely(outcome)
}

/// The certificates of all X.509 authorities in the server's bundle.
pub(crate) async fn published(operator: Channel) -> anyhow::Result<Vec<Vec<u8>>> {
    let bundle = BundleClient::new(operator)
        .get_bundle(GetBundleRequest::default())
        .await?;
    let authorities = bundle.into_inner().x509_authorities.into_iter();
    Ok(authorities.map(|authority| authority.asn1).collect())
}

/// Taints the authority before the present one.
pub(crate) async fn taint(operator: Channel, kind: Kind) -> anyhow::Result<()> {
    let mut client = LocalAuthorityClient::new(operator);
    let outcome = async {
        match (kind, old(&mut client, kind).await?) {
            (_, None) => Ok(()),
            (Kind::X509, Some(authority_id)) => {
                let asked = wire::TaintX509AuthorityRequest { authority_id };
                client.taint_x509_authority(asked).await.map(drop)
            }
            (Kind::Jwt, Some(authority_id)) => {
                let asked = wire::TaintJwtAuthorityRequest { authority_id };
                client.taint_jwt_authority(asked).await.map(drop)
            }
        }
    };
    unless_untimely(outcome.await)
}

/// Revokes the authority before the present one, if it is tainted.
pub(crate) async fn revoke(operator: Channel, kind: Kind) -> anyhow::Result<()> {
    let mut client = LocalAuthorityClient::new(operator);
    let outcome = async {
        match (kind, old(&mut client, kind).await?) {
            (_, None) => Ok(()),
            (Kind::X509, Some(authority_id)) => {
                let asked = wire::RevokeX509AuthorityRequest { authority_id };
                client.revoke_x509_authority(asked).await.map(drop)
            }
            (Kind::Jwt, Some(authority_id)) => {
                let asked = wire::RevokeJwtAuthorityRequest { authority_id };
                client.revoke_jwt_authority(asked).await.map(drop)
            }
        }
    };
    unless_untimely(outcome.await)
}

/// The certificates of the tainted X.509 authorities.
pub(crate) async fn tainted(operator: Channel) -> anyhow::Result<Vec<Vec<u8>>> {
    let bundle = BundleClient::new(operator)
        .get_bundle(GetBundleRequest::default())
        .await?;
    let authorities = bundle.into_inner().x509_authorities.into_iter();
    Ok(authorities
        .filter(|authority| authority.tainted)
        .map(|authority| authority.asn1)
        .collect())
}

async fn old(client: &mut LocalAuthorityClient<Channel>, kind: Kind) -> Result<Option<String>, Status> {
    let old = match kind {
        Kind::X509 => {
            let state = client
                .get_x509_authority_state(wire::GetX509AuthorityStateRequest {})
                .await?;
            state.into_inner().old
        }
        Kind::Jwt => {
            let state = client
                .get_jwt_authority_state(wire::GetJwtAuthorityStateRequest {})
                .await?;
            state.into_inner().old
        }
    };
    Ok(old.map(|old| old.authority_id))
}

fn id(authority: Option<wire::AuthorityState>) -> String {
    authority
        .map(|authority| authority.authority_id)
        .unwrap_or_default()
}

fn unless_untimely<T: Default>(outcome: Result<T, Status>) -> anyhow::Result<T> {
    match outcome {
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Unimplemented) => {
            Ok(T::default())
        }
        other => Ok(other?),
    }
}
