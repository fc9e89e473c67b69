//! The calls of one connection, answered in the connection's own task as far as they get without waiting. One that
//! waits goes on in a task of its own.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tower::BoxError;

use super::gathered::Gathered;

/// Time after which other connections get their turn.
const LONGEST_TURN: Duration = Duration::from_millis(1);
/// Most times that a connection is looked at in one turn.
const LOOKS_PER_TURN: usize = 4;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What came on a connection and was not begun. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Calls(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    calls: Mutex<VecDeque<Call>>,
    ear: Arc<Ear>,
}

impl Calls {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Call> {
        self.lock().pop_front()
    }

    fn ear(&self) -> &Arc<Ear> {
        &self.0.ear
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Calls {
    fn execute(&self, call: F) {
        self.lock().push_back(Box::pin(call));
        self.ear().wake_by_ref();
    }
}

/// Answers a call, or lets it go on by itself.
fn begin(mut call: Call) {
    // The task that it goes on in asks it again at once, so that nothing wakes the one that nobody listens to.
    let mut context = Context::from_waker(Waker::noop());
    // A call that panics ends alone, as it would in a task of its own.
    let begun = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context)));
    if matches!(begun, Ok(Poll::Pending)) {
        TokioExecutor::new().execute(call);
    }
}

/// Hears what wakes the connection. What does so in the connection's own turn is seen at the end of the turn, and the
/// runtime need not hear of it.
#[derive(Default)]
struct Ear {
    in_turn: AtomicBool,
    heard: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Ear {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.heard.store(true, Ordering::SeqCst);
        if !self.in_turn.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

/// A connection of HTTP/2 together with its calls and its bytes.
pub(super) struct Answering<C, T> {
    http: Pin<Box<C>>,
    calls: Calls,
    bytes: Gathered<T>,
    waker: Waker,
}

impl<C, T> Answering<C, T>
where
    C: Future<Output = hyper::Result<()>>,
    T: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(http: C, calls: Calls, bytes: Gathered<T>) -> Self {
        Self {
            http: Box::pin(http),
            waker: Waker::from(Arc::clone(calls.ear())),
            calls,
            bytes,
        }
    }

    /// The connection alone.
    pub(super) fn http(&mut self) -> Pin<&mut C> {
        self.http.as_mut()
    }

    /// Looks at the connection and begins its calls, until there is nothing to do or others are to have their turn; then
    /// what is to be said is sent.
    fn turn(&mut self) -> Poll<Result<(), BoxError>> {
        let mut context = Context::from_waker(&self.waker);
        let heard = &self.calls.ear().heard;
        let over = Instant::now() + LONGEST_TURN;
        for _ in 0..LOOKS_PER_TURN {
            heard.store(false, Ordering::SeqCst);
            if let Poll::Ready(ended) = self.http.as_mut().poll(&mut context) {
                // Calls that came last are dropped, as all streams of a connection that is gone.
                return Poll::Ready(ended.map_err(Into::into));
            }
            while Instant::now() < over
                && let Some(call) = self.calls.next()
            {
                begin(call);
            }
            if !heard.load(Ordering::SeqCst) {
                break;
            }
        }
        match self.bytes.poll_sent(&mut context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Pending,
        }
    }
}

impl<C, T> Future for Answering<C, T>
where
    C: Future<Output = hyper::Result<()>>,
    T: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ear = Arc::clone(self.calls.ear());
        ear.task.register(context.waker());
        ear.in_turn.store(true, Ordering::SeqCst);
        let ended = self.turn();
        ear.in_turn.store(false, Ordering::SeqCst);
        if ended.is_pending() && (ear.heard.load(Ordering::SeqCst) || !self.calls.lock().is_empty()) {
            context.waker().wake_by_ref();
        }
        ended
    }
}
