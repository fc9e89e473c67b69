//! The sample configurations say the truth: they are parsed by the daemons' own types, name every key that there is,
//! show the real defaults, and fit the systemd units and the command line.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail as tests do"
)]

#[path = "samples/sample.rs"]
mod sample;

use std::path::Path;
use std::process::Command;

use sample::{Line, Sample, known_keys};
use serde::de::DeserializeOwned;
use vouchsafe_runtime::config::{ConfigError, parse};
use vouchsafe_tests::daemons::binary;
use vouchsafe_tests::repository;

/// How a daemon checks what its loader cannot see.
type Check<T> = fn(&T) -> Result<(), String>;

fn file(name: &str) -> String {
    let path = repository().join("packaging").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn accepted<T: DeserializeOwned>(text: &str, check: Check<T>) -> Result<T, String> {
    let config: T = parse(text, "the sample").map_err(|error| error.to_string())?;
    check(&config)?;
    Ok(config)
}

/// Every key is there once, with words before it.
fn names_every_key<T: DeserializeOwned>(name: &str) {
    let sample = Sample::read(&file(name));
    let (known, shown) = (known_keys::<T>(), sample.keys());
    assert!(known.len() > 5, "{known:?}");
    assert_eq!(known, shown, "keys of {name}");
    for line in &sample.lines {
        assert!(!line.words.is_empty(), "{name} says nothing about `{}`", line.key);
    }
}

/// What is commented out changes nothing when it is set, unless the words say that there is no default.
fn shows_defaults<T: DeserializeOwned + std::fmt::Debug>(name: &str, check: Check<T>) {
    let sample = Sample::read(&file(name));
    let as_it_is = format!("{:#?}", accepted(&sample.text(|line| line.set), check).unwrap());
    for off in sample.lines.iter().filter(|line| !line.set) {
        let with = sample.text(|line| line.set || line.key == off.key);
        let config = accepted(&with, check).unwrap_or_else(|error| panic!("{name}, `{}`: {error}", off.key));
        let same = format!("{config:#?}") == as_it_is;
        let example = off.says("No default");
        assert_eq!(
            same, !example,
            "{name}, `{}`: the value shown is the default: {same}",
            off.key
        );
    }
}

/// "Required" stands beside the keys without which the daemon refuses the file, and beside no other.
fn marks_what_is_required<T: DeserializeOwned>(name: &str, check: Check<T>) {
    let sample = Sample::read(&file(name));
    for one in &sample.lines {
        let without = sample.text(|line| line.set && line.key != one.key);
        let required = accepted(&without, check).is_err();
        assert_eq!(one.says("Required"), required, "{name}, `{}`", one.key);
    }
}

/// The smallest file works, and no line of it can go.
fn is_the_smallest<T: DeserializeOwned>(text: &str, check: Check<T>) {
    accepted(text, check).unwrap();
    let sample = Sample::read(text);
    for one in &sample.lines {
        let without = sample.text(|line| line.key != one.key);
        assert!(accepted(&without, check).is_err(), "works without `{}`", one.key);
    }
}

fn check_server(config: &vouchsafe_server::config::Config) -> Result<(), String> {
    config.check().map_err(|error| error.to_string())
}

#[test]
fn the_server_sample_names_every_key() {
    names_every_key::<vouchsafe_server::config::Config>("config/server.toml");
}

#[test]
fn the_server_sample_shows_the_defaults() {
    shows_defaults("config/server.toml", check_server);
}

#[test]
fn the_server_sample_marks_what_is_required() {
    marks_what_is_required("config/server.toml", check_server);
}

#[test]
fn the_smallest_server_file_works() {
    is_the_smallest(&file("config/server-minimal.toml"), check_server);
    is_the_smallest(
        "trust_domain = \"example.org\"\ndata_dir = \"/var/lib/vouchsafe\"\nlisten = \"127.0.0.1:8081\"\n\
         admin_socket = \"/run/x/server.sock\"\n",
        check_server,
    );
}

fn check_agent(config: &vouchsafe_agent::config::Config) -> Result<(), String> {
    config.check().map_err(|error| error.to_string())
}

#[test]
fn the_agent_sample_names_every_key() {
    names_every_key::<vouchsafe_agent::config::Config>("config/agent.toml");
}

#[test]
fn the_agent_sample_shows_the_defaults() {
    shows_defaults("config/agent.toml", check_agent);
}

#[test]
fn the_agent_sample_marks_what_is_required() {
    marks_what_is_required("config/agent.toml", check_agent);
}

#[test]
fn the_smallest_agent_file_works() {
    is_the_smallest(&file("config/agent-minimal.toml"), check_agent);
    is_the_smallest(
        "trust_domain = \"example.org\"\ndata_dir = \"/var/lib/vouchsafe-agent\"\n\
         server_address = \"127.0.0.1:8081\"\nworkload_socket = \"/run/x/agent.sock\"\n\
         trust_bundle = \"/run/x/bundle.pem\"\n",
        check_agent,
    );
}

#[test]
fn an_unknown_key_in_a_sample_would_be_found() {
    let text = format!("{}\nmax_calls_per_day = 3\n", file("config/server.toml"));
    let refused = parse::<vouchsafe_server::config::Config>(&text, "the sample").unwrap_err();
    assert!(matches!(refused, ConfigError::UnknownKey { .. }), "{refused}");
}

/// The value of a directive in a systemd unit.
fn directive<'a>(unit: &'a str, name: &str) -> &'a str {
    let start = format!("{name}=");
    let found = unit.lines().find_map(|line| line.strip_prefix(&start));
    found.unwrap_or_else(|| panic!("the unit has no `{name}`"))
}

/// The unit makes the folders that the sample names, and starts the daemon with the file that the sample becomes.
fn unit_fits(daemon: &str, sockets: &[&str]) {
    let unit = file(&format!("systemd/vouchsafe-{daemon}.service"));
    let sample = Sample::read(&file(&format!("config/{daemon}.toml")));
    let start = format!("/usr/bin/vouchsafe-{daemon} run --config /etc/vouchsafe/{daemon}.toml");
    assert_eq!(directive(&unit, "ExecStart"), start);
    let state = Path::new("/var/lib").join(directive(&unit, "StateDirectory"));
    assert_eq!(Path::new(&sample.value("data_dir")), state);
    let run = Path::new("/run").join(directive(&unit, "RuntimeDirectory"));
    for socket in sockets {
        let path = sample.value(socket);
        assert_eq!(Path::new(&path).parent(), Some(run.as_path()), "{socket}");
    }
}

#[test]
fn the_units_fit_the_samples() {
    unit_fits("server", &["admin_socket"]);
    unit_fits("agent", &["admin_socket", "workload_socket"]);
}

/// Rows of the first table of a page whose head begins so.
fn rows(page: &str, head: &str) -> Vec<Vec<String>> {
    let lines = page.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |row: &str| {
        row.trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

/// Each limit that can be configured stands in the page of limits, with its default.
#[test]
fn the_page_of_limits_names_every_limit_with_its_default() {
    let page = std::fs::read_to_string(repository().join("docs/limits.md")).unwrap();
    for (daemon, tables, prefix) in [
        ("server", &["limits."][..], "limits."),
        ("agent", &["limits.", "cache."], ""),
    ] {
        let sample = Sample::read(&file(&format!("config/{daemon}.toml")));
        let rows = rows(&page, &format!("| key of the {daemon} |"));
        let listed: Vec<(String, String)> = rows
            .iter()
            .map(|row| (format!("{prefix}{}", row[0].trim_matches('`')), row[1].clone()))
            .collect();
        for line in &sample.lines {
            if tables.iter().any(|table| line.key.starts_with(table)) {
                let found = listed.iter().find(|(key, _)| *key == line.key);
                let (_, default) =
                    found.unwrap_or_else(|| panic!("docs/limits.md does not list `{}`", line.key));
                assert_eq!(*default, sample.value(&line.key), "{}", line.key);
            }
        }
        let keys = sample.keys();
        for (key, _) in &listed {
            assert!(
                keys.contains(key),
                "docs/limits.md lists `{key}`, which the {daemon} has not"
            );
        }
    }
}

/// The sockets that systemd may hold are those of the samples, and no wider open.
#[test]
fn the_socket_units_fit_the_samples() {
    let listens = |unit: &str| -> Vec<String> {
        let lines = unit.lines().filter_map(|line| line.strip_prefix("ListenStream="));
        lines.map(str::to_owned).collect()
    };
    for (daemon, keys, mode) in [
        ("server", &["listen", "admin_socket"][..], "0600"),
        ("agent", &["workload_socket"], "0666"),
    ] {
        let unit = file(&format!("systemd/vouchsafe-{daemon}.socket"));
        let sample = Sample::read(&file(&format!("config/{daemon}.toml")));
        let wanted: Vec<String> = keys.iter().map(|key| sample.value(key)).collect();
        assert_eq!(listens(&unit), wanted, "{daemon}");
        assert_eq!(directive(&unit, "SocketMode"), mode);
        // Else the file of a socket that systemd still holds would go with the service's folder.
        let service = file(&format!("systemd/vouchsafe-{daemon}.service"));
        assert_eq!(directive(&service, "RuntimeDirectoryPreserve"), "yes");
    }
}

/// An end that an operator must look at is not answered by starting again, every two seconds for ever.
#[test]
fn the_units_do_not_start_again_what_cannot_succeed() {
    use vouchsafe_runtime::ExitCode;
    for daemon in ["server", "agent"] {
        let unit = file(&format!("systemd/vouchsafe-{daemon}.service"));
        let kept = directive(&unit, "RestartPreventExitStatus");
        for code in [ExitCode::Usage, ExitCode::NoPermission, ExitCode::Config] {
            let number = (code as u8).to_string();
            assert!(kept.split(' ').any(|one| one == number), "{daemon}: {code:?}");
        }
    }
}

/// The command line finds the sockets of the samples without being told.
#[test]
fn the_command_line_finds_the_sockets_of_the_samples() {
    let help = Command::new(binary("vouchsafe").unwrap())
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for (sample, keys) in [
        ("config/server.toml", &["admin_socket"][..]),
        ("config/agent.toml", &["admin_socket", "workload_socket"]),
    ] {
        let sample = Sample::read(&file(sample));
        for key in keys {
            let default = format!("[default: {}]", sample.value(key));
            assert!(help.contains(&default), "{default} is not in:\n{help}");
        }
    }
}

#[test]
fn lines_that_are_neither_words_nor_keys_are_refused() {
    let refused = std::panic::catch_unwind(|| Sample::read("# Words\n#  x: 3\n#broken\n"));
    assert!(refused.is_err());
    let sample = Sample::read("# Words\n# about a.\na = 1\n\n# On b.\n[t]\n\n# c, No default.\n#c = \"x\"\n");
    let keys: Vec<&str> = sample.lines.iter().map(|line: &Line| line.key.as_str()).collect();
    assert_eq!(keys, ["a", "t.c"]);
    assert_eq!(sample.text(|line| line.set), "a = 1\n[t]\n");
    assert!(sample.lines[1].says("No default") && !sample.lines[0].says("No default"));
}
