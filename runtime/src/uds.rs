//! Unix sockets: bound with their mode, accepted with the process at the other end, read frame by frame.
//! `guarded` is for sockets that identities rest on: only the process that connected may write.
//! `plain` is for admin sockets, which rest on the socket file's mode. Neither decides what a peer may do.

pub mod frames;
pub mod guarded;
mod limits;
mod listener;
mod mended;
mod passing;
mod peer;
pub mod plain;
mod presence;
mod throttle;

pub use guarded::{GuardError, GuardedListener, GuardedStream};
pub use limits::ConnectionLimits;
pub use listener::{BindError, Listener, MAX_PATH_BYTES, SocketConfig, bind, check_group};
pub use passing::PassingStream;
pub use peer::{Passed, Peer, PlainPeer};
pub use plain::{PlainListener, PlainStream};
pub use presence::{Presence, PresenceError};
pub use throttle::Throttle;
