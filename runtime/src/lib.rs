//! What both daemons share: clock, tasks, readiness, config, telemetry, keys, TLS, unix sockets.
