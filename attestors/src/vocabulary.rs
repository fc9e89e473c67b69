//! How far selectors can be trusted by their names alone: what server and command line judge entries by. Attestors say it
//! of each finding; a test holds them to this list.

use vouchsafe_identity::Selector;

use crate::Trust;

/// Types of which a process, or its user, could have arranged every selector, but for those of [`MEASURED`].
const ASSERTED_TYPES: [&str; 1] = ["process"];

/// What is measured of such types, by what the whole selector begins with.
const MEASURED: [&str; 7] = [
    "process:cgroup:",
    "process:immutable:program",
    "process:interpreter_path:",
    "process:interpreter_sha256:",
    "process:non_dumpable:",
    "process:systemd_invocation_id:",
    "process:systemd_unit:",
];

/// How far a selector of this name can be trusted. What is not known of a type that asserts counts as asserted.
#[must_use]
pub fn trust_of(selector: &Selector) -> Trust {
    if !ASSERTED_TYPES.contains(&selector.kind()) {
        return Trust::Measured;
    }
    let text = selector.to_string();
    match MEASURED.iter().any(|begins| text.starts_with(begins)) {
        true => Trust::Measured,
        false => Trust::Asserted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_count_as_a_whole_and_unknown_ones_are_asserted() {
        for (text, trust) in [
            ("unix:uid:0", Trust::Measured),
            ("process:script:/a", Trust::Asserted),
            ("process:cgroup:/a", Trust::Measured),
            ("process:cgroups:/a", Trust::Asserted),
            ("process:cgroup", Trust::Asserted),
            ("process:immutable:program", Trust::Measured),
            ("process:immutable:script", Trust::Asserted),
            ("process:what:ever", Trust::Asserted),
            ("process:interpreter:python3", Trust::Asserted),
        ] {
            assert_eq!(trust_of(&text.parse().unwrap()), trust, "{text}");
        }
    }
}
