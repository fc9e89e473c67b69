//! Which of this attestor's selectors are looked for only where an entry has one of them.

use vouchsafe_identity::Selector;

use super::NAME;

pub(super) const ANCESTOR: &str = "process:ancestor";
pub(super) const CGROUP: &str = "process:cgroup";
pub(super) const CWD: &str = "process:cwd";
pub(super) const IMMUTABLE: &str = "process:immutable";
pub(super) const INTERPRETER_PATH: &str = "process:interpreter_path";
pub(super) const INTERPRETER_SHA256: &str = "process:interpreter_sha256";
pub(super) const INVOCATION: &str = "process:systemd_invocation_id";
pub(super) const LOCK: &str = "process:lock_sha256";
pub(super) const NON_DUMPABLE: &str = "process:non_dumpable";
/// Each package is asked for by its name.
pub(super) const PACKAGE: &str = "process:package:";
pub(super) const UNIT: &str = "process:systemd_unit";
pub(super) const VENV: &str = "process:venv";

/// What is asked for as a whole.
const WHOLE: [&str; 11] = [
    ANCESTOR,
    CGROUP,
    CWD,
    IMMUTABLE,
    INTERPRETER_PATH,
    INTERPRETER_SHA256,
    INVOCATION,
    LOCK,
    NON_DUMPABLE,
    UNIT,
    VENV,
];

/// What an entry with this selector asks for, if that is not looked for anyhow.
#[must_use]
pub fn ask(selector: &Selector) -> Option<String> {
    if selector.kind() != NAME {
        return None;
    }
    let (name, value) = selector.value().split_once(':')?;
    if name == "package" {
        let (package, _version) = value.split_once("==")?;
        return Some(format!("{PACKAGE}{}", normal(package)));
    }
    let known = WHOLE
        .iter()
        .find(|what| what.split_once(':') == Some((NAME, name)));
    known.map(|what| (*what).to_owned())
}

/// The name of a package as the Python Packaging Authority normalises it: small letters, one `-` between the parts.
pub(super) fn normal(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.extend(c.to_lowercase()),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_asked_for_by_name_and_the_rest_as_a_whole() {
        for (selector, asked) in [
            (
                "process:package:Foo__Bar.baz==1.0",
                Some("process:package:foo-bar-baz"),
            ),
            ("process:package:foo", None),
            ("process:venv:/a:b", Some("process:venv")),
            ("process:systemd_unit:a.service", Some("process:systemd_unit")),
            ("process:script:/a", None),
            ("process:venv", None),
            ("unix:venv:/a", None),
        ] {
            let found = ask(&selector.parse().unwrap());
            assert_eq!(found.as_deref(), asked, "{selector}");
        }
    }
}
