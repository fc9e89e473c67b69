//! Bodies that watch what goes through them: one keeps something alive, one hears how the call ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

/// Keeps a value until the body ends.
pub(super) struct Keep<T> {
    inner: Body,
    _kept: T,
}

impl<T: Send + Unpin + 'static> Keep<T> {
    /// `inner`, with a value that lives as long.
    pub(super) fn around(inner: Body, kept: T) -> Body {
        Body::new(Self { inner, _kept: kept })
    }
}

impl<T: Unpin> HttpBody for Keep<T> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.get_mut().inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// How a call ended, from headers or trailers; `None` when they do not say.
pub(super) fn ended(headers: &HeaderMap) -> Option<(Code, Option<String>)> {
    let status = Status::from_header_map(headers)?;
    let reason = (!status.message().is_empty()).then(|| status.message().to_owned());
    Some((status.code(), reason))
}

/// Tells once how the call ended: by its trailers or an error. When the caller leaves, `tell` is dropped.
pub(super) struct Watched<F: FnOnce(Code, Option<String>)> {
    inner: Body,
    tell: Option<F>,
}

impl<F: FnOnce(Code, Option<String>) + Send + Unpin + 'static> Watched<F> {
    /// `inner`, with `tell` for its end.
    pub(super) fn around(inner: Body, tell: F) -> Body {
        Body::new(Self {
            inner,
            tell: Some(tell),
        })
    }
}

impl<F: FnOnce(Code, Option<String>)> Watched<F> {
    fn end(&mut self, code: Code, reason: Option<String>) {
        if let Some(tell) = self.tell.take() {
            tell(code, reason);
        }
    }
}

impl<F: FnOnce(Code, Option<String>) + Unpin> HttpBody for Watched<F> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some((code, reason)) = frame.trailers_ref().and_then(ended) {
                    this.end(code, reason);
                }
            }
            Some(Err(status)) => this.end(status.code(), Some(status.message().to_owned())),
            None => this.end(
                Code::Unknown,
                Some("the response ended without a status".to_owned()),
            ),
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
