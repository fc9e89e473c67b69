//! Keeps `tests/sabotage/` true to the tree: each patch is listed and each defence has its patch; a patch applies
//! and takes out shipped code only; each test that must fail under it is there. That the tests do fail without
//! the defence, `make sabotage` shows. Each rule runs here on a made-up tree that breaks it, too.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand};
use serde::Deserialize;
use vouchsafe_tests::repository;

/// Lines that a patch may add and remove in all: it takes one defence out, and does nothing else.
const MAX_CHANGED_LINES: usize = 16;

/// The contents of `tests/sabotage/defences.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defences {
    defence: Vec<Defence>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Defence {
    name: String,
    defends: String,
    package: String,
    tests: Vec<String>,
    #[serde(default)]
    binaries: bool,
}

/// A test by its package, the kind and name of its binary, and its full name there.
#[derive(Debug)]
struct Test<'a> {
    package: &'a str,
    binary: [&'a str; 2],
    name: &'a str,
}

impl<'a> Test<'a> {
    fn parse(text: &'a str, package: &'a str) -> Option<Self> {
        let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
        let package = match words.as_slice() {
            ["-p", other, ..] => {
                let other = *other;
                words.drain(..2);
                other
            }
            _ => package,
        };
        let (binary, name) = match words.as_slice() {
            ["--lib", name] => (["lib", package], *name),
            ["--test", binary, name] => (["test", *binary], *name),
            ["--bin", binary, name] => (["bin", *binary], *name),
            _ => return None,
        };
        Some(Self {
            package,
            binary,
            name,
        })
    }
}

/// Everything that a rule looks at.
struct Ground {
    top: PathBuf,
    defences: Vec<Defence>,
}

impl Ground {
    fn of(top: &Path) -> Self {
        let text = fs::read_to_string(top.join("tests/sabotage/defences.toml")).unwrap();
        let listed: Defences = toml::from_str(&text).unwrap();
        Self {
            top: top.to_owned(),
            defences: listed.defence,
        }
    }

    fn patch(&self, name: &str) -> PathBuf {
        self.top.join(format!("tests/sabotage/{name}.patch"))
    }

    /// A finding for each defence of which `rule` finds something.
    fn each(&self, rule: impl Fn(&Defence) -> Vec<String>) -> Vec<String> {
        let named = |defence| {
            rule(defence)
                .into_iter()
                .map(|text| format!("{}: {text}", defence.name))
        };
        self.defences.iter().flat_map(named).collect()
    }
}

fn patches_and_defences_are_the_same(ground: &Ground) -> Vec<String> {
    let mut findings = ground.each(|defence| {
        let mut lacking = Vec::new();
        if !ground.patch(&defence.name).is_file() {
            lacking.push("has no patch".to_owned());
        }
        if defence.defends.trim().is_empty() || defence.tests.is_empty() {
            lacking.push("says not what it defends, or by which tests that is shown".to_owned());
        }
        if defence.binaries && !tests_of(defence).any(|test| test.package == "vouchsafe-tests") {
            lacking.push("only tests of `vouchsafe-tests` run the binaries".to_owned());
        }
        lacking
    });
    let mut listed = BTreeSet::new();
    for defence in &ground.defences {
        if !listed.insert(defence.name.clone()) {
            findings.push(format!("{}: is listed twice", defence.name));
        }
    }
    for file in fs::read_dir(ground.top.join("tests/sabotage")).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let known = file
            .strip_suffix(".patch")
            .is_some_and(|name| listed.contains(name));
        if !known && file != "defences.toml" {
            findings.push(format!("{file}: no defence of this name is listed"));
        }
    }
    findings
}

fn patches_apply(ground: &Ground) -> Vec<String> {
    ground.each(|defence| {
        let output = Command::new("git")
            .current_dir(&ground.top)
            // The tree by itself, so that no repository around it, and nothing that is set there, counts.
            .env("GIT_CEILING_DIRECTORIES", ground.top.parent().unwrap())
            .args(["apply", "--check"])
            .arg(ground.patch(&defence.name))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Vec::new()
        } else {
            vec![format!("its patch does not apply: {}", said.trim())]
        }
    })
}

fn patches_touch_shipped_code_only(ground: &Ground) -> Vec<String> {
    ground.each(|defence| {
        let patch = fs::read_to_string(ground.patch(&defence.name)).unwrap_or_default();
        let changed = patch.lines().filter(|line| {
            line.starts_with(['+', '-']) && !line.starts_with("+++ ") && !line.starts_with("--- ")
        });
        let changed = changed.count();
        let mut findings = Vec::new();
        if changed == 0 || changed > MAX_CHANGED_LINES {
            findings.push(format!(
                "its patch changes {changed} lines, not 1 to {MAX_CHANGED_LINES}"
            ));
        }
        for part in patch.split("--- ").skip(1) {
            let old = part.lines().next().unwrap_or_default();
            let path = old.strip_prefix("a/").unwrap_or(old);
            let shipped = shipped_part(&ground.top, path);
            for hunk in part.split("\n@@ ").skip(1) {
                // What stood there before: the lines that are kept and those that go.
                let lines = hunk.lines().skip(1).filter(|line| !line.starts_with('+'));
                let before: String = lines
                    .map(|line| format!("{}\n", line.get(1..).unwrap_or_default()))
                    .collect();
                if !shipped.contains(&before) {
                    findings.push(format!("its patch changes `{path}` where it is not shipped code"));
                }
            }
        }
        findings
    })
}

/// A source file up to its tests; nothing of a file that is compiled into tests only.
fn shipped_part(top: &Path, path: &str) -> String {
    let in_source = path.contains("src/") && path.ends_with(".rs");
    let in_tests = path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs");
    let file = top.join(path);
    let (Some(folder), Some(module)) = (file.parent(), file.file_stem()) else {
        return String::new();
    };
    let marked = format!("#[cfg(test)]\nmod {};", module.to_string_lossy());
    let above = [
        folder.join("lib.rs"),
        folder.join("main.rs"),
        folder.with_extension("rs"),
    ];
    let for_tests = above
        .iter()
        .any(|above| fs::read_to_string(above).is_ok_and(|text| text.contains(&marked)));
    if !in_source || in_tests || for_tests {
        return String::new();
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut marks = text.match_indices("\n#[cfg(test)]\n").map(|(at, _)| at + 1);
    let end = marks.find(|at| opens_module(text.get(*at..).unwrap_or_default()));
    text.get(..end.unwrap_or(text.len()))
        .unwrap_or_default()
        .to_owned()
}

/// Whether the attributes that begin here are those of a module whose contents follow.
fn opens_module(text: &str) -> bool {
    let marked = text.lines().find(|line| !line.starts_with(['#', ' ', ')']));
    marked.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
}

fn tests_of(defence: &Defence) -> impl Iterator<Item = Test<'_>> {
    let parse = |text| Test::parse(text, &defence.package);
    defence.tests.iter().filter_map(move |text| parse(text))
}

fn tests_exist(ground: &Ground, metadata: &Metadata) -> Vec<String> {
    ground.each(|defence| {
        let mut findings = Vec::new();
        if tests_of(defence).count() != defence.tests.len() {
            findings
                .push("a test is not `--lib NAME`, `--test BINARY NAME` or `--bin BINARY NAME`".to_owned());
        }
        for test in tests_of(defence) {
            if !exists(&test, metadata) {
                findings.push(format!("there is no test `{}` in {}", test.name, test.package));
            }
        }
        findings
    })
}

/// Whether one of the files that can hold the test has a line of code with its name.
fn exists(test: &Test<'_>, metadata: &Metadata) -> bool {
    let [kind, binary] = test.binary;
    let mut packages = metadata.packages.iter();
    let package = packages.find(|package| package.name.as_str() == test.package);
    let target = package.and_then(|package| {
        package.targets.iter().find(|target| {
            let of_kind = target.kind.iter().any(|found| found.to_string() == kind);
            of_kind && (kind == "lib" || target.name == binary)
        })
    });
    let Some(root) = target.map(|target| PathBuf::from(target.src_path.as_str())) else {
        return false;
    };
    let (modules, name) = test.name.rsplit_once("::").unwrap_or(("", test.name));
    let folder = root.parent().unwrap_or(&root);
    let mut files = vec![root.clone()];
    for base in [folder.to_owned(), root.with_extension("")] {
        let mut place = base;
        for module in modules.split("::") {
            place.push(module);
            files.push(place.with_extension("rs"));
        }
    }
    files.iter().any(|file| has_line_with(file, name))
}

/// By the name, not by `fn`: a macro may write the function.
fn has_line_with(file: &Path, name: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.any(|line| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(|word| word == name)
    })
}

fn metadata(top: &Path) -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(top.join("Cargo.toml")).no_deps();
    command.exec().unwrap()
}

/// Fails with every finding, one a line.
fn none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn every_defence_has_its_patch_and_every_patch_its_defence() {
    none(&patches_and_defences_are_the_same(&Ground::of(repository())));
}

#[test]
fn every_patch_applies_to_the_tree_as_it_is() {
    none(&patches_apply(&Ground::of(repository())));
}

#[test]
fn every_patch_takes_out_a_little_of_the_shipped_code_only() {
    none(&patches_touch_shipped_code_only(&Ground::of(repository())));
}

#[test]
fn every_test_that_must_fail_exists() {
    none(&tests_exist(&Ground::of(repository()), &metadata(repository())));
}

mod bites {
    use super::*;

    const SOURCE: &str = "fn door() {\n    check();\n    open();\n}\n\n#[cfg(test)]\nmod tests {\n    #[test]\n    \
                          fn shut() {\n        look();\n    }\n}\n";
    const PATCH: &str = "--- a/src/lib.rs\n+++ b/src/lib.rs\n@@ -1,4 +1,3 @@\n fn door() {\n-    check();\n     \
                         open();\n }\n";

    /// A package with one defence.
    fn ground(folder: &Path, test: &str, patch: &str) -> Ground {
        let manifest = "[package]\nname = \"house\"\nedition = \"2024\"\n[workspace]\n";
        let list = format!(
            "[[defence]]\nname = \"lock\"\ndefends = \"the house\"\npackage = \"house\"\ntests = [\"{test}\"]\n"
        );
        fs::create_dir_all(folder.join("tests/sabotage")).unwrap();
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.join("src/lib.rs"), SOURCE).unwrap();
        fs::write(folder.join("tests/sabotage/defences.toml"), list).unwrap();
        fs::write(folder.join("tests/sabotage/lock.patch"), patch).unwrap();
        Ground::of(folder)
    }

    fn all(ground: &Ground) -> Vec<String> {
        let mut findings = patches_and_defences_are_the_same(ground);
        findings.extend(patches_apply(ground));
        findings.extend(patches_touch_shipped_code_only(ground));
        findings.extend(tests_exist(ground, &metadata(&ground.top)));
        findings
    }

    fn found(test: &str, patch: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        all(&ground(folder.path(), test, patch))
    }

    #[test]
    fn a_defence_in_order_has_no_findings() {
        none(&found("--lib tests::shut", PATCH));
    }

    #[test]
    fn a_patch_that_no_longer_applies() {
        let patch = PATCH.replace("check()", "ask()");
        let found = found("--lib tests::shut", &patch);
        assert!(
            found.iter().any(|text| text.contains("does not apply")),
            "{found:?}"
        );
    }

    #[test]
    fn a_patch_of_a_test() {
        let patch = "--- a/src/lib.rs\n+++ b/src/lib.rs\n@@ -9,3 +9,2 @@\n     fn shut() {\n-        look();\n     }\n";
        let found = found("--lib tests::shut", patch);
        assert_eq!(
            found,
            ["lock: its patch changes `src/lib.rs` where it is not shipped code"]
        );
    }

    #[test]
    fn a_patch_of_too_much() {
        let more: String = (0..MAX_CHANGED_LINES).map(|_| "+    more();\n").collect();
        let patch = PATCH
            .replace("+1,3", "+1,19")
            .replace("-    check();\n", &format!("-    check();\n{more}"));
        let found = found("--lib tests::shut", &patch);
        assert_eq!(found, ["lock: its patch changes 17 lines, not 1 to 16"]);
    }

    #[test]
    fn a_test_that_is_gone_or_misspelt() {
        for test in [
            "--lib tests::gone",
            "--test shut shut",
            "--lib elsewhere::tests::gone",
        ] {
            let found = found(test, PATCH);
            assert!(
                found.iter().any(|text| text.contains("no test")),
                "{test}: {found:?}"
            );
        }
        let found = found("tests::shut", PATCH);
        assert!(
            found.iter().any(|text| text.contains("is not `--lib")),
            "{found:?}"
        );
    }

    #[test]
    fn a_patch_without_a_defence_and_a_defence_without_a_patch() {
        let folder = tempfile::tempdir().unwrap();
        let ground = ground(folder.path(), "--lib tests::shut", PATCH);
        let place = folder.path().join("tests/sabotage");
        fs::rename(place.join("lock.patch"), place.join("key.patch")).unwrap();
        let found = patches_and_defences_are_the_same(&ground);
        assert_eq!(
            found,
            [
                "lock: has no patch",
                "key.patch: no defence of this name is listed"
            ]
        );
    }
}
