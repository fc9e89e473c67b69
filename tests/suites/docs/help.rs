//! What the programs themselves say of their commands, and which files make them up.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use anyhow::Context;

/// A command of the command line.
#[derive(Debug)]
pub(crate) struct Command {
    words: Vec<String>,
    pub(crate) flags: BTreeSet<String>,
}

impl Command {
    /// As in `entry create`.
    pub(crate) fn name(&self) -> String {
        self.words.join(" ")
    }
}

/// Every command with its flags, by asking for help recursively. Groups are not commands, but for those that take a
/// command of the user's too.
pub(crate) fn commands(program: &Path) -> anyhow::Result<Vec<Command>> {
    let (mut found, mut open) = (Vec::new(), vec![Vec::<String>::new()]);
    while let Some(words) = open.pop() {
        let output = Process::new(program).args(&words).arg("--help").output()?;
        let help = String::from_utf8(output.stdout).context("help is text")?;
        let below = subcommands(&help);
        if below.is_empty() || help.contains(" -- <") {
            found.push(Command {
                flags: flags(&help),
                words: words.clone(),
            });
        }
        if !below.is_empty() {
            open.extend(below.into_iter().map(|name| [words.as_slice(), &[name]].concat()));
        }
    }
    Ok(found)
}

fn subcommands(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty());
    let names = names.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The long flags that a text names.
pub(crate) fn flags(text: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts = text.match_indices("--").map(|(at, _)| at);
    let fresh = starts.filter(|at| !text[..*at].ends_with(|c: char| part(c) || c.is_alphanumeric()));
    let flags = fresh.map(|at| text[at..].chars().take_while(|c| part(*c)).collect::<String>());
    flags
        .filter(|flag| flag.len() > 3 && flag.bytes().any(|b| b.is_ascii_lowercase()))
        .collect()
}

/// The Rust files of the programs, without tests.
pub(crate) fn production_sources(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for found in std::fs::read_dir(&folder)? {
            let path = found?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() && !["target", "tests", "fuzz"].contains(&name) && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") && !["tests.rs", "testing.rs", "contract.rs"].contains(&name) {
                files.push(path);
            }
        }
    }
    anyhow::ensure!(files.len() > 50, "only {} files found", files.len());
    Ok(files)
}

#[test]
fn flags_are_found_in_help_and_in_prose() {
    let text =
        "  -h, --help\n      --match-selectors-on <HOW>\n`--x`, a--b, `entry --x509-svid-ttl=1h` |---|----|";
    let found: Vec<String> = flags(text).into_iter().collect();
    assert_eq!(found, ["--help", "--match-selectors-on", "--x509-svid-ttl"]);
}

#[test]
fn commands_stand_below_their_heading() {
    let help = "Vouchsafe\n\nCommands:\n  entry  Entries\n  token  Tokens\n           more\n  help   Help\n\nOptions:\n  -h\n";
    assert_eq!(subcommands(help), ["entry", "token"]);
    assert!(subcommands("Usage: x\n").is_empty());
}
