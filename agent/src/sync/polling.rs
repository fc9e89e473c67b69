//! SPIRE's polling protocol as a source of entries and bundles: the whole state, every few seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use vouchsafe_identity::{Bundle, TrustDomain};
use vouchsafe_proto::spire::api::server::bundle::v1::{GetBundleRequest, GetFederatedBundleRequest};
use vouchsafe_runtime::Clock;
use vouchsafe_runtime::telemetry::traces::TracedChannel as Channel;

use super::protocol::{Exchange, Step};
use crate::entry::Entry;
use crate::knowledge::{Knowledge, News, Whole};
use crate::status::SyncMode;
use crate::upstream::convert;
use crate::upstream::{EntrySource, Upstream, UpstreamError};

/// Asks the server for everything, again and again.
#[derive(Debug)]
pub struct Polling {
    upstream: Upstream,
    interval: Duration,
    clock: Clock,
    /// The answer of the last time is used up: the next is due after the interval.
    asked: bool,
}

impl Polling {
    /// Asks that often.
    pub fn new(upstream: Upstream, interval: Duration, clock: Clock) -> Self {
        Self {
            upstream,
            interval,
            clock,
            asked: false,
        }
    }

    /// Waits until it is time to ask; not before the first time and after a failure.
    pub async fn pause(&self) {
        if self.asked {
            self.clock.sleep(self.interval).await;
        }
    }

    /// Asks for everything.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn ask(&mut self, known: &Knowledge) -> Result<News, UpstreamError> {
        self.asked = false;
        let whole = self.whole(known).await?;
        self.asked = true;
        Ok(News::Whole(whole))
    }

    async fn entries(&self, known: &Knowledge) -> Result<Vec<Arc<Entry>>, UpstreamError> {
        self.upstream
            .call(async |channel| exchange(channel, known).await)
            .await?
            .map_err(|e| UpstreamError::Nonsense(e.to_string()))
    }

    async fn bundle(&self) -> Result<Bundle, UpstreamError> {
        let request = GetBundleRequest::default();
        let answer = self
            .upstream
            .call(async |channel| Upstream::bundles(channel).get_bundle(request).await)
            .await?;
        convert::bundle(answer.into_inner())
    }

    /// A federated bundle; `None` where the server has none, or does not know of federation.
    async fn federated(&self, trust_domain: &TrustDomain) -> Result<Option<Bundle>, UpstreamError> {
        let request = GetFederatedBundleRequest {
            trust_domain: trust_domain.name().to_owned(),
            output_mask: None,
        };
        let answer = self
            .upstream
            .call(async |channel| {
                Upstream::bundles(channel)
                    .get_federated_bundle(request.clone())
                    .await
            })
            .await;
        match answer {
            Ok(answer) => {
                let bundle = convert::bundle(answer.into_inner())?;
                if bundle.trust_domain == *trust_domain {
                    return Ok(Some(bundle));
                }
                let text = format!("the bundle of `{}` for `{trust_domain}`", bundle.trust_domain);
                Err(UpstreamError::Nonsense(text))
            }
            Err(UpstreamError::Rejected {
                code: Code::NotFound | Code::Unimplemented,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn whole(&self, known: &Knowledge) -> Result<Whole, UpstreamError> {
        let entries = self.entries(known).await?;
        let own = self.bundle().await?;
        if own.trust_domain != known.trust_domain {
            let text = format!(
                "a server of trust domain `{}`, where `{}` is configured",
                own.trust_domain, known.trust_domain
            );
            return Err(UpstreamError::Nonsense(text));
        }
        let foreign: BTreeSet<&TrustDomain> = entries
            .iter()
            .flat_map(|entry| &entry.federates_with)
            .filter(|trust_domain| **trust_domain != known.trust_domain)
            .collect();
        let mut bundles = vec![own];
        let asked = foreign
            .into_iter()
            .map(async |one| (one, self.federated(one).await));
        for (trust_domain, answer) in join_all(asked).await {
            match answer {
                Ok(bundle) => bundles.extend(bundle),
                Err(error @ UpstreamError::Refused(_)) => return Err(error),
                // One foreign bundle must not keep entries from being followed.
                Err(error) => {
                    tracing::warn!(%trust_domain, %error, "no news of a federated bundle: the known one stays");
                    bundles.extend(
                        known
                            .bundles
                            .get(trust_domain)
                            .map(|bundle| Bundle::clone(bundle)),
                    );
                }
            }
        }
        Ok(Whole {
            entries,
            bundles,
            resume: None,
            ..Whole::default()
        })
    }
}

/// One exchange of entries, from the first request to the whole set.
async fn exchange(
    channel: Channel,
    known: &Knowledge,
) -> Result<Result<Vec<Arc<Entry>>, super::protocol::ProtocolError>, tonic::Status> {
    let (mut exchange, first) = Exchange::begin(known.entries.iter().cloned());
    let (requests, sent) = mpsc::channel(1);
    let gone = || tonic::Status::unavailable("the server ended the exchange of entries early");
    requests.send(first).await.map_err(|_| gone())?;
    let mut answers = Upstream::entries(channel)
        .sync_authorized_entries(ReceiverStream::new(sent))
        .await?
        .into_inner();
    loop {
        let answer = answers.message().await?.ok_or_else(gone)?;
        match exchange.answer(answer) {
            Ok(Step::Wait) => {}
            Ok(Step::Send(request)) => requests.send(request).await.map_err(|_| gone())?,
            Ok(Step::Done(entries)) => return Ok(Ok(entries)),
            Err(error) => return Ok(Err(error)),
        }
    }
}

#[async_trait]
impl EntrySource for Polling {
    async fn next(&mut self, known: &Knowledge) -> Result<News, UpstreamError> {
        self.pause().await;
        self.ask(known).await
    }

    fn mode(&self) -> SyncMode {
        SyncMode::Poll
    }
}
