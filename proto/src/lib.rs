//! Generated gRPC types: SPIFFE Workload API, SPIRE's APIs, Vouchsafe's own.
