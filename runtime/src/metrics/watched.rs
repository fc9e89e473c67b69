//! Bodies of gRPC answers that see with which code their call ends.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::telemetry::traces::Span;

/// What hears of the end of a call. When it is dropped before, the call was cancelled.
pub(crate) trait Ending: Send + Unpin + 'static {
    /// The call has ended.
    fn ends_with(&mut self, code: Code);

    /// On whose behalf the body is made.
    fn span(&self) -> Option<&Span>;
}

/// The answer, which tells `ending` of its end.
pub(crate) fn watch<E: Ending>(response: http::Response<Body>, mut ending: E) -> http::Response<Body> {
    if let Some(status) = Status::from_header_map(response.headers()) {
        ending.ends_with(status.code());
        return response;
    }
    response.map(|inner| {
        Body::new(Watched {
            inner,
            ending: Some(ending),
        })
    })
}

struct Watched<E> {
    inner: Body,
    ending: Option<E>,
}

impl<E: Ending> Watched<E> {
    fn end(&mut self, code: Code) {
        if let Some(mut ending) = self.ending.take() {
            ending.ends_with(code);
        }
    }
}

impl<E: Ending> HttpBody for Watched<E> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = {
            let _on_behalf = this.ending.as_ref().and_then(Ending::span).map(Span::enter);
            ready!(Pin::new(&mut this.inner).poll_frame(cx))
        };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    this.end(status.code());
                }
            }
            Some(Err(status)) => this.end(status.code()),
            None => this.end(Code::Unknown),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
