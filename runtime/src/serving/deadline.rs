//! How long a client waits for an answer, in its own words: the header `grpc-timeout` (gRPC over HTTP/2, "Requests":
//! `TimeoutValue` and `TimeoutUnit`). Nobody works on for a client that has gone.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;

const HEADER: &str = "grpc-timeout";
/// Most digits of a value.
const MAX_DIGITS: usize = 8;

/// The header is not what gRPC has there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`grpc-timeout` is no number of at most {MAX_DIGITS} digits with one of the units H, M, S, m, u and n"
)]
pub(super) struct BadTimeout;

/// Answers, unless the client's time is over before that; a stream that has begun is not cut.
pub(super) async fn within_deadline<F: Future<Output = Response<Body>>>(
    request: Request<Body>,
    answer: impl FnOnce(Request<Body>) -> F,
) -> Result<Response<Body>, Infallible> {
    let most = match timeout(request.headers()) {
        Ok(most) => most,
        Err(error) => return Ok(Status::invalid_argument(error.to_string()).into_http()),
    };
    let answer = answer(request);
    let Some(most) = most else {
        return Ok(answer.await);
    };
    let late = |_| Status::deadline_exceeded("the time that the client gave is over").into_http();
    Ok(tokio::time::timeout(most, answer).await.unwrap_or_else(late))
}

/// What the headers say; nothing where they say nothing.
///
/// # Errors
/// [`BadTimeout`].
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, BadTimeout> {
    let Some(value) = headers.get(HEADER) else {
        return Ok(None);
    };
    let text = value.to_str().map_err(|_| BadTimeout)?;
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or(BadTimeout)?;
    let well_formed = (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !well_formed {
        return Err(BadTimeout);
    }
    let count: u64 = digits.parse().map_err(|_| BadTimeout)?;
    let time = match unit {
        "H" => Duration::from_secs(count * 60 * 60),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(BadTimeout),
    };
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Result<Option<Duration>, BadTimeout> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        timeout(&headers)
    }

    #[test]
    fn what_grpc_does_not_have_there_is_refused() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1 S",
            "123456789S",
            "1SS",
            "½S",
        ] {
            assert_eq!(of(text), Err(BadTimeout), "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, http::HeaderValue::from_bytes(b"1\xff").unwrap());
        assert_eq!(timeout(&headers), Err(BadTimeout));
    }

    #[test]
    fn each_unit_is_known() {
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        for (text, seconds) in [
            ("2H", 7200.0),
            ("2M", 120.0),
            ("2S", 2.0),
            ("2m", 2e-3),
            ("2u", 2e-6),
            ("2n", 2e-9),
        ] {
            assert_eq!(of(text), Ok(Some(Duration::from_secs_f64(seconds))), "{text}");
        }
        assert_eq!(of("99999999H"), Ok(Some(Duration::from_secs(99_999_999 * 3600))));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(value) = http::HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(HEADER, value);
                let _either_way = timeout(&headers);
            }
        }
    }
}
