//! One module for each package, nested as its name. Nothing here is written by hand but the tree itself.
#![expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "the code in these modules is generated"
)]

/// SPIRE's APIs, field by field as SPIRE has them.
pub mod spire {
    /// The public APIs.
    pub mod api {
        /// What the server offers.
        pub mod server {
            /// Node agents.
            pub mod agent {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.agent.v1");
                }
            }
            /// Bundles, own and federated.
            pub mod bundle {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.bundle.v1");
                }
            }
            /// A look into the running server.
            pub mod debug {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.debug.v1");
                }
            }
            /// Registration entries.
            pub mod entry {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.entry.v1");
                }
            }
            /// The server's signing keys.
            pub mod localauthority {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.localauthority.v1");
                }
            }
            /// The log's level.
            pub mod logger {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.logger.v1");
                }
            }
            /// Issuing of SVIDs.
            pub mod svid {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.svid.v1");
                }
            }
            /// Federation relationships.
            pub mod trustdomain {
                /// Version 1.
                pub mod v1 {
                    tonic::include_proto!("spire.api.server.trustdomain.v1");
                }
            }
        }
        /// What the services have in common.
        pub mod types {
            tonic::include_proto!("spire.api.types");
        }
    }
}

/// What SPIRE and SPIFFE lack.
pub mod vouchsafe {
    /// The agent's admin socket.
    pub mod agent {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.agent.v1");
        }
    }
    /// The agent's launch socket.
    pub mod launch {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.launch.v1");
        }
    }
    /// Classes and runs.
    pub mod run {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.run.v1");
        }
    }
    /// The server's admin socket.
    pub mod server {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.server.v1");
        }
    }
    /// What a server tells its agents of changes.
    pub mod sync {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.sync.v1");
        }
    }
    /// What the services have in common.
    pub mod types {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.types.v1");
        }
    }
    /// The workload socket, next to the SPIFFE Workload API.
    pub mod workload {
        /// Version 1.
        pub mod v1 {
            tonic::include_proto!("vouchsafe.workload.v1");
        }
    }
}

/// The SPIFFE Workload API, whose file names no package.
pub mod workload {
    tonic::include_proto!("_");
}
