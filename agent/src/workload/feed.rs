//! A stream of the Workload API: a message now, and again after each change that concerns the caller.

use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use vouchsafe_attestors::Asked;
use zeroize::Zeroizing;

use super::hold::Hold;
use super::{PATIENCE, Parts, stopping, unheard};
use crate::cache::slots::Watcher;
use crate::caller::{Caller, CallerError};
use crate::knowledge::Knowledge;
use crate::runs::Standing;

/// What a stream tells its caller.
pub trait Topic: Send + 'static {
    /// The message.
    type Message: Message + 'static;

    /// The message for this moment. `watcher` wakes the stream by SVIDs that it holds. `late`: patience has run out, so
    /// what is there must do.
    fn frame(
        &mut self,
        parts: &Parts,
        known: &Knowledge,
        caller: &Caller,
        watcher: &Watcher,
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
    /// The caller matches nothing, for which this is the answer.
    Unmatched(Status),
    /// The stream ends.
    Over(Status),
}

struct Feed<T> {
    parts: Parts,
    caller: Caller,
    topic: T,
    known: watch::Receiver<Arc<Knowledge>>,
    /// Wakes this stream when something becomes of an SVID that it holds.
    watcher: Watcher,
    /// The version of what was known at the last look; `None`: there is to be a look whatever changed.
    seen: Option<u64>,
    patience: Option<Instant>,
    hold: Hold,
    sent: Option<Digest>,
    over: bool,
}

/// SHA-256.
type Digest = aws_lc_rs::digest::Digest;

/// Streams a topic to a caller. What can be said at once is there when the stream is, so that it leaves together with the
/// head of the answer.
pub async fn stream<T: Topic>(
    parts: Parts,
    caller: Caller,
    topic: T,
) -> impl Stream<Item = Result<T::Message, Status>> + Send + use<T> {
    let mut feed = Feed {
        known: parts.knowledge.changes(),
        watcher: Watcher::default(),
        hold: parts.holding.begin(&caller),
        parts,
        caller,
        topic,
        seen: None,
        patience: None,
        sent: None,
        over: false,
    };
    let first = feed.at_once().await.transpose();
    feed.over = matches!(first, Some(Err(_)));
    futures_util::stream::iter(first).chain(futures_util::stream::unfold(feed, Feed::next))
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
            if let Some(message) = self.at_once().await? {
                return Ok(message);
            }
            self.change().await?;
        }
    }

    /// The message for this moment, if there is a new one.
    async fn at_once(&mut self) -> Result<Option<T::Message>, Status> {
        loop {
            // Marked as seen first: what changes while the message is made is seen in the next round.
            let known = Arc::clone(&self.known.borrow_and_update());
            let seen = match self.is_another_by_what_is_asked(&known).await? {
                true => None,
                false => self.seen,
            };
            self.seen = Some(known.version);
            // Most changes are others': telling that is cheaper than to make the same message again.
            if !seen.is_none_or(|seen| known.concerns(seen, &self.caller.selectors)) {
                return Ok(None);
            }
            let Some(message) = self.look(&known)? else {
                return Ok(None);
            };
            if self.is_another_since_held().await? {
                continue;
            }
            // Whoever is not what it was gets nothing.
            self.parts.may_answer(&self.caller).await?;
            return Ok(Some(message));
        }
    }

    /// Measures a caller again where entries ask for more than it was measured for; whether it has other selectors than
    /// before.
    async fn is_another_by_what_is_asked(&mut self, known: &Knowledge) -> Result<bool, Status> {
        if self.caller.is_measured_for(&known.entries) {
            return Ok(false);
        }
        self.measure_again(known.entries.asked()).await
    }

    async fn measure_again(&mut self, asked: &Asked) -> Result<bool, Status> {
        let caller = self.parts.gate.measure_again(&self.caller, asked).await?;
        let before = std::mem::replace(&mut self.caller, caller);
        Ok(before.selectors != self.caller.selectors)
    }

    /// Measures a caller again that was held; whether it has other selectors than before, so that the message is not
    /// for it.
    async fn is_another_since_held(&mut self) -> Result<bool, Status> {
        if !self.hold.release() {
            return Ok(false);
        }
        let known = Arc::clone(&self.known.borrow());
        if !self.measure_again(known.entries.asked()).await? {
            return Ok(false);
        }
        (self.sent, self.seen) = (None, None);
        Ok(true)
    }

    /// The message for this moment, if it is a new one.
    fn look(&mut self, known: &Knowledge) -> Result<Option<T::Message>, Status> {
        let late = self.patience.is_some_and(|until| until <= Instant::now());
        let frame = match known.complete {
            true => {
                let watcher = &self.watcher;
                self.topic.frame(&self.parts, known, &self.caller, watcher, late)
            }
            false if late => Frame::Over(unheard()),
            false => Frame::Pending,
        };
        let message = match frame {
            Frame::Over(status) => return Err(status),
            // Who had something has lost it, and hears of it at once.
            Frame::Unmatched(status) if self.sent.is_some() => return Err(status),
            Frame::Unmatched(status) => {
                self.patience = None;
                self.hold.keep(status)?;
                return Ok(None);
            }
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
            match patience.into_iter().chain(self.hold.until()).min() {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.parts.stopping.cancelled() => return Err(stopping()),
            over = over(&self.caller.standing) => return Err(over),
            changed = self.known.changed() => return changed.map_err(|_| stopping()),
            () = self.watcher.woken() => {}
            () = late => {}
        }
        self.seen = None;
        Ok(())
    }
}

/// Waits until the caller's run has no identity any more.
async fn over(standing: &Standing) -> Status {
    match standing {
        Standing::Of(member) => CallerError::from(member.run.ended().await).into(),
        Standing::Outside => std::future::pending().await,
    }
}

/// Stands for a message that was sent, without keeping the keys in it.
fn digest(message: &impl Message) -> Digest {
    let bytes = Zeroizing::new(message.encode_to_vec());
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes)
}
