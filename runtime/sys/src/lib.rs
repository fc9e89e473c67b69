//! The one module with unsafe code: pidfds, credentials of received bytes, namespace look-ups.
