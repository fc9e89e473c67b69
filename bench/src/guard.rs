//! Compares the instructions that each hot path needs with committed counts, so that a regression shows on a machine
//! that is too noisy for times. Valgrind counts; the raw cryptography in a path is taken off, because it differs from
//! processor to processor and is not ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::hot;

/// Rounds that are counted together.
const ROUNDS: u32 = 50;
/// How much more a path may need than it did, in percent.
pub const TOLERANCE_PERCENT: u64 = 5;

/// Which raw path is taken off which.
const RAW: [(&str, &str); 2] = [
    ("issue-x509-svid", "raw-verify-and-sign"),
    ("mint-jwt-svid", "raw-es256"),
];

/// Instructions of one round of each path.
pub type Counts = BTreeMap<String, u64>;

/// Where the committed counts stand.
#[must_use]
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.json")
}

/// Counts every path: this program runs itself under valgrind.
///
/// # Errors
/// When valgrind is not there, or a path does not run.
pub fn count() -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for name in hot::PATHS {
        counts.insert(name.to_owned(), count_one(name)?);
    }
    for (path, raw) in RAW {
        let raw = counts.get(raw).copied().unwrap_or_default();
        if let Some(count) = counts.get_mut(path) {
            *count = count.saturating_sub(raw);
        }
    }
    counts.retain(|name, _| !RAW.iter().any(|(_, raw)| raw == name));
    Ok(counts)
}

fn count_one(name: &str) -> anyhow::Result<u64> {
    let mut command = Command::new("valgrind");
    command.args([
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        "--toggle-collect=*counted_rounds*",
    ]);
    command
        .arg(std::env::current_exe()?)
        .arg("run")
        .arg(name)
        .arg(ROUNDS.to_string());
    let output = command
        .output()
        .context("cannot run valgrind: install it (Debian: `apt install valgrind`)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`{name}` does not run under valgrind: {said}"
    );
    let count = collected(&said).filter(|count| *count > 0);
    let count = count.with_context(|| format!("valgrind counted nothing of `{name}`: {said}"))?;
    Ok(count / u64::from(ROUNDS))
}

/// The number in valgrind's line `==7== Collected : 1234`.
fn collected(said: &str) -> Option<u64> {
    let line = said.lines().find_map(|line| line.split_once("Collected : "));
    line?.1.trim().parse().ok()
}

/// Reads the committed counts.
///
/// # Errors
/// When they cannot be read.
pub fn committed() -> anyhow::Result<Counts> {
    let path = file();
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no committed counts in `{}`: write them with --update",
            path.display()
        )
    })?;
    Ok(serde_json::from_str(&text)?)
}

/// Writes the committed counts.
///
/// # Errors
/// When they cannot be written.
pub fn update(counts: &Counts) -> anyhow::Result<()> {
    std::fs::write(file(), format!("{}\n", serde_json::to_string_pretty(counts)?))?;
    Ok(())
}

/// How a path compares with its committed count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// About as before.
    Same,
    /// It needs more.
    Regression,
    /// It needs less: the committed count is to be renewed, so that this cannot be lost unnoticed.
    Better,
    /// It is counted and not committed, or the other way round.
    Unknown,
}

/// One line for each path of either.
#[must_use]
pub fn compare(committed: &Counts, counted: &Counts) -> Vec<(String, Option<u64>, Option<u64>, Verdict)> {
    let mut names: Vec<&String> = committed.keys().chain(counted.keys()).collect();
    names.sort();
    names.dedup();
    let judge = |name: &String| {
        let (was, is) = (committed.get(name).copied(), counted.get(name).copied());
        let verdict = match (was, is) {
            (Some(was), Some(is)) if is * 100 > was * (100 + TOLERANCE_PERCENT) => Verdict::Regression,
            (Some(was), Some(is)) if is * 100 < was * (100 - TOLERANCE_PERCENT) => Verdict::Better,
            (Some(_), Some(_)) => Verdict::Same,
            _ => Verdict::Unknown,
        };
        (name.clone(), was, is, verdict)
    };
    names.into_iter().map(judge).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(of: &[(&str, u64)]) -> Counts {
        of.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn more_than_the_tolerance_is_a_regression() {
        let was = counts(&[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 1)]);
        let is = counts(&[("a", 1051), ("b", 1050), ("c", 900), ("new", 1)]);
        let verdicts: Vec<Verdict> = compare(&was, &is).into_iter().map(|line| line.3).collect();
        let expected = [
            Verdict::Regression,
            Verdict::Same,
            Verdict::Better,
            Verdict::Unknown,
            Verdict::Unknown,
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn the_count_is_read_from_what_valgrind_says() {
        assert_eq!(
            collected("==7== Events    : Ir\n==7== Collected : 1234\n"),
            Some(1234)
        );
        assert_eq!(collected("==7== nothing"), None);
    }

    #[test]
    fn every_path_that_is_guarded_has_a_committed_count() {
        let committed = committed().unwrap();
        let raw: Vec<&str> = RAW.iter().map(|(_, raw)| *raw).collect();
        for name in hot::PATHS.iter().filter(|name| !raw.contains(name)) {
            assert!(committed.contains_key(*name), "{name} has none");
        }
    }
}
