//! What the kernel says about other processes: pidfds, the sender of received bytes, namespaces,
//! process events. The only package with unsafe code, all of it in `raw`; everything public is safe.
//! It must not decide anything: who may do what is for its callers.

mod descriptors;
mod error;
mod launching;
mod namespace;
mod pidfd;
pub mod proc_events;
mod process;
mod raw;
mod reach;
mod socket;
mod watched;

pub use descriptors::{Message, receive_descriptors, send_descriptors};
pub use error::SysError;
pub use launching::{close_on_exec_from, default_signals, has_access_list, spawn_in_group};
pub use namespace::{NamespaceId, user_namespace_of};
pub use pidfd::{PidFd, PidInfo, ProcessIdentity};
pub use process::{AtRandom, AuxiliaryVector, start_time};
pub use reach::{Ids, writable_on_the_way};
pub use socket::{
    Credentials, Received, pass_credentials, pass_pidfd, peer_credentials, peer_pidfd, receive_with_sender,
};
pub use watched::{OneDescriptor, Watched};

#[cfg(test)]
mod tests;
