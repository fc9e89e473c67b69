//! End-to-end tests: real daemons, real clients.
