//! The certificate authority: issuing and the life cycle of its keys.
