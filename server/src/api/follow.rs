//! `vouchsafe.sync.v1.Sync`: the stream by which an agent hears of changes. What is told is reckoned by
//! `usecases::following`; here it becomes messages, at the pace at which the agent reads them.

pub mod hello;
mod messages;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vouchsafe_proto::vouchsafe::sync::v1::sync_server::Sync;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FollowResponse};
use vouchsafe_runtime::tls::TlsPeer;

use super::conversation::Responses;
use super::{Api, call};
use crate::caller::Proof;
use session::{Holder, Session};

#[async_trait]
impl Sync for Api {
    type FollowStream = Responses<FollowResponse>;

    async fn follow(
        &self,
        request: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let call = call(&request)?;
        let agent = call.agent().map_err(|status| *status)?.clone();
        let Proof::Svid {
            serial, expires_at, ..
        } = &call.peer.proof
        else {
            return Err(Status::permission_denied("the caller is not an agent"));
        };
        let tls = request.extensions().get::<Arc<TlsPeer>>();
        let holder = Holder {
            agent,
            serial: serial.clone(),
            expires_at: *expires_at,
            svid: tls.and_then(|peer| peer.svid.clone()),
        };
        // A task of its own: what it holds is given back in time, whether the agent reads or not.
        let (to, responses) = mpsc::channel(1);
        let (api, incoming) = (self.clone(), request.into_inner());
        self.tasks.passing("follow", async move {
            let agent = holder.agent.clone();
            let ended = Session::run(api, &call, holder, incoming, to.clone()).await;
            let reason = ended.as_ref().err().map(Status::message);
            tracing::debug!(spiffe_id = %agent, reason, "an agent does not follow any more");
            if let Err(status) = ended {
                // One that has left needs no answer.
                let _left = to.send(Err(status)).await;
            }
        });
        let stopped = stream::once(async { Err(Status::unavailable("the server is shutting down")) });
        let responses = ReceiverStream::new(responses).chain(stopped);
        Ok(Response::new(Box::pin(responses)))
    }
}
