//! The server's pushed changes (`vouchsafe.sync.v1`) as a source: one stream, opened anew where it ended, and at once
//! where the agent's own SVID has been renewed.

pub mod protocol;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use vouchsafe_proto::vouchsafe::sync::v1::{FollowRequest, FollowResponse};

use crate::knowledge::{Knowledge, News};
use crate::status::SyncMode;
use crate::upstream::client::{CALL_TIMEOUT, Link};
use crate::upstream::{EntrySource, Upstream, UpstreamError};
use protocol::{Following, Heard, ProtocolError};

/// A stream that ended in good order after a shorter life is not opened again at once: the server could not keep it.
pub(super) const SHORTEST_LIFE: Duration = Duration::from_secs(5);

/// Follows what the server pushes.
#[derive(Debug)]
pub struct Push {
    upstream: Upstream,
    stream: Option<Stream>,
}

/// An open stream.
#[derive(Debug)]
struct Stream {
    link: Link,
    opened: Instant,
    following: Following,
    requests: mpsc::Sender<FollowRequest>,
    answers: Streaming<FollowResponse>,
    /// Why the stream must not go on, though what it told last was good.
    fault: Option<ProtocolError>,
}

impl Push {
    /// Follows this server.
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            stream: None,
        }
    }

    async fn open(&self, known: &Knowledge) -> Result<Stream, UpstreamError> {
        let link = self.upstream.link();
        let (following, hello) = Following::begin(known);
        let (requests, sent) = mpsc::channel(2);
        let ended = |_| UpstreamError::Unavailable("the stream could not be opened".to_owned());
        requests.send(hello).await.map_err(ended)?;
        let call = Upstream::follow(link.channel(), ReceiverStream::new(sent));
        let opened = tokio::time::timeout(CALL_TIMEOUT, call).await;
        let opened = opened.unwrap_or_else(|_elapsed| Err(late()));
        let answers = opened.map_err(|status| self.upstream.judge(&link, status))?;
        Ok(Stream {
            link,
            opened: Instant::now(),
            following,
            requests,
            answers,
            fault: None,
        })
    }

    /// What came of the next message on the stream; `None`: the stream is over, and another one is to be opened at once.
    async fn hear(&self, stream: &mut Stream, known: &Knowledge) -> Result<Option<Heard>, UpstreamError> {
        if let Some(fault) = stream.fault.take() {
            return Err(nonsense(&fault));
        }
        let catching_up = stream.following.is_catching_up();
        let overdue = async {
            match catching_up {
                true => tokio::time::sleep(CALL_TIMEOUT).await,
                false => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            message = stream.answers.message() => message,
            () = overdue => Err(late()),
            () = self.upstream.replaced(&stream.link) => return Ok(None),
        };
        match message {
            Ok(Some(message)) => {
                let heard = stream.following.hear(message, known);
                heard.map(Some).map_err(|error| nonsense(&error))
            }
            Ok(None) => Err(UpstreamError::Unavailable(
                "the server ended the stream".to_owned(),
            )),
            Err(status) => {
                let error = self.upstream.judge(&stream.link, status);
                // The server said that it ends a stream which has grown old, or our old SVID was superseded meanwhile.
                let at_once = error.retry_after() == Some(Duration::ZERO);
                let replaced = self.upstream.is_replaced(&stream.link);
                match replaced || (at_once && stream.opened.elapsed() >= SHORTEST_LIFE) {
                    true => Ok(None),
                    false => Err(error),
                }
            }
        }
    }

    /// The next news on the stream; `None`: another one is to be opened at once.
    async fn next_on(&self, stream: &mut Stream, known: &Knowledge) -> Result<Option<News>, UpstreamError> {
        loop {
            let Some(heard) = self.hear(stream, known).await? else {
                return Ok(None);
            };
            stream.fault = heard.fault;
            if let Some(reply) = heard.reply {
                tracing::warn!(
                    "what the agent knows differs from what the server holds for it: asking for all of it"
                );
                let gone = |_| UpstreamError::Unavailable("the server does not listen any more".to_owned());
                stream.requests.send(reply).await.map_err(gone)?;
            }
            if let Some(news) = heard.news {
                return Ok(Some(news));
            }
        }
    }
}

fn late() -> tonic::Status {
    tonic::Status::deadline_exceeded("no answer in time")
}

fn nonsense(error: &ProtocolError) -> UpstreamError {
    if *error == ProtocolError::Digest {
        tracing::error!(%error, "the agent and its server do not agree on the agent's entries and bundles");
    }
    UpstreamError::Nonsense(error.to_string())
}

#[async_trait]
impl EntrySource for Push {
    async fn next(&mut self, known: &Knowledge) -> Result<News, UpstreamError> {
        let mut before = self.stream.take();
        loop {
            let mut stream = match before.take() {
                Some(stream) => stream,
                None => self.open(known).await?,
            };
            if let Some(news) = self.next_on(&mut stream, known).await? {
                self.stream = Some(stream);
                return Ok(news);
            }
            // The old stream is let go of when the new one stands.
            let next = self.open(known).await?;
            drop(stream);
            before = Some(next);
        }
    }

    fn mode(&self) -> SyncMode {
        SyncMode::Push
    }
}
