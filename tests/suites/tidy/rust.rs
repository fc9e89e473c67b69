//! Rules about Rust source files.

use crate::tree::{Finding, RustFile, Token, find};

const MAX_PRODUCTION_LINES: usize = 500;
const MAX_MAIN_LINES: usize = 60;
const MAX_TRAIT_METHODS: usize = 10;
/// The one room where `unsafe` may stand.
const UNSAFE_ROOM: &str = "runtime/sys/";
/// The rooms that do no IO and read no clock.
pub(crate) const PURE_ROOMS: [&str; 3] = ["identity", "policy", "audit"];

/// Every file begins with what it is for.
pub(crate) fn head(file: &RustFile) -> Vec<Finding> {
    let good = file.text.starts_with("//!");
    if good {
        vec![]
    } else {
        vec![Finding::at(
            &file.path,
            1,
            "begins without `//!`: say what the file is for",
        )]
    }
}

/// `foo.rs` beside `foo/`.
pub(crate) fn no_mod_rs(file: &RustFile) -> Vec<Finding> {
    let bad = file.path.ends_with("/mod.rs");
    if bad {
        vec![Finding::at(
            &file.path,
            1,
            "name it after its folder, beside the folder",
        )]
    } else {
        vec![]
    }
}

/// At most so many lines of production code; fewer still in a `main.rs`, which only starts things.
pub(crate) fn length(file: &RustFile) -> Vec<Finding> {
    let limit = if file.path.ends_with("/main.rs") {
        MAX_MAIN_LINES
    } else {
        MAX_PRODUCTION_LINES
    };
    let lines = file.production_lines();
    if lines <= limit {
        return vec![];
    }
    vec![Finding::at(
        &file.path,
        1,
        format!("{lines} lines of production code, more than {limit}: split it"),
    )]
}

/// `unsafe` stands in one room only.
pub(crate) fn no_unsafe(file: &RustFile) -> Vec<Finding> {
    if file.path.starts_with(UNSAFE_ROOM) {
        return vec![];
    }
    all(file, &["unsafe"], "`unsafe` stands only in runtime/sys")
}

/// A lint is answered, or an exception is argued with `#[expect(…, reason = "…")]`.
pub(crate) fn no_allow(file: &RustFile) -> Vec<Finding> {
    let mut findings = all(file, &["#", "[", "allow"], "use `#[expect(…, reason = \"…\")]`");
    findings.extend(all(
        file,
        &["#", "!", "[", "allow"],
        "use `#![expect(…, reason = \"…\")]`",
    ));
    findings
}

/// A test runs, or skips itself by name (`require!`).
pub(crate) fn no_ignore(file: &RustFile) -> Vec<Finding> {
    all(
        file,
        &["#", "[", "ignore"],
        "skip by name with `require!`, or fix the test",
    )
}

/// A test waits for a condition with a deadline, or lets the paused clock run.
pub(crate) fn no_sleep_in_tests(file: &RustFile) -> Vec<Finding> {
    let calls = find(file.tests(), &["sleep", "("]);
    calls
        .map(|index| report(file, file.tests(), index, "wait for a condition with a deadline"))
        .collect()
}

/// A trait that an adapter must implement has at most ten methods.
pub(crate) fn small_traits(file: &RustFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for index in find(&file.tokens, &["trait"]) {
        let (name, methods) = methods_of(file.tokens.get(index..).unwrap_or_default());
        if methods > MAX_TRAIT_METHODS {
            let text = format!("trait `{name}` has {methods} methods, more than {MAX_TRAIT_METHODS}");
            findings.push(report(file, &file.tokens, index, &text));
        }
    }
    findings
}

/// The name of the trait whose tokens begin here, and how many methods stand directly in its body.
fn methods_of(tokens: &[Token]) -> (String, usize) {
    let mut tokens = tokens.iter();
    let depth = tokens.next().map_or(0, |token| token.depth);
    let name = tokens.next().map(|token| token.text.clone()).unwrap_or_default();
    let body = tokens
        .skip_while(|token| token.text != "{" || token.depth != depth)
        .skip(1);
    let inside = body.take_while(|token| token.depth > depth);
    (
        name,
        inside
            .filter(|token| token.depth == depth + 1 && token.text == "fn")
            .count(),
    )
}

/// `identity`, `policy` and `audit` do no IO, read no clock and wait for nothing: `now` is a parameter.
pub(crate) fn pure(file: &RustFile) -> Vec<Finding> {
    if !PURE_ROOMS
        .iter()
        .any(|room| file.path.starts_with(&format!("{room}/")))
    {
        return vec![];
    }
    let modules = ["fs", "net", "env", "process", "os", "thread", "io"];
    let words = [
        "tokio",
        "SystemTime",
        "Instant",
        "now_utc",
        "now_local",
        "async",
        "await",
    ];
    let production = file.production();
    let mut findings = Vec::new();
    for module in modules {
        for index in find(production, &["std", "::", module]) {
            findings.push(report(
                file,
                production,
                index,
                &format!("`std::{module}` in a room without IO"),
            ));
        }
    }
    for word in words {
        for index in find(production, &[word]) {
            findings.push(report(
                file,
                production,
                index,
                &format!("`{word}` in a room without IO or clock"),
            ));
        }
    }
    findings
}

/// What `vouchsafe measure` asks of the agent's code: whether a launch would take a command. Values alone; no daemon.
const MEASURES_BY: [&str; 5] = ["vouchsafe_agent", "::", "runs", "::", "command"];

/// Only `vouchsafe dev` links the daemons; the rest of the command line talks to their sockets.
pub(crate) fn cli_apart(file: &RustFile) -> Vec<Finding> {
    let dev = file.path.starts_with("cli/src/dev.rs") || file.path.starts_with("cli/src/dev/");
    if !file.path.starts_with("cli/src/") || dev {
        return vec![];
    }
    let mut findings = all(file, &["vouchsafe_server"], "only `cli/src/dev` links the server");
    let measures = file.path == "cli/src/commands/measure.rs";
    let excused: Vec<usize> = match measures {
        true => file.find(&MEASURES_BY).collect(),
        false => Vec::new(),
    };
    let agent = file.find(&["vouchsafe_agent"]);
    let wrong = agent.filter(|index| !excused.contains(index));
    let text = "only `cli/src/dev` links the agent";
    findings.extend(wrong.map(|index| report(file, &file.tokens, index, text)));
    findings
}

/// A test that CI may skip is a test that is there.
pub(crate) fn excused_tests_exist(names: &[&str], files: &[RustFile]) -> Vec<Finding> {
    let exists = |name: &str| {
        let function = name.rsplit("::").next().unwrap_or(name);
        files
            .iter()
            .any(|file| find(file.tests(), &["fn", function]).next().is_some())
    };
    let gone = names.iter().filter(|name| !exists(name));
    gone.map(|name| Finding::of("tests/skips.toml", format!("there is no test `{name}`")))
        .collect()
}

fn all(file: &RustFile, sequence: &[&str], text: &str) -> Vec<Finding> {
    file.find(sequence)
        .map(|index| report(file, &file.tokens, index, text))
        .collect()
}

fn report(file: &RustFile, tokens: &[Token], index: usize, text: &str) -> Finding {
    Finding::at(&file.path, tokens.get(index).map_or(0, |token| token.line), text)
}

#[cfg(test)]
mod bites {
    use super::*;

    fn file(path: &str, text: &str) -> RustFile {
        RustFile::parse(path, text).unwrap()
    }

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.place.as_str()).collect()
    }

    #[test]
    fn a_file_without_a_purpose() {
        assert_eq!(
            places(&head(&file("a/src/lib.rs", "fn a() {}\n"))),
            ["a/src/lib.rs:1"]
        );
        assert!(head(&file("a/src/lib.rs", "//! A.\n")).is_empty());
    }

    #[test]
    fn a_mod_rs() {
        assert_eq!(no_mod_rs(&file("a/src/b/mod.rs", "//! B.\n")).len(), 1);
        assert!(no_mod_rs(&file("a/src/b.rs", "//! B.\n")).is_empty());
    }

    #[test]
    fn a_long_file() {
        let code = "const A: u8 = 1;\n".repeat(501);
        assert_eq!(length(&file("a/src/lib.rs", &code)).len(), 1);
        let comments = "// A line.\n".repeat(600);
        assert!(length(&file("a/src/lib.rs", &comments)).is_empty());
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert!(length(&file("a/src/lib.rs", &tests)).is_empty());
        assert!(length(&file("a/src/b/tests.rs", &code)).is_empty());
        assert_eq!(
            length(&file("a/src/main.rs", &"const A: u8 = 1;\n".repeat(61))).len(),
            1
        );
    }

    #[test]
    fn unsafe_outside_its_room() {
        let text = "fn a() {\n    unsafe { b() }\n}\n";
        assert_eq!(
            places(&no_unsafe(&file("agent/src/a.rs", text))),
            ["agent/src/a.rs:2"]
        );
        assert!(no_unsafe(&file("runtime/sys/src/a.rs", text)).is_empty());
    }

    #[test]
    fn a_lint_switched_off() {
        assert_eq!(
            no_allow(&file("a/src/a.rs", "#[allow(dead_code)]\nfn a() {}\n")).len(),
            1
        );
        assert_eq!(no_allow(&file("a/src/a.rs", "#![allow(dead_code)]\n")).len(), 1);
        let argued = "#[expect(dead_code, reason = \"b\")]\nfn allow() {}\n";
        assert!(no_allow(&file("a/src/a.rs", argued)).is_empty());
    }

    #[test]
    fn an_ignored_test() {
        let text = "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n";
        assert_eq!(
            places(&no_ignore(&file("a/src/a/tests.rs", text))),
            ["a/src/a/tests.rs:2"]
        );
    }

    #[test]
    fn a_sleep_in_a_test() {
        let text =
            "fn a() { sleep(b) }\n#[cfg(test)]\nmod tests {\n    fn c() { tokio::time::sleep(d); }\n}\n";
        assert_eq!(
            places(&no_sleep_in_tests(&file("a/src/a.rs", text))),
            ["a/src/a.rs:4"]
        );
        let mention = "fn a() { let asleep = \"sleep(\"; }\n";
        assert!(no_sleep_in_tests(&file("tests/suites/a.rs", mention)).is_empty());
    }

    #[test]
    fn a_large_trait() {
        let methods = |count: usize| "fn a() -> u8 { fn inner() {} 1 }\n".repeat(count);
        let good = format!("trait Small: Send where Self: Sized {{\n{}}}\n", methods(10));
        assert!(small_traits(&file("a/src/a.rs", &good)).is_empty());
        let bad = format!("pub trait Large<T> {{\n{}}}\nfn after() {{}}\n", methods(11));
        let findings = small_traits(&file("a/src/a.rs", &bad));
        assert!(
            findings
                .iter()
                .any(|finding| finding.text.contains("`Large` has 11")),
            "{findings:?}"
        );
    }

    #[test]
    fn io_or_a_clock_in_a_pure_room() {
        for text in [
            "use std::fs::File;\n",
            "fn a(b: std::net::IpAddr) {}\n",
            "fn a() { tokio::time::interval(b); }\n",
            "fn a() { SystemTime::now(); }\n",
            "fn a() { OffsetDateTime::now_utc(); }\n",
            "async fn a() {}\n",
        ] {
            assert_eq!(pure(&file("identity/src/a.rs", text)).len(), 1, "{text}");
            assert!(pure(&file("runtime/src/a.rs", text)).is_empty(), "{text}");
        }
        let tests = "#[cfg(test)]\nmod tests {\n    use std::fs::File;\n}\n";
        assert!(pure(&file("audit/src/a.rs", tests)).is_empty());
    }

    #[test]
    fn a_daemon_linked_by_a_command() {
        let text = "use vouchsafe_server::app::App;\n";
        assert_eq!(cli_apart(&file("cli/src/entry.rs", text)).len(), 1);
        assert!(cli_apart(&file("cli/src/dev.rs", text)).is_empty());
        assert!(cli_apart(&file("cli/src/dev/state.rs", text)).is_empty());
        let measures = "use vouchsafe_agent::runs::command::Command;\nuse vouchsafe_agent::app::App;\n";
        let found = cli_apart(&file("cli/src/commands/measure.rs", measures));
        assert_eq!(places(&found), ["cli/src/commands/measure.rs:2"]);
        assert_eq!(cli_apart(&file("cli/src/commands/class.rs", measures)).len(), 2);
    }

    #[test]
    fn an_excuse_for_a_test_that_is_gone() {
        let files = [file("tests/suites/a.rs", "#[test]\nfn here() {}\n")];
        assert!(excused_tests_exist(&["a::b::here"], &files).is_empty());
        assert_eq!(excused_tests_exist(&["a::gone"], &files).len(), 1);
    }
}
