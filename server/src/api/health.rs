//! `grpc.health.v1.Health`, as SPIRE serves it: one service without a name, which serves while there is a bundle.

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::Api;

/// How often a watcher's status is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Api {
    /// Whether there is a bundle by which what we sign can be verified.
    pub(super) fn serving(&self) -> bool {
        let bundle = self.ca.bundle();
        !bundle.x509_authorities.is_empty() && !bundle.jwt_authorities.is_empty()
    }

    fn health(&self) -> HealthCheckResponse {
        let status = match self.serving() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        HealthCheckResponse {
            status: status.into(),
        }
    }
}

#[async_trait]
impl Health for Api {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        whole_server(request.get_ref())?;
        Ok(Response::new(self.health()))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        whole_server(request.get_ref())?;
        let api = self.clone();
        let stopping = self.stopping.clone();
        let news = stream::unfold((api, None), |(api, last)| async move {
            loop {
                let now = api.health();
                if last != Some(now) {
                    return Some((Ok(now), (api, Some(now))));
                }
                api.clock.sleep(LOOK_EVERY).await;
            }
        });
        let news = news.take_until(stopping.cancelled_owned());
        Ok(Response::new(Box::pin(news)))
    }
}

fn whole_server(request: &HealthCheckRequest) -> Result<(), Status> {
    if request.service.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_argument(
        "only the health of the whole server is told: leave `service` empty",
    ))
}
