//! A stream of the Workload API: a message now, and again after each change that concerns the caller.

use std::sync::Arc;

use futures_util::Stream;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use zeroize::Zeroizing;

use super::{PATIENCE, Parts, unheard};
use crate::caller::Caller;
use crate::knowledge::Knowledge;

/// What a stream tells its caller.
pub trait Topic: Send + 'static {
    /// The message.
    type Message: Message + 'static;

    /// The message for this moment. `late`: patience has run out, so what is there must do.
    fn frame(
        &mut self,
        parts: &Parts,
        known: &Knowledge,
        caller: &Caller,
        late: bool,
    ) -> Frame<Self::Message>;
}

/// What a topic has to say.
#[derive(Debug)]
pub enum Frame<M> {
    /// This is how things are.
    Settled(M),
    /// This is how things are, and more is on its way: look again when patience has run out.
    Passing(M),
    /// Nothing can be said yet.
    Pending,
    /// The stream ends.
    Over(Status),
}

struct Feed<T> {
    parts: Parts,
    caller: Caller,
    topic: T,
    known: watch::Receiver<Arc<Knowledge>>,
    svids: watch::Receiver<u64>,
    patience: Option<Instant>,
    sent: Option<Digest>,
    over: bool,
}

/// SHA-256.
type Digest = aws_lc_rs::digest::Digest;

/// Streams a topic to a caller.
pub fn stream<T: Topic>(
    parts: Parts,
    caller: Caller,
    topic: T,
) -> impl Stream<Item = Result<T::Message, Status>> + Send {
    let feed = Feed {
        known: parts.knowledge.changes(),
        svids: parts.x509.changes(),
        parts,
        caller,
        topic,
        patience: None,
        sent: None,
        over: false,
    };
    futures_util::stream::unfold(feed, Feed::next)
}

impl<T: Topic> Feed<T> {
    /// The next message; after an error, the end.
    async fn next(mut self) -> Option<(Result<T::Message, Status>, Self)> {
        if self.over {
            return None;
        }
        let next = self.message().await;
        self.over = next.is_err();
        Some((next, self))
    }

    async fn message(&mut self) -> Result<T::Message, Status> {
        loop {
            // Marked as seen first: what changes while the message is made is seen in the next round.
            let known = Arc::clone(&self.known.borrow_and_update());
            self.svids.borrow_and_update();
            if let Some(message) = self.look(&known)? {
                // Whoever is not what it was gets nothing.
                self.parts.gate.check(&self.caller.connection).await?;
                return Ok(message);
            }
            self.change().await?;
        }
    }

    /// The message for this moment, if it is a new one.
    fn look(&mut self, known: &Knowledge) -> Result<Option<T::Message>, Status> {
        let late = self.patience.is_some_and(|until| until <= Instant::now());
        let frame = match known.complete {
            true => self.topic.frame(&self.parts, known, &self.caller, late),
            false if late => Frame::Over(unheard()),
            false => Frame::Pending,
        };
        let message = match frame {
            Frame::Over(status) => return Err(status),
            Frame::Pending => {
                self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                return Ok(None);
            }
            Frame::Passing(message) => {
                self.patience.get_or_insert_with(|| Instant::now() + PATIENCE);
                message
            }
            Frame::Settled(message) => {
                self.patience = None;
                message
            }
        };
        let digest = digest(&message);
        if self
            .sent
            .as_ref()
            .is_some_and(|sent| sent.as_ref() == digest.as_ref())
        {
            return Ok(None);
        }
        self.sent = Some(digest);
        Ok(Some(message))
    }

    /// Waits until the message may be another one.
    async fn change(&mut self) -> Result<(), Status> {
        let patience = self.patience.filter(|until| *until > Instant::now());
        let late = async {
            match patience {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let stopping = || Status::unavailable("the agent is stopping");
        tokio::select! {
            () = self.parts.stopping.cancelled() => Err(stopping()),
            changed = self.known.changed() => changed.map_err(|_| stopping()),
            changed = self.svids.changed() => changed.map_err(|_| stopping()),
            () = late => Ok(()),
        }
    }
}

/// Stands for a message that was sent, without keeping the keys in it.
fn digest(message: &impl Message) -> Digest {
    let bytes = Zeroizing::new(message.encode_to_vec());
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes)
}
