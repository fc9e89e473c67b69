//! What attestors find, and how far each finding can be trusted.

use serde::{Deserialize, Serialize};
use vouchsafe_identity::{Selector, SelectorSet};

/// Whether a selector can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Measured by us, from the kernel or the runtime.
    Measured,
    /// Anything that the process, or its uid, could have arranged itself.
    Asserted,
}

/// One selector with its trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Finding {
    /// The selector.
    pub selector: Selector,
    /// How it was found.
    pub trust: Trust,
}

/// A selector that was deliberately not given.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Withheld {
    /// Type and name of what is missing, such as `unix:path`.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// All that one measurement found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was found.
    pub findings: Vec<Finding>,
    /// What was not given, and why.
    pub withheld: Vec<Withheld>,
}

impl Evidence {
    /// Adds a measured selector.
    pub fn measured(&mut self, selector: Selector) {
        self.findings.push(Finding {
            selector,
            trust: Trust::Measured,
        });
    }

    /// Adds an asserted selector.
    pub fn asserted(&mut self, selector: Selector) {
        self.findings.push(Finding {
            selector,
            trust: Trust::Asserted,
        });
    }

    /// Notes that something is not given.
    pub fn withhold(&mut self, what: &str, reason: impl Into<String>) {
        self.withheld.push(Withheld {
            what: what.to_owned(),
            reason: reason.into(),
        });
    }

    /// Takes in what another attestor found.
    pub fn merge(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.withheld.extend(other.withheld);
    }

    /// The selectors alone, in order.
    pub fn selectors(&self) -> SelectorSet {
        self.findings
            .iter()
            .map(|finding| finding.selector.clone())
            .collect()
    }
}
