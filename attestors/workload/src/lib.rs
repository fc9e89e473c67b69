//! Workload attestors: unix, process.
