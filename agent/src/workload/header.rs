//! The metadata that a caller must send, so that a program that was tricked into sending a request elsewhere (SSRF)
//! cannot reach the Workload API (SPIFFE Workload Endpoint §3).

use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// The key, which must come exactly once with the value `true`.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Refuses a request without the header.
///
/// # Errors
/// `InvalidArgument`, in the words that clients know from SPIRE.
pub fn demand(request: Request<()>) -> Result<Request<()>, Status> {
    match is_there(request.metadata()) {
        true => Ok(request),
        false => Err(Status::invalid_argument("security header missing from request")),
    }
}

fn is_there(metadata: &MetadataMap) -> bool {
    let mut values = metadata.get_all(SECURITY_HEADER).iter();
    values.next().is_some_and(|value| value == "true") && values.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&'static str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(SECURITY_HEADER, value.parse().unwrap());
        }
        metadata
    }

    #[test]
    fn workload_endpoint_3_the_header_must_come_exactly_once_and_be_true() {
        assert!(is_there(&with(&["true"])));
        for wrong in [
            &[][..],
            &["false"],
            &["True"],
            &["true", "true"],
            &["true", "false"],
            &[""],
        ] {
            assert!(!is_there(&with(wrong)), "{wrong:?}");
        }
    }
}
