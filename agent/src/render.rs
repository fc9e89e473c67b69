//! Our values as messages of our own services.

use time::OffsetDateTime;
use vouchsafe_attestors::{Evidence, Trust};
use vouchsafe_identity::Selector;
use vouchsafe_proto::vouchsafe::types::v1 as types;

/// What an attestor found, with its trust; in order, none twice.
pub fn findings(evidence: &Evidence) -> Vec<types::Selector> {
    let mut findings: Vec<_> = evidence.findings.iter().collect();
    findings.sort();
    findings.dedup();
    findings
        .into_iter()
        .map(|finding| selector(&finding.selector, Some(finding.trust)))
        .collect()
}

/// A selector, with its trust where that is known.
pub fn selector(selector: &Selector, trust: Option<Trust>) -> types::Selector {
    let trust = match trust {
        Some(Trust::Measured) => types::Trust::Measured,
        Some(Trust::Asserted) => types::Trust::Asserted,
        None => types::Trust::Unspecified,
    };
    types::Selector {
        r#type: selector.kind().to_owned(),
        value: selector.value().to_owned(),
        trust: trust.into(),
    }
}

/// A moment, in whole seconds.
pub fn moment(moment: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.unix_timestamp(),
        nanos: 0,
    }
}
