//! The two sockets: services, limits, reflection.

use std::convert::Infallible;
use std::sync::Arc;

use tonic::service::{InterceptorLayer, Routes};
use tonic_reflection::server::Builder as Reflection;
use tower::ServiceBuilder;
use vouchsafe_proto::FILE_DESCRIPTOR_SET;
use vouchsafe_proto::vouchsafe::agent::v1::agent_admin_server::AgentAdminServer;
use vouchsafe_proto::vouchsafe::launch::v1::launch_server::LaunchServer;
use vouchsafe_proto::vouchsafe::workload::v1::workload_info_server::WorkloadInfoServer;
use vouchsafe_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use vouchsafe_runtime::TaskGroup;
use vouchsafe_runtime::metrics::CallMeter;
use vouchsafe_runtime::serving::{self, Settings};
use vouchsafe_runtime::uds::{GuardedListener, PlainListener};

use super::AppError;
use crate::admin::Admin;
use crate::caller::{ExecWatch, Gate, connection};
use crate::config::Limits;
use crate::runs;
use crate::workload::info::Info;
use crate::workload::service::Service;
use crate::workload::{Parts, header};

/// Answers of reflection and of JWT bundles can be larger than requests.
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
/// Arguments and environment of a program, as the kernel takes them (ARG_MAX), in bytes.
const MAX_LAUNCH_BYTES: usize = 2 * 1024 * 1024;
/// Largest headers of a call, in bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

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
    let gate = Arc::clone(&parts.gate);
    let info = WorkloadInfoServer::new(Info(parts)).max_decoding_message_size(largest);
    let routes = Routes::new(workload).add_service(info);
    let names = ["SpiffeWorkloadAPI", "vouchsafe.workload.v1.WorkloadInfo"];
    guarded(
        "workload api",
        listener,
        (routes, &names),
        (gate, meter, execs),
        limits,
        group,
    )
}

/// Serves the launch socket.
pub(super) fn launch(
    listener: GuardedListener,
    (service, meter): (runs::service::Service, CallMeter),
    execs: ExecWatch,
    limits: &Limits,
    group: &TaskGroup,
) -> Result<(), AppError> {
    let gate = Arc::clone(&service.parts.gate);
    let routes = Routes::new(LaunchServer::new(service).max_decoding_message_size(MAX_LAUNCH_BYTES));
    let names = ["vouchsafe.launch.v1.Launch"];
    guarded(
        "launch api",
        listener,
        (routes, &names),
        (gate, meter, execs),
        limits,
        group,
    )
}

/// Serves callers whoever they are, each of whom is made out.
fn guarded(
    name: &'static str,
    listener: GuardedListener,
    (routes, names): (Routes, &[&str]),
    (gate, meter, execs): (Arc<Gate>, CallMeter, ExecWatch),
    limits: &Limits,
    group: &TaskGroup,
) -> Result<(), AppError> {
    let (v1, v1alpha) = (
        reflection(names)
            .build_v1()
            .map_err(|e| AppError::Api(e.to_string()))?,
        reflection(names)
            .build_v1alpha()
            .map_err(|e| AppError::Api(e.to_string()))?,
    );
    // The header is demanded of every request on this endpoint, of reflection too.
    let routes = routes.add_service(v1).add_service(v1alpha);
    let service = ServiceBuilder::new()
        .layer(meter)
        .layer(InterceptorLayer::new(header::demand))
        .service(routes.prepare());
    let connections = connection::incoming(listener, gate, execs, group);
    let (settings, stopping) = (settings(limits), group.stopping());
    group.essential(name, async move {
        serving::serve(service, connections, settings, stopping).await;
        Ok::<_, Infallible>(())
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
    let routes = Routes::new(service).add_service(reflection).prepare();
    let (settings, stopping) = (settings(limits), group.stopping());
    group.essential("admin api", async move {
        serving::serve(routes, listener.into_incoming(), settings, stopping).await;
        Ok::<_, Infallible>(())
    });
    Ok(())
}

/// Who is on the same host is seen to be there, and stays as long as it likes.
fn settings(limits: &Limits) -> Settings {
    Settings {
        max_calls: limits.max_streams_per_connection,
        max_header_bytes: MAX_HEADER_BYTES,
        keepalive_after: None,
        max_age: None,
    }
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
        let known = Arc::clone(&changes.borrow_and_update());
        parts.svids.x509.follow_since(&known, seen);
        parts.svids.jwt.follow_since(&known, seen);
        seen = known.version;
        if changes.changed().await.is_err() {
            return;
        }
    }
}
