//! Callers of the Workload API, as a workload's SPIFFE library calls it: with the security header, on a connection
//! of their own or on one that they keep.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Streaming};
use vouchsafe_proto::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use vouchsafe_proto::workload::{JwtsvidRequest, JwtsvidResponse, X509svidRequest, X509svidResponse};

use crate::report::Times;
use crate::rig;
use crate::wait::DEADLINE;

/// The audience of all JWT-SVIDs that are asked for.
const AUDIENCE: &str = "bench";

/// The selectors of this process: where its program is, and what is in it.
///
/// # Errors
/// When the program cannot be read.
pub fn own_selectors() -> anyhow::Result<[String; 2]> {
    let program = std::env::current_exe()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &std::fs::read(&program)?);
    Ok([
        format!("path:{}", program.display()),
        format!("sha256:{}", hex::encode(digest)),
    ])
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// Opens a stream of X.509-SVIDs on a new connection.
///
/// # Errors
/// The status with which it is refused.
pub async fn stream(socket: &Path) -> anyhow::Result<Streaming<X509svidResponse>> {
    let mut client = SpiffeWorkloadApiClient::new(rig::socket(socket).await?);
    Ok(client
        .fetch_x509svid(with_header(X509svidRequest {}))
        .await?
        .into_inner())
}

/// The next message of a stream.
///
/// # Errors
/// The status with which it ends, or that nothing comes.
pub async fn message(stream: &mut Streaming<X509svidResponse>) -> anyhow::Result<X509svidResponse> {
    let next = timeout(DEADLINE, stream.message()).await;
    next.context("no message came")??.context("the stream ended")
}

/// The first message on a new connection.
///
/// # Errors
/// As [`stream`] and [`message`].
pub async fn x509(socket: &Path) -> anyhow::Result<X509svidResponse> {
    message(&mut stream(socket).await?).await
}

/// A JWT-SVID on a connection that stands.
///
/// # Errors
/// The status with which it is refused.
pub async fn jwt(channel: &Channel) -> anyhow::Result<JwtsvidResponse> {
    let request = JwtsvidRequest {
        audience: vec![AUDIENCE.to_owned()],
        spiffe_id: String::new(),
    };
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    Ok(client.fetch_jwtsvid(with_header(request)).await?.into_inner())
}

/// How a load went.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// How long each call took.
    pub times: Vec<Duration>,
    /// How long all of it took.
    pub took: Duration,
}

impl Load {
    /// Calls a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        f64::from(u32::try_from(self.times.len()).unwrap_or(u32::MAX)) / self.took.as_secs_f64()
    }

    /// The times in order.
    #[must_use]
    pub fn times(&self) -> Times {
        self.times.clone().into()
    }

    /// Adds another turn of the same load.
    pub fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.took += other.took;
    }
}

/// What callers ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// X.509-SVIDs, on a new connection each time.
    X509,
    /// JWT-SVIDs, each caller on a connection that it keeps.
    Jwt,
}

/// So many callers at once, for so long; an answer that is not the usual one ends it.
///
/// # Errors
/// When a call is refused.
pub async fn load(socket: &Path, ask: Ask, callers: usize, turn: Duration) -> anyhow::Result<Load> {
    let socket: Arc<Path> = socket.into();
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let socket = Arc::clone(&socket);
        tasks.spawn(async move {
            let mut times = Vec::new();
            let held = rig::socket(&socket).await?;
            while begun.elapsed() < turn {
                let asked = Instant::now();
                match ask {
                    Ask::X509 => {
                        let answer = x509(&socket).await?;
                        anyhow::ensure!(!answer.svids.is_empty(), "an answer without an SVID");
                    }
                    Ask::Jwt => {
                        let answer = jwt(&held).await?;
                        anyhow::ensure!(!answer.svids.is_empty(), "an answer without an SVID");
                    }
                }
                times.push(asked.elapsed());
            }
            Ok(times)
        });
    }
    let mut load = Load::default();
    while let Some(ended) = tasks.join_next().await {
        load.times.extend(ended??);
    }
    load.took = begun.elapsed();
    Ok(load)
}
