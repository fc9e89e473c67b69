//! Our values as messages of our own services.

use time::OffsetDateTime;
use vouchsafe_attestors::{Evidence, Trust};
use vouchsafe_identity::Selector;
use vouchsafe_proto::vouchsafe::agent::v1::RunMembership;
use vouchsafe_proto::vouchsafe::types::v1 as types;

use crate::runs::Run;

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

/// What a process is to its run, and the id that it gets by it.
pub fn membership(run: &Run, main: bool, spiffe_id: String) -> RunMembership {
    let (calls, last_call) = run.calls();
    RunMembership {
        run_id: run.id.to_string(),
        class: run.class.to_string(),
        task: run.task.clone(),
        main,
        main_pid: run.main().pid().unwrap_or_default(),
        spiffe_id,
        launcher_uid: run.launcher.uid,
        parent_run_id: run.launcher.parent.map(String::from).unwrap_or_default(),
        expires_at: Some(moment(run.expires_at())),
        calls,
        last_call_at: (last_call > 0).then_some(prost_types::Timestamp {
            seconds: last_call,
            nanos: 0,
        }),
        selectors: run.selectors.iter().map(ToString::to_string).collect(),
    }
}

/// A moment, in whole seconds.
pub fn moment(moment: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: moment.unix_timestamp(),
        nanos: 0,
    }
}
