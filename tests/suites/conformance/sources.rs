//! Which functions in the tree are tests. Files are read as tokens, so that a test in a comment or a string is
//! none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// What is known of a function that is marked as a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It runs.
    Runs,
    /// It is marked `ignore`.
    Ignored,
}

/// Where the tests of a table are looked up.
#[derive(Debug)]
pub(crate) struct Sources {
    top: PathBuf,
    manifest: String,
}

impl Sources {
    /// A repository, whose package `tests` names its suites in its manifest.
    pub(crate) fn of_repository(top: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            top: top.to_owned(),
            manifest: std::fs::read_to_string(top.join("tests/Cargo.toml"))?,
        })
    }

    /// Why a test is not one that runs; nothing when it is.
    pub(crate) fn fault(&self, path: &str, function: &str) -> Option<String> {
        let plain =
            path.ends_with(".rs") && !path.starts_with('/') && !path.split('/').any(|part| part == "..");
        if !plain {
            return Some(format!(
                "`{path}` is not the path of a Rust file in the repository"
            ));
        }
        if let Some(suite) = path.strip_prefix("tests/suites/")
            && !suite.contains('/')
            && !self.manifest.contains(&format!("path = \"suites/{suite}\""))
        {
            return Some(format!(
                "tests/Cargo.toml does not name `{path}`, so it never runs"
            ));
        }
        let text = match std::fs::read_to_string(self.top.join(path)) {
            Ok(text) => text,
            Err(error) => return Some(format!("`{path}`: {error}")),
        };
        match tests_in(&text).with_context(|| path.to_owned()) {
            Err(error) => Some(format!("{error:#}")),
            Ok(tests) => match tests.get(function) {
                Some(Kind::Runs) => None,
                Some(Kind::Ignored) => Some(format!("`{path}::{function}` is ignored")),
                None => Some(format!("there is no test `{function}` in `{path}`")),
            },
        }
    }
}

/// The tests of a file by name, those inside modules and macros too.
fn tests_in(text: &str) -> anyhow::Result<BTreeMap<String, Kind>> {
    let stream: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut tests = BTreeMap::new();
    collect(stream, &mut tests);
    Ok(tests)
}

fn collect(stream: TokenStream, tests: &mut BTreeMap<String, Kind>) {
    let mut attributes: Vec<Vec<String>> = Vec::new();
    let mut after_hash = false;
    let mut after_fn = false;
    for tree in stream {
        let hash = matches!(&tree, TokenTree::Punct(punct) if punct.as_char() == '#');
        match tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket && after_hash => {
                attributes.push(words(group.stream()));
            }
            TokenTree::Group(group) => {
                collect(group.stream(), tests);
                // The end of an item, unless it is the arguments of a function or of `pub(…)`.
                if group.delimiter() == Delimiter::Brace {
                    attributes.clear();
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => attributes.clear(),
            TokenTree::Ident(name) => {
                if after_fn && let Some(kind) = kind_of(&attributes) {
                    tests.insert(name.to_string(), kind);
                }
                after_fn = name == "fn";
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        after_hash = hash;
    }
}

/// The words of an attribute in their order.
fn words(stream: TokenStream) -> Vec<String> {
    stream
        .into_iter()
        .flat_map(|tree| match tree {
            TokenTree::Group(group) => words(group.stream()),
            TokenTree::Ident(ident) => vec![ident.to_string()],
            TokenTree::Punct(_) | TokenTree::Literal(_) => Vec::new(),
        })
        .collect()
}

fn kind_of(attributes: &[Vec<String>]) -> Option<Kind> {
    let is_test = |words: &Vec<String>| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        matches!(words.as_slice(), ["test"] | ["tokio", "test", ..])
    };
    let ignored = |words: &Vec<String>| words.iter().any(|word| word == "ignore");
    match attributes {
        all if all.iter().any(ignored) => Some(Kind::Ignored),
        all if all.iter().any(is_test) => Some(Kind::Runs),
        _ => None,
    }
}

#[test]
fn marked_functions_are_found_and_others_are_not() {
    let text = r##"
        //! #[test] fn in_a_comment() {}
        fn helper() { let text = "#[test] fn in_a_string() {}"; }
        #[test]
        fn plain() {}
        #[tokio::test(start_paused = true)]
        async fn paused() {}
        #[test]
        #[ignore = "slow"]
        fn left_out() {}
        #[cfg_attr(feature = "x", ignore)]
        #[test]
        fn left_out_sometimes() {}
        #[cfg(test)]
        mod tests {
            use a::b;
            #[derive(Debug)]
            struct NotATest;
            proptest! {
                #[test]
                fn generated(text in "a") { fn inner() {} }
            }
            fn after() {}
        }
    "##;
    let found = tests_in(text).unwrap();
    let expected = [
        ("generated", Kind::Runs),
        ("left_out", Kind::Ignored),
        ("left_out_sometimes", Kind::Ignored),
        ("paused", Kind::Runs),
        ("plain", Kind::Runs),
    ];
    let found: Vec<(&str, Kind)> = found.iter().map(|(name, kind)| (name.as_str(), *kind)).collect();
    assert_eq!(found, expected);
}

#[test]
fn what_does_not_run_has_its_fault_named() {
    let folder = tempfile::tempdir().unwrap();
    let suites = folder.path().join("tests/suites");
    std::fs::create_dir_all(&suites).unwrap();
    std::fs::write(
        folder.path().join("tests/Cargo.toml"),
        "[[test]]\npath = \"suites/known.rs\"\n",
    )
    .unwrap();
    let text = "#[test] fn good() {} #[test] #[ignore] fn idle() {} fn helper() {}";
    for name in ["known.rs", "orphan.rs", "note.md"] {
        std::fs::write(suites.join(name), text).unwrap();
    }
    std::fs::write(folder.path().join("broken.rs"), "fn a( {").unwrap();
    let sources = Sources::of_repository(folder.path()).unwrap();
    assert_eq!(sources.fault("tests/suites/known.rs", "good"), None);
    for (path, function, word) in [
        ("tests/suites/known.rs", "idle", "is ignored"),
        ("tests/suites/known.rs", "helper", "there is no test"),
        ("tests/suites/known.rs", "gone", "there is no test"),
        ("tests/suites/orphan.rs", "good", "never runs"),
        ("tests/suites/absent.rs", "good", "never runs"),
        ("absent.rs", "good", "No such file"),
        ("broken.rs", "good", "broken.rs"),
        ("tests/suites/note.md", "good", "not the path"),
        ("tests/../tests/suites/known.rs", "good", "not the path"),
        ("/etc/known.rs", "good", "not the path"),
    ] {
        let fault = sources.fault(path, function).unwrap();
        assert!(fault.contains(word), "{path}::{function}: {fault}");
    }
}
