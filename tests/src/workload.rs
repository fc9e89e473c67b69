//! The Workload API as a workload meets it: raw gRPC over the socket, without a SPIFFE library between, so that
//! a test can also send what no library would.

use std::path::Path;

use anyhow::Context;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;

pub use crate::node::channel;
use crate::wait::DEADLINE;

/// The metadata that every request must carry (SPIFFE Workload Endpoint §3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Adds the metadata that every request must carry.
#[derive(Debug, Clone, Copy)]
pub struct Header;

impl Interceptor for Header {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert(SECURITY_HEADER, value);
        Ok(request)
    }
}

/// A client that behaves.
pub type WorkloadApi = SpiffeWorkloadApiClient<InterceptedService<Channel, Header>>;

/// A client on a connection of its own.
///
/// # Errors
/// When nobody listens there.
pub async fn connect(socket: &Path) -> anyhow::Result<WorkloadApi> {
    Ok(SpiffeWorkloadApiClient::with_interceptor(
        channel(socket).await?,
        Header,
    ))
}

/// The next message of a stream.
///
/// # Errors
/// The status with which it ends, or `DeadlineExceeded` when nothing comes, or `OutOfRange` at a good end.
pub async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    match timeout(DEADLINE, stream.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Status::out_of_range("the stream ended without an error")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no message within {} s",
            DEADLINE.as_secs()
        ))),
    }
}

/// Certificates in DER that stand one after the other.
///
/// # Errors
/// When the bytes are anything else.
pub fn certificates(mut der: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    use x509_parser::prelude::FromDer;
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::certificate::X509Certificate::from_der(der)?;
        let (one, _) = der
            .split_at_checked(der.len() - rest.len())
            .context("a rest that is longer")?;
        found.push(one.to_vec());
        der = rest;
    }
    Ok(found)
}
