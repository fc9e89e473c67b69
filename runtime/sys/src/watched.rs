//! Waits, within tokio, until a descriptor of ours becomes readable.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::proc_events::ProcEvents;
use crate::{PidFd, raw};

/// Types that own one descriptor from birth to death, and always name that one.
pub trait OneDescriptor: AsRawFd + sealed::Sealed {}

impl OneDescriptor for PidFd {}
impl OneDescriptor for Arc<ProcEvents> {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::PidFd {}
    impl Sealed for super::Arc<super::ProcEvents> {}
}

/// A pidfd or an event socket whose readability can be awaited. A pidfd becomes readable when its process
/// exits, and stays so.
#[derive(Debug)]
pub struct Watched<T: OneDescriptor>(AsyncFd<T>);

impl<T: OneDescriptor> Watched<T> {
    /// Registers with tokio's reactor. Must be called within a runtime.
    ///
    /// # Errors
    /// Where the reactor takes no more descriptors.
    pub fn new(inner: T) -> io::Result<Self> {
        raw::register_readable(inner).map(Self)
    }

    /// What is watched.
    #[must_use]
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Waits until it is readable. Clear the guard once a read would block.
    ///
    /// # Errors
    /// Where the reactor has shut down.
    pub async fn readable(&self) -> io::Result<AsyncFdReadyGuard<'_, T>> {
        self.0.readable().await
    }
}
