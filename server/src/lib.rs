//! The Vouchsafe server: certificate authority, registry, audit over gRPC.
