//! What can go wrong when the kernel is asked about a process.

use std::io;

use nix::errno::Errno;

/// Why the kernel gave no answer about a process, a socket or a namespace.
#[derive(Debug, thiserror::Error)]
pub enum SysError {
    /// The process has ended and was reaped, or never was.
    #[error("the process is gone")]
    Gone,
    /// The process lives in a PID namespace that cannot be seen from here, so it has no number here.
    #[error("the process belongs to a PID namespace that is not visible from here")]
    ForeignPidNamespace,
    /// The kernel refused: the caller's privileges do not reach that far.
    #[error("{call} is not permitted")]
    NotPermitted {
        /// What was asked of the kernel.
        call: &'static str,
    },
    /// The running kernel is too old.
    #[error("{feature} needs Linux {kernel} or newer; run on such a kernel")]
    Unsupported {
        /// What was asked of the kernel.
        feature: &'static str,
        /// The first kernel release that has it.
        kernel: &'static str,
    },
    /// A file under /proc does not have the form that the kernel documents.
    #[error("`/proc/{pid}/{file}` is not in the expected form")]
    Malformed {
        /// The process whose file it is.
        pid: i32,
        /// The file's name within the process's folder.
        file: &'static str,
    },
    /// Any other failure of a system call.
    #[error("{call} failed")]
    Call {
        /// What was asked of the kernel.
        call: &'static str,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

impl SysError {
    /// Sorts a system call's error into what it means for a question about a process.
    pub(crate) fn of_call(call: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::ESRCH => Self::Gone,
            Errno::EREMOTE => Self::ForeignPidNamespace,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { call },
            other => Self::Call {
                call,
                source: other.into(),
            },
        }
    }

    /// The same for an error of reading a file under `/proc/PID`, where "not found" means "gone".
    pub(crate) fn of_proc(call: &'static str, error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ESRCH) => Self::Gone,
            Some(Errno::EPERM | Errno::EACCES) => Self::NotPermitted { call },
            _ => Self::Call { call, source: error },
        }
    }
}

impl From<SysError> for io::Error {
    /// Of the kind that the kernel's answer has, so that a caller can tell a timeout.
    fn from(error: SysError) -> Self {
        let kind = match &error {
            SysError::Gone => io::ErrorKind::NotFound,
            SysError::NotPermitted { .. } => io::ErrorKind::PermissionDenied,
            SysError::Unsupported { .. } => io::ErrorKind::Unsupported,
            SysError::Malformed { .. } => io::ErrorKind::InvalidData,
            SysError::ForeignPidNamespace => io::ErrorKind::Other,
            SysError::Call { source, .. } => source.kind(),
        };
        Self::new(kind, error)
    }
}
