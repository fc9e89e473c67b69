//! The two sockets: services, limits, reflection.

use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic_reflection::server::Builder as Reflection;
use vouchsafe_proto::FILE_DESCRIPTOR_SET;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_server::AgentAdminServer;
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_server::WorkloadInfoServer;
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::metrics::CallMeter;
use vouchsafe_runtime::uds::{GuardedListener, PlainListener};

use super::AppError;
use crate::admin::Admin;
use crate::caller::{ExecWatch, connection};
use crate::config::Limits;
use crate::workload::info::Info;
use crate::workload::service::Service;
use crate::workload::{Parts, header};

/// Answers of reflection and of JWT bundles can be larger than requests.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Serves the Workload API.
pub(super) fn workload(
    listener: GuardedListener,
    (parts, meter): (Parts, CallMeter),
    execs: ExecWatch,
    limits: &Limits,
    group: &TaskGroup,
) -> Result<(), AppError> {
    let largest = limits.max_request.as_usize();
    let workload = SpiffeWorkloadApiServer::new(Service(parts.clone()))
        .max_decoding_message_size(largest)
        .max_encoding_message_size(MAX_ANSWER_BYTES);
    let gate = std::sync::Arc::clone(&parts.gate);
    let info = WorkloadInfoServer::new(Info(parts)).max_decoding_message_size(largest);
    let names = ["SpiffeWorkloadAPI", "vouchsafe.workload.v1.WorkloadInfo"];
    let (v1, v1alpha) = (
        reflection(&names)
            .build_v1()
            .map_err(|e| AppError::Api(e.to_string()))?,
        reflection(&names)
            .build_v1alpha()
            .map_err(|e| AppError::Api(e.to_string()))?,
    );
    // The header is demanded of every request on this endpoint, of reflection too.
    let router = Server::builder()
        .max_concurrent_streams(limits.max_streams_per_connection)
        .layer(meter)
        .layer(InterceptorLayer::new(header::demand))
        .add_service(workload)
        .add_service(info)
        .add_service(v1)
        .add_service(v1alpha);
    let connections = connection::incoming(listener, gate, execs, group);
    let stopping = group.stopping();
    group.essential("workload api", async move {
        router
            .serve_with_incoming_shutdown(connections, stopping.cancelled_owned())
            .await
    });
    Ok(())
}

/// Serves the admin socket.
pub(super) fn admin(
    listener: PlainListener,
    admin: Admin,
    limits: &Limits,
    group: &TaskGroup,
) -> Result<(), AppError> {
    let service = AgentAdminServer::new(admin).max_decoding_message_size(limits.max_request.as_usize());
    let names = ["vouchsafe.agent.v1.AgentAdmin"];
    let reflection = reflection(&names)
        .build_v1()
        .map_err(|e| AppError::Api(e.to_string()))?;
    let router = Server::builder()
        .max_concurrent_streams(limits.max_streams_per_connection)
        .add_service(service)
        .add_service(reflection);
    let stopping = group.stopping();
    group.essential("admin api", async move {
        router
            .serve_with_incoming_shutdown(listener.into_incoming(), stopping.cancelled_owned())
            .await
    });
    Ok(())
}

/// Tells of these services alone.
fn reflection(names: &[&str]) -> Reflection<'static> {
    names.iter().fold(
        Reflection::configure().register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET),
        |builder, name| builder.with_service_name(*name),
    )
}

/// Keeps the caches in step with what is known.
pub(super) async fn follow(parts: Parts) {
    let mut changes = parts.knowledge.changes();
    let mut seen = 0;
    loop {
        let known = std::sync::Arc::clone(&changes.borrow_and_update());
        parts.x509.follow_since(&known, seen);
        parts.jwt.follow_since(&known, seen);
        seen = known.version;
        if changes.changed().await.is_err() {
            return;
        }
    }
}
