//! Audit records: what happened, who asked, why.
