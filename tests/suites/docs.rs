//! The pages for users say the truth: commands parse, links lead somewhere, lists equal what the programs do.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "docs/events.rs"]
mod events;
#[path = "docs/help.rs"]
mod help;
#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/methods.rs"]
mod methods;
#[path = "docs/shell.rs"]
mod shell;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use markdown::{Page, quoted};
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::repository;

/// Exit code of all our programs when the command line is wrong.
const WRONG_USAGE: i32 = 64;
const PROGRAMS: [&str; 3] = ["vouchsafe", "vouchsafe-server", "vouchsafe-agent"];
/// Flags and variables that name a socket or a file that a daemon would open.
const PATH_FLAGS: [&str; 4] = [
    "--server-socket",
    "--agent-admin-socket",
    "--workload-socket",
    "--config",
];
const NOWHERE: &str = "/nonexistent/vouchsafe";

fn page(name: &str) -> Page {
    Page::read(&repository().join(name)).unwrap()
}

/// The command without effects: it finds no socket, no configuration and no daemons to start.
fn harmless(words: &[String]) -> Vec<String> {
    let mut words = words.to_vec();
    let mut is_path = false;
    for word in &mut words {
        let flag = PATH_FLAGS.iter().find(|flag| {
            word.strip_prefix(**flag)
                .is_some_and(|rest| rest.starts_with('='))
        });
        if std::mem::replace(&mut is_path, PATH_FLAGS.contains(&word.as_str())) {
            NOWHERE.clone_into(word);
        } else if let Some(flag) = flag {
            *word = format!("{flag}={NOWHERE}");
        }
    }
    if words.iter().any(|word| word == "dev") {
        words.push("--help".to_owned());
    }
    words
}

/// Runs a command that a page shows; what it says when its words are wrong.
fn complaint(words: &[String]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let name = Path::new(program).file_name()?.to_str()?;
    if !PROGRAMS.contains(&name) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(binary(name).unwrap())
        .args(harmless(arguments))
        .envs(
            [
                "VOUCHSAFE_SERVER_SOCKET",
                "VOUCHSAFE_AGENT_ADMIN_SOCKET",
                "SPIFFE_ENDPOINT_SOCKET",
                "VOUCHSAFE_LAUNCH_SOCKET",
            ]
            .map(|name| (name, NOWHERE)),
        )
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let wrong = output.status.code().is_none_or(|code| code == WRONG_USAGE);
    wrong.then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn commands_parse() {
    let mut pages = Page::all(&repository().join("docs")).unwrap();
    pages.push(page("README.md"));
    let (mut seen, mut wrong) = (0, String::new());
    for page in &pages {
        for fence in page.fences() {
            for words in shell::commands(&fence.language, &fence.text) {
                seen += usize::from(
                    PROGRAMS
                        .iter()
                        .any(|name| words.first().is_some_and(|word| word.ends_with(name))),
                );
                if let Some(complaint) = complaint(&words) {
                    wrong.push_str(&format!(
                        "\n{}: `{}`\n{complaint}",
                        page.path.display(),
                        words.join(" ")
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(seen > 30, "only {seen} commands of ours were found in the pages");
}

#[test]
fn a_command_that_does_not_parse_is_found() {
    let words = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    for bad in [
        "vouchsafe entry frob",
        "vouchsafe entry create --spiffe-id spiffe://example.org/a",
        "vouchsafe entry show --server-socket=/run/x --spiffe-idd a",
        "vouchsafe-server run",
        "target/release/vouchsafe-agent run --config x --frob",
    ] {
        assert!(complaint(&words(bad)).is_some(), "{bad}");
    }
    assert!(complaint(&words("vouchsafe health --server-socket /run/x")).is_none());
    assert!(complaint(&words("ls --frob")).is_none());
}

#[test]
fn links_lead_somewhere() {
    let mut broken = String::new();
    for page in Page::all(repository()).unwrap() {
        for link in page.links() {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = page.path.parent().unwrap();
            let target = if file.is_empty() {
                page.path.clone()
            } else {
                folder.join(file)
            };
            let there = target.exists()
                && (anchor.is_empty() || Page::read(&target).unwrap().anchors().iter().any(|a| a == anchor));
            if !there {
                broken.push_str(&format!("\n{}: {link}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}

/// Every page can be found from the index.
#[test]
fn the_index_names_every_page() {
    let docs = repository().join("docs");
    let index = Page::read(&docs.join("README.md")).unwrap();
    for page in Page::all(&docs).unwrap() {
        let name = page.path.strip_prefix(&docs).unwrap().display().to_string();
        let listed = name == "README.md" || index.links().iter().any(|link| *link == name);
        assert!(listed, "docs/README.md does not name `{name}`");
    }
}

/// Every command and flag has its place in the page, and the page names no flag that is not there.
#[test]
fn the_page_of_the_command_line_is_complete() {
    let page = page("docs/cli.md");
    let commands = help::commands(&binary("vouchsafe").unwrap()).unwrap();
    assert!(commands.len() > 15, "{commands:?}");
    for command in &commands {
        let name = command.name();
        assert!(
            page.text.contains(&format!("`{name}`")) || page.text.contains(&format!("`{name} ")),
            "no word on `{name}`"
        );
        for flag in &command.flags {
            assert!(page.text.contains(flag), "no word on `{flag}` of `{name}`");
        }
    }
    let known: BTreeSet<&str> = commands
        .iter()
        .flat_map(|command| &command.flags)
        .map(String::as_str)
        .collect();
    for flag in help::flags(&page.text) {
        assert!(
            known.contains(flag.as_str()),
            "docs/cli.md names `{flag}`, which no command has"
        );
    }
}

/// The names that the table lists are those that the code uses, and no value stands in a message.
#[test]
fn log_fields_have_fixed_names() {
    let listed: BTreeSet<String> = page("docs/logging.md")
        .table("field")
        .iter()
        .flat_map(|row| quoted(&row[0]))
        .collect();
    let mut used: BTreeMap<String, String> = BTreeMap::new();
    let mut formatted = String::new();
    for file in help::production_sources(repository()).unwrap() {
        let source = std::fs::read_to_string(&file).unwrap();
        let place = file.strip_prefix(repository()).unwrap().display().to_string();
        for event in events::events(&source).unwrap_or_else(|error| panic!("{place}: {error}")) {
            let place = format!("{place}:{}", event.line);
            if event.formatted {
                formatted.push_str(&format!(
                    "\n{place}: a value stands in the message; make it a field"
                ));
            }
            used.extend(event.fields.into_iter().map(|field| (field, place.clone())));
        }
    }
    assert!(formatted.is_empty(), "{formatted}");
    let unlisted: Vec<_> = used
        .iter()
        .filter(|(field, _)| !listed.contains(*field))
        .collect();
    assert!(unlisted.is_empty(), "docs/logging.md does not list {unlisted:#?}");
    let unused: Vec<&String> = listed.iter().filter(|field| !used.contains_key(*field)).collect();
    assert!(
        unused.is_empty(),
        "docs/logging.md lists {unused:?}, which nothing logs"
    );
}

/// The page of what SPIRE's users find here names each method of SPIRE's server once, and the server answers so.
#[tokio::test]
async fn the_server_has_the_methods_that_the_page_names() {
    let rows = page("docs/spire.md").table("service");
    let row = |row: &Vec<String>| (quoted(&row[0]).remove(0), (quoted(&row[1]), quoted(&row[2])));
    let listed: BTreeMap<_, _> = rows.iter().map(row).collect();
    let answered = methods::answered().await.unwrap();
    assert_eq!(
        listed.keys().collect::<Vec<_>>(),
        answered.keys().collect::<Vec<_>>(),
        "the services that the page lists"
    );
    for (service, (there, absent)) in answered {
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let (says_there, says_absent) = listed[&service].clone();
        assert_eq!(
            sorted(says_there),
            sorted(there),
            "methods of {service} that are there"
        );
        assert_eq!(
            sorted(says_absent),
            sorted(absent),
            "methods of {service} that are not there yet"
        );
    }
}
