//! Why a server could not start, and with which exit code that ends the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use vouchsafe_ca::CaError;
use vouchsafe_runtime::handed::HandedError;
use vouchsafe_runtime::metrics::MetricsError;
use vouchsafe_runtime::tls::TlsError;
use vouchsafe_runtime::uds::BindError;
use vouchsafe_runtime::{ExitCode, KeyError};
use vouchsafe_store::StoreError;

use crate::api::ReflectionError;
use crate::config::BadConfig;

/// What could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] BadConfig),
    /// The TLS listener's address.
    #[error("cannot listen on `{address}`: choose another `listen`, or stop what listens there")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The admin socket.
    #[error("cannot bind the admin socket")]
    AdminSocket(#[from] BindError),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// What the service manager handed over.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// The data directory.
    #[error("cannot make `data_dir` `{path}`")]
    DataDir {
        /// The directory.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key manager.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The certificate authority.
    #[error("cannot start the certificate authority")]
    Ca(#[from] CaError),
    /// The server's own identity.
    #[error("cannot make the server's own SVID: {0}")]
    Identity(String),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Reflection.
    #[error(transparent)]
    Reflection(#[from] ReflectionError),
    /// The process is ending.
    #[error("starting was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

impl AppError {
    /// How the process ends.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Handed(_) => ExitCode::Config,
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitCode::NoPermission
            }
            Self::Listen { .. } | Self::AdminSocket(_) | Self::Metrics(_) => ExitCode::Unavailable,
            Self::Store(e) => of_store(e),
            Self::Keys(e) | Self::Ca(CaError::Keys(e)) => of_keys(e),
            Self::Ca(CaError::Store(e)) => of_store(e),
            Self::DataDir { .. } => ExitCode::Io,
            _ => ExitCode::Software,
        }
    }
}

fn of_store(error: &StoreError) -> ExitCode {
    match error {
        StoreError::Locked { .. } => ExitCode::TempFail,
        _ => ExitCode::Io,
    }
}

fn of_keys(error: &KeyError) -> ExitCode {
    match error {
        KeyError::Exposed { .. } => ExitCode::NoPermission,
        _ => ExitCode::Io,
    }
}

/// Makes the data directory, for its owner only, and makes its name durable; one that is there stays as it is.
pub(crate) fn make_data_dir(dir: &Path) -> Result<(), AppError> {
    let failed = |source| AppError::DataDir {
        path: dir.display().to_string(),
        source,
    };
    let missing: Vec<_> = dir.ancestors().take_while(|folder| !folder.exists()).collect();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed)?;
    // A folder's name is kept by the folder above it: without this, a loss of power takes all that is inside.
    for folder in missing {
        let above = folder.parent().filter(|above| !above.as_os_str().is_empty());
        let above = File::open(above.unwrap_or(Path::new(".")));
        above.and_then(|above| above.sync_all()).map_err(failed)?;
    }
    Ok(())
}
