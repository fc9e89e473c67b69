//! Streams of responses that a plain async function writes.

use std::future::Future;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// The stream that goes to the caller.
pub(super) type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where the function puts its responses.
pub(super) struct Outgoing<T>(mpsc::Sender<T>);

impl<T> Outgoing<T> {
    /// Sends one response; waits while the caller does not read.
    pub(super) async fn send(&self, response: T) -> Result<(), Status> {
        let sent = self.0.send(response).await;
        sent.map_err(|_| Status::cancelled("the caller left"))
    }
}

/// Runs a function as the source of a stream: it goes on while the caller reads, and is dropped with the stream.
pub(super) fn conversation<T, F>(talk: impl FnOnce(Outgoing<T>) -> F) -> Responses<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    let run = talk(Outgoing(sender));
    let sent = ReceiverStream::new(receiver).map(Ok);
    let end = stream::once(run).filter_map(|outcome| std::future::ready(outcome.err().map(Err)));
    Box::pin(stream::select(sent, end))
}
