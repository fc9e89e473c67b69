//! The conformance table, `docs/conformance.md`, tells the truth: each MUST of the SPIFFE standards has its row,
//! and each row names tests that are there and run, or says why there is none. Each check is shown to bite on a
//! small made-up table.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says by a panic what went wrong"
)]

#[path = "conformance/sources.rs"]
mod sources;
#[path = "conformance/standards.rs"]
mod standards;
#[path = "conformance/table.rs"]
mod table;

use sources::Sources;
use standards::STANDARDS;
use table::{Finding, Proof, Table};
use vouchsafe_tests::repository;

const PAGE: &str = "docs/conformance.md";

fn none(findings: Vec<Finding>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

fn page() -> Table {
    let text = std::fs::read_to_string(repository().join(PAGE)).unwrap();
    Table::parse(&text).unwrap_or_else(|findings| panic!("\n{}\n", findings.join("\n")))
}

#[test]
fn each_must_of_each_standard_has_a_row() {
    none(page().check_clauses(STANDARDS));
}

#[test]
fn rows_are_unique_and_give_reasons() {
    none(page().check_rows());
}

#[test]
fn named_tests_exist_and_run() {
    let page = page();
    let tests = page.tests().count();
    assert!(tests > 100, "only {tests} tests are named");
    none(page.check_tests(&Sources::of_repository(repository()).unwrap()));
}

#[test]
fn the_page_counts_itself_rightly() {
    let page = page();
    let rows = page.rows().count();
    let open = page
        .rows()
        .filter(|row| matches!(row.proof, Proof::NotYet(_)))
        .count();
    let others = page
        .rows()
        .filter(|row| matches!(row.proof, Proof::NotOurs(_)))
        .count();
    let sum = format!(
        "{rows} rows: {} shown by tests, {open} not yet, {others} not ours.",
        rows - open - others
    );
    let text = std::fs::read_to_string(repository().join(PAGE)).unwrap();
    assert!(text.contains(&sum), "{PAGE} should say: {sum}");
}
