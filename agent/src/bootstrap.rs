//! How the agent knows its server before it has joined: by a bundle that the operator put there, or not at all.

use std::path::Path;

use vouchsafe_identity::{Bundle, BundleError, TrustDomain};

use crate::config::Config;

/// Longest bundle file in bytes.
const MAX_BUNDLE_BYTES: u64 = 4 * 1024 * 1024;

/// By what the server is known.
#[derive(Debug, Clone)]
pub enum Bootstrap {
    /// By these authorities.
    Bundle(Bundle),
    /// By nothing: whoever answers first is believed.
    Insecure,
}

/// Why a bundle file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// It cannot be read.
    #[error("cannot read trust bundle `{path}`")]
    Unreadable {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It is longer than a bundle.
    #[error("trust bundle `{0}` is longer than the limit of {MAX_BUNDLE_BYTES} bytes")]
    TooLong(String),
    /// It holds no bundle.
    #[error("trust bundle `{path}` is neither PEM nor a SPIFFE JWK set")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// It has no certificate.
    #[error("trust bundle `{0}` has no X.509 authority")]
    Empty(String),
}

impl Bootstrap {
    /// What the configuration says.
    ///
    /// # Errors
    /// [`BootstrapError`] when the bundle file cannot be used.
    pub fn of(config: &Config) -> Result<Self, BootstrapError> {
        match &config.trust_bundle {
            Some(path) => read(path, &config.trust_domain).map(Self::Bundle),
            None => Ok(Self::Insecure),
        }
    }
}

fn read(path: &Path, trust_domain: &TrustDomain) -> Result<Bundle, BootstrapError> {
    use std::io::Read;

    let name = || path.display().to_string();
    let unreadable = |source| BootstrapError::Unreadable { path: name(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_BUNDLE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_BUNDLE_BYTES) {
        return Err(BootstrapError::TooLong(name()));
    }
    let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let parsed = match is_json {
        true => Bundle::from_jwks(trust_domain.clone(), &bytes),
        false => Bundle::from_pem(trust_domain.clone(), &bytes),
    };
    let bundle = parsed.map_err(|source| BootstrapError::Malformed { path: name(), source })?;
    if bundle.x509_authorities.is_empty() {
        return Err(BootstrapError::Empty(name()));
    }
    Ok(bundle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &[u8]) -> Result<Bundle, BootstrapError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        std::fs::write(&path, text).unwrap();
        read(&path, &TrustDomain::new("example.org").unwrap())
    }

    #[test]
    fn what_is_no_bundle_is_refused() {
        for text in [
            &b""[..],
            b"hello",
            b"{",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let refused = read_text(text);
            assert!(
                matches!(
                    refused,
                    Err(BootstrapError::Malformed { .. } | BootstrapError::Empty(_))
                ),
                "{refused:?}"
            );
        }
        let no_x509 = read_text(br#"{"keys":[]}"#);
        assert!(matches!(
            no_x509,
            Err(BootstrapError::Empty(_) | BootstrapError::Malformed { .. })
        ));
        let missing = read(
            Path::new("/nonexistent/bundle"),
            &TrustDomain::new("example.org").unwrap(),
        );
        assert!(matches!(missing, Err(BootstrapError::Unreadable { .. })));
    }

    #[test]
    fn pem_and_jwks_say_the_same() {
        let authority = crate::testing::authority();
        let bundle = authority.bundle();
        let pem = read_text(bundle.to_pem().as_bytes()).unwrap();
        let jwks = read_text(&bundle.to_jwks().unwrap()).unwrap();
        let certificates = |bundle: &Bundle| -> Vec<Vec<u8>> {
            bundle
                .x509_authorities
                .iter()
                .map(|one| one.certificate.clone())
                .collect()
        };
        assert_eq!(certificates(&pem), certificates(&bundle));
        assert_eq!(certificates(&jwks), certificates(&bundle));
    }
}
