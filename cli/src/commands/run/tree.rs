//! `vouchsafe run tree`: who launched whom.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tonic::Code;
use vouchsafe_identity::ClassName;
use vouchsafe_proto::vouchsafe::run::v1::{GetRunRequest, ListRunsRequest};
use vouchsafe_runtime::Clock;

use super::{PAGE, RunView, State, all, client, states};
use crate::client::Connection;
use crate::error::CliError;
use crate::output::{self, Output};

/// Most generations above a run that are asked for one by one.
const MOST_GENERATIONS: usize = 64;

/// A run, and the runs that it launched.
#[derive(Debug, Serialize)]
struct Node {
    #[serde(flatten)]
    run: RunView,
    launched: Vec<Node>,
}

pub(super) async fn show(
    server: &Connection,
    class: Option<ClassName>,
    output: &Output,
) -> Result<(), CliError> {
    let request = ListRunsRequest {
        class: class.map(String::from).unwrap_or_default(),
        states: states(State::Live).iter().map(|state| (*state).into()).collect(),
        page_size: PAGE,
        ..ListRunsRequest::default()
    };
    let mut runs = all(server, request).await?;
    ancestors(server, &mut runs).await?;
    let roots = forest(runs);
    let now = Clock::system().now().unix_timestamp();
    output.show(&roots, || match roots.as_slice() {
        [] => "No runs found".to_owned(),
        some => drawn(some, now),
    });
    Ok(())
}

/// Adds the runs that launched these and were not asked for: ended ones, and those of other classes.
async fn ancestors(server: &Connection, runs: &mut Vec<RunView>) -> Result<(), CliError> {
    let mut known: BTreeSet<String> = runs.iter().map(|run| run.run.clone()).collect();
    let mut children: Vec<Option<String>> = runs.iter().map(|run| run.parent_run.clone()).collect();
    for _ in 0..MOST_GENERATIONS {
        let mut above = Vec::new();
        for parent in children.into_iter().flatten() {
            if !known.insert(parent.clone()) {
                continue;
            }
            match server
                .call(client(server).get_run(GetRunRequest { run_id: parent }))
                .await
            {
                Ok(run) => above.push(RunView::from(run)),
                // It ended long ago.
                Err(CliError::Call { status, .. }) if status.code() == Code::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if above.is_empty() {
            break;
        }
        children = above.iter().map(|run| run.parent_run.clone()).collect();
        runs.append(&mut above);
    }
    Ok(())
}

/// Those that no run launched which is known, each with all below it; in order of admission.
fn forest(mut runs: Vec<RunView>) -> Vec<Node> {
    runs.sort_by(|one, other| one.run.cmp(&other.run));
    let known: BTreeSet<String> = runs.iter().map(|run| run.run.clone()).collect();
    let mut below: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    let mut roots = Vec::new();
    // Ids are in order of admission: who launched stands before whom it launched.
    for run in runs.into_iter().rev() {
        let mut launched = below.remove(&run.run).unwrap_or_default();
        launched.reverse();
        let above = run
            .parent_run
            .clone()
            .filter(|parent| *parent < run.run && known.contains(parent));
        let node = Node { run, launched };
        match above {
            Some(parent) => below.entry(parent).or_default().push(node),
            None => roots.push(node),
        }
    }
    roots.reverse();
    roots
}

/// All nodes as a table, whose first column is the tree.
fn drawn(roots: &[Node], now: i64) -> String {
    let mut rows = Vec::new();
    for root in roots {
        draw(root, "", "", now, &mut rows);
    }
    let head = ["RUN", "CLASS", "TASK", "AGE", "STATE", "LAUNCHER", "NODE"];
    output::table(&head, rows)
}

fn draw(node: &Node, before: &str, below: &str, now: i64, rows: &mut Vec<Vec<String>>) {
    let run = &node.run;
    let launcher = match (&run.parent_run, before.is_empty()) {
        (Some(parent), true) => format!("{} (run {parent})", run.launcher),
        _ => run.launcher.clone(),
    };
    rows.push(vec![
        format!("{before}{}", run.run),
        run.class.clone(),
        run.task.clone().unwrap_or_default(),
        run.age(now),
        run.end.clone().unwrap_or_else(|| run.state.to_owned()),
        launcher,
        run.node.clone(),
    ]);
    for (place, child) in node.launched.iter().enumerate() {
        let (mark, rest) = match place + 1 == node.launched.len() {
            true => ("└─ ", "   "),
            false => ("├─ ", "│  "),
        };
        draw(
            child,
            &format!("{below}{mark}"),
            &format!("{below}{rest}"),
            now,
            rows,
        );
    }
}

#[cfg(test)]
mod tests {
    use vouchsafe_proto::vouchsafe::run::v1::Run;

    use super::*;

    fn run(id: &str, parent: &str) -> RunView {
        RunView::from(Run {
            run_id: id.to_owned(),
            class: format!("class-{id}"),
            parent_run_id: parent.to_owned(),
            admitted_at: 100,
            ..Run::default()
        })
    }

    #[test]
    fn runs_that_name_each_other_or_themselves_end_the_walk_and_none_is_lost() {
        let roots = forest(vec![
            run("1", "2"),
            run("2", "1"),
            run("3", "3"),
            run("4", "gone"),
        ]);
        let mut all = String::new();
        for line in drawn(&roots, 160).lines().skip(1) {
            all.push_str(line.split_whitespace().find(|word| word.len() == 1).unwrap());
        }
        assert_eq!(all, "1234");
    }

    #[test]
    fn a_tree_shows_who_launched_whom_in_order_of_admission() {
        let runs = vec![
            run("5", "2"),
            run("4", ""),
            run("3", "1"),
            run("2", "1"),
            run("1", ""),
        ];
        let text = drawn(&forest(runs), 160);
        let first: Vec<String> = text
            .lines()
            .skip(1)
            .map(|line| {
                line.split("  ")
                    .next()
                    .unwrap()
                    .split(" class")
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(first, ["1", "├─ 2", "│", "└─ 3", "4"], "{text}");
        assert!(text.contains("│  └─ 5"), "{text}");
        assert!(text.contains("1m 0s"), "{text}");
    }

    #[test]
    fn a_run_whose_launcher_is_forgotten_names_it() {
        let text = drawn(&forest(vec![run("2", "1")]), 160);
        assert!(text.contains("(run 1)"), "{text}");
    }
}
