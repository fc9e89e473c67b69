//! Each figure can be measured: a quick run against the binaries of this profile.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a helper of tests"
)]

use std::process::Command;

use serde_json::Value;

/// Runs the program; gives its exit code and the lines that it printed.
fn bench(arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vouchsafe-bench"));
    let output = command
        .args(arguments)
        .args(["--output", "json"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    let lines = printed["lines"].as_array().unwrap().clone();
    (output.status.code(), lines)
}

#[test]
fn figures_of_the_server_are_measured_and_a_miss_is_no_failure() {
    let (code, lines) = bench(&["--quick", "--only", "1", "--only", "2"]);
    assert_eq!(code, Some(0));
    for figure in [1, 2] {
        let held: Vec<&Value> = lines
            .iter()
            .filter(|line| line["figure"] == figure && line["ok"].is_boolean())
            .collect();
        assert!(!held.is_empty(), "figure {figure} holds nothing: {lines:#?}");
    }
    for line in &lines {
        assert!(line["measured"].as_f64().unwrap() > 0.0, "{line}");
    }
}

#[test]
fn the_workload_api_is_compared_with_a_bare_server() {
    let (code, lines) = bench(&["--quick", "--only", "3"]);
    assert_eq!(code, Some(0));
    let compared = lines
        .iter()
        .filter(|line| {
            line["what"]
                .as_str()
                .unwrap()
                .ends_with("agent ÷ bare that attests")
        })
        .filter(|line| line["ok"].is_boolean());
    assert_eq!(compared.count(), 4, "{lines:#?}");
}

#[test]
fn a_start_without_the_server_is_measured_with_one_svid_and_with_many() {
    let (code, lines) = bench(&["--quick", "--only", "8"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        lines.iter().filter(|line| line["ok"].is_boolean()).count(),
        2,
        "{lines:#?}"
    );
}

#[test]
fn a_figure_that_does_not_exist_is_refused() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vouchsafe-bench"));
    let beyond = (vouchsafe_bench::figures::LAST + 1).to_string();
    let output = command.args(["--only", &beyond]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
