//! SVIDs as PEM files: keys readable by their owner alone from the moment they exist.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pem::Pem;
use vouchsafe_proto::workload::X509svidResponse;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::error::CliError;

/// What an update may consist of: the start and the end of each file's name, with its number between.
const FILES: [(&str, &str); 4] = [
    ("svid.", ".pem"),
    ("svid.", ".key"),
    ("bundle.", ".pem"),
    ("federated_bundle.", ".pem"),
];

/// Writes `svid.N.pem`, `svid.N.key`, `bundle.N.pem` and `federated_bundle.N.pem`, and removes those of an
/// earlier update that this one has not (SPIFFE Workload API §4.4).
pub(crate) fn write_x509(dir: &Path, response: &X509svidResponse) -> Result<(), CliError> {
    for (n, svid) in response.svids.iter().enumerate() {
        let chain = certificate_pem(&svid.x509_svid)?;
        let key = pem::encode(&Pem::new("PRIVATE KEY", svid.x509_svid_key.clone()));
        put(&dir.join(format!("svid.{n}.pem")), chain.as_bytes(), 0o644)?;
        private(&dir.join(format!("svid.{n}.key")), key.as_bytes())?;
        put(
            &dir.join(format!("bundle.{n}.pem")),
            certificate_pem(&svid.bundle)?.as_bytes(),
            0o644,
        )?;
    }
    for (n, bundle) in response.federated_bundles.values().enumerate() {
        let path = dir.join(format!("federated_bundle.{n}.pem"));
        put(&path, certificate_pem(bundle)?.as_bytes(), 0o644)?;
    }
    for (start, end) in FILES {
        let held = if start == "federated_bundle." {
            response.federated_bundles.len()
        } else {
            response.svids.len()
        };
        withdraw(dir, start, end, held)?;
    }
    Ok(())
}

/// Removes the files of this kind whose numbers are beyond those that are held.
fn withdraw(dir: &Path, start: &str, end: &str, held: usize) -> Result<(), CliError> {
    let failed = |action, path: &Path, source| CliError::File {
        action,
        path: path.to_owned(),
        source,
    };
    let entries = fs::read_dir(dir).map_err(|error| failed("read", dir, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| failed("read", dir, error))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(start)?.strip_suffix(end)?.parse::<usize>().ok());
        if number.is_some_and(|number| number >= held) {
            let path = entry.path();
            fs::remove_file(&path).map_err(|error| failed("remove", &path, error))?;
        }
    }
    Ok(())
}

/// Writes a file that only its owner can read.
pub(crate) fn private(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    put(path, bytes, 0o600)
}

/// Writes beside and renames over, so that a reader sees the old file or the new one, whole.
fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CliError> {
    let failed = |source| CliError::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new.{}", std::process::id()));
    let beside = std::path::PathBuf::from(name);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _absent = fs::remove_file(&beside);
        failed(error)
    })
}

/// The certificates of a concatenation of DER, as the Workload API sends them.
pub(crate) fn certificates(mut der: &[u8]) -> Result<Vec<Vec<u8>>, CliError> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|error| CliError::Answer {
            what: "agent",
            reason: format!("a certificate cannot be read: {error}"),
        })?;
        found.extend(der.get(..der.len() - rest.len()).map(<[u8]>::to_vec));
        der = rest;
    }
    Ok(found)
}

fn certificate_pem(der: &[u8]) -> Result<String, CliError> {
    let pems: Vec<Pem> = certificates(der)?
        .into_iter()
        .map(|der| Pem::new("CERTIFICATE", der))
        .collect();
    Ok(pem::encode_many(&pems))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use vouchsafe_proto::workload::X509svid;

    use super::*;

    #[test]
    fn keys_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("svid.0.key");
        private(&path, b"one").unwrap();
        private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn workload_api_4_4_what_an_update_has_not_must_not_be_kept() {
        let dir = tempfile::tempdir().unwrap();
        let svid = X509svid {
            x509_svid_key: b"key".to_vec(),
            ..X509svid::default()
        };
        let mut response = X509svidResponse {
            svids: vec![svid.clone(), svid],
            ..X509svidResponse::default()
        };
        for name in ["spiffe://a.org", "spiffe://b.org"] {
            response.federated_bundles.insert(name.to_owned(), Vec::new());
        }
        fs::write(dir.path().join("svid.note.pem"), "mine").unwrap();
        write_x509(dir.path(), &response).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 9);
        response.svids.pop();
        response.federated_bundles.clear();
        write_x509(dir.path(), &response).unwrap();
        let mut left: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["bundle.0.pem", "svid.0.key", "svid.0.pem", "svid.note.pem"]
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let refused = private(Path::new("/nonexistent/x.key"), b"k").unwrap_err();
        assert!(refused.to_string().contains("/nonexistent/x.key"));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        assert!(certificates(b"not der").is_err());
        assert!(certificates(b"").unwrap().is_empty());
    }
}
