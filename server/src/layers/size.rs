//! How large a message may be: read off each message's length before its bytes are taken in (gRPC over HTTP/2).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use prometheus_client::metrics::counter::Counter;
use tonic::Status;
use tonic::body::Body;
use vouchsafe_runtime::ByteSize;

use super::call::Call;
use super::step::{Handler, Next, Request, Response, Step};
use crate::config::Limits;
use crate::metrics::Refused;

/// A message begins with one byte of flags and four of length.
const PREFIX_BYTES: usize = 5;

/// Limits messages.
#[derive(Debug)]
pub struct MessageSize {
    known: Largest,
    anonymous: Largest,
}

/// How large a message may be, by which key of the configuration.
#[derive(Debug, Clone)]
struct Largest {
    bytes: usize,
    key: &'static str,
    refused: Counter,
}

impl MessageSize {
    /// The limits of the config.
    pub fn new(limits: &Limits, refused: &Refused) -> Self {
        let largest = |size: ByteSize, key| Largest {
            bytes: size.as_usize(),
            key,
            refused: refused.watch(key),
        };
        Self {
            known: largest(limits.max_request_size, "max_request_size"),
            anonymous: largest(limits.max_anonymous_request_size, "max_anonymous_request_size"),
        }
    }
}

impl Step for MessageSize {
    async fn handle<S: Handler>(&self, request: Request, next: Next<S>) -> Response {
        let call = request.extensions().get::<Arc<Call>>();
        let anonymous = call.is_none_or(|call| call.peer.is_anonymous());
        let limit = if anonymous { &self.anonymous } else { &self.known };
        let limit = limit.clone();
        next.run(request.map(|body| Body::new(Limited::new(body, limit))))
            .await
    }
}

/// A body whose messages keep to a limit.
struct Limited {
    inner: Body,
    limit: Largest,
    prefix: [u8; PREFIX_BYTES],
    have: usize,
    left: usize,
}

impl Limited {
    fn new(inner: Body, limit: Largest) -> Self {
        Self {
            inner,
            limit,
            prefix: [0; PREFIX_BYTES],
            have: 0,
            left: 0,
        }
    }

    /// Walks over bytes; an error when a message that is too long begins in them.
    fn walk(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skip = self.left.min(bytes.len());
                self.left -= skip;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else {
                break;
            };
            bytes = rest;
            if let Some(place) = self.prefix.get_mut(self.have) {
                *place = *first;
            }
            self.have += 1;
            if self.have == PREFIX_BYTES {
                let [_flags, a, b, c, d] = self.prefix;
                let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                if len > self.limit.bytes {
                    let Largest { bytes, key, refused } = &self.limit;
                    refused.inc();
                    let text =
                        format!("a message of {len} bytes is longer than the limit `{key}` of {bytes} bytes");
                    return Err(Status::resource_exhausted(text));
                }
                (self.have, self.left) = (0, len);
            }
        }
        Ok(())
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = this.walk(data)
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(PREFIX_BYTES + len, 7);
        bytes
    }

    proptest! {
        /// However the bytes are cut, the first message over the limit is refused, and only then.
        #[test]
        fn a_message_over_the_limit_is_seen_in_any_cut(
            lens in prop::collection::vec(0..40_usize, 0..6),
            cut in 1..50_usize,
        ) {
            let bytes: Vec<u8> = lens.iter().flat_map(|len| message(*len)).collect();
            let limit = Largest { bytes: 20, key: "k", refused: Counter::default() };
            let mut limited = Limited::new(Body::empty(), limit);
            let refused = bytes.chunks(cut).any(|chunk| limited.walk(chunk).is_err());
            prop_assert_eq!(refused, lens.iter().any(|len| *len > 20));
        }
    }
}
