//! The Vouchsafe node agent: attests processes, serves the SPIFFE Workload API.
