//! The rules of the repository, kept by machine: which room may depend on which, what source files may hold,
//! what no tracked file may name. Each rule is a function from a tree to its findings; it runs on this
//! repository and, beside its definition, on a small made-up tree that breaks it, which shows that it bites.

#[path = "tidy/deny.rs"]
mod deny;
#[path = "tidy/graph.rs"]
mod graph;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/text.rs"]
mod text;
#[path = "tidy/tree.rs"]
mod tree;

use deny::Dependencies;
use graph::Graph;
use tree::{Finding, Tree};
use vouchsafe_tests::repository;

/// Fails with every finding of a rule, one a line.
fn none(findings: Vec<Finding>) {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

/// Runs a rule on each Rust file of this repository.
fn each_rust_file(rule: fn(&tree::RustFile) -> Vec<Finding>) -> anyhow::Result<()> {
    let tree = Tree::of_repository(repository())?;
    let files = tree.rust_files()?;
    assert!(files.len() > 20, "only {} Rust files found", files.len());
    none(files.iter().flat_map(rule).collect());
    Ok(())
}

/// Runs a rule on each text file of this repository that is written by hand.
fn each_text_file(rule: fn(&tree::TextFile) -> Vec<Finding>) -> anyhow::Result<()> {
    let tree = Tree::of_repository(repository())?;
    none(tree.written().flat_map(rule).collect());
    Ok(())
}

/// Runs a rule on the dependency graph of this workspace.
fn whole_graph(rule: fn(&Graph) -> Vec<Finding>) -> anyhow::Result<()> {
    none(rule(&Graph::of_workspace(repository())?));
    Ok(())
}

/// Runs a rule on the crates of others.
fn all_crates(rule: fn(&Dependencies) -> Vec<Finding>) -> anyhow::Result<()> {
    none(rule(&Dependencies::of_workspace(repository())?));
    Ok(())
}

macro_rules! kept {
    ($($name:ident: $run:ident($rule:path);)+) => {
        $(#[test]
        fn $name() -> anyhow::Result<()> {
            $run($rule)
        })+
    };
}

kept! {
    rooms_depend_only_on_those_they_may: whole_graph(graph::rooms);
    pure_rooms_use_only_listed_crates: whole_graph(graph::pure_rooms);
    shared_crates_have_one_version: whole_graph(graph::one_version);
    unwanted_crates_are_absent: whole_graph(graph::unwanted);

    licences_are_allowed: all_crates(deny::licences);
    crates_come_from_the_usual_registry: all_crates(deny::sources);
    duplicates_are_excused: all_crates(deny::duplicates);
    what_is_banned_has_a_reason: all_crates(deny::reasons);

    rust_files_begin_with_their_purpose: each_rust_file(rust::head);
    modules_have_no_mod_rs: each_rust_file(rust::no_mod_rs);
    files_stay_short: each_rust_file(rust::length);
    unsafe_stays_in_its_room: each_rust_file(rust::no_unsafe);
    lints_are_not_switched_off: each_rust_file(rust::no_allow);
    no_test_is_ignored: each_rust_file(rust::no_ignore);
    no_rust_test_sleeps: each_rust_file(rust::no_sleep_in_tests);
    traits_stay_small: each_rust_file(rust::small_traits);
    pure_rooms_do_no_io_and_read_no_clock: each_rust_file(rust::pure);
    the_cli_links_daemons_only_for_dev: each_rust_file(rust::cli_apart);

    files_name_no_path_of_a_machine: each_text_file(text::machine_paths);
    files_name_no_registry: each_text_file(text::registries);
    nothing_is_left_for_later: each_text_file(text::unstable_words);
    no_other_test_sleeps: each_text_file(text::sleeps);
}

#[test]
fn excused_tests_exist_and_have_reasons() {
    let excuses = vouchsafe_tests::needs::Excuses::load(repository()).unwrap();
    let tree = Tree::of_repository(repository()).unwrap();
    let names: Vec<&str> = excuses.skip.iter().map(|excuse| excuse.test.as_str()).collect();
    none(rust::excused_tests_exist(&names, &tree.rust_files().unwrap()));
}
