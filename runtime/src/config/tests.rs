//! Tests of the config loader: what a mistake in a file is told as.

use std::time::Duration;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    trust_domain: String,
    listen: std::net::SocketAddr,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    peers: Vec<Peer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    handshake_timeout: Option<Span>,
    max_message: Option<ByteSize>,
    max_connections: Option<u16>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

const GOOD: &str = "trust_domain = \"example.org\"\nlisten = \"127.0.0.1:8081\"\n";

fn refused(extra: &str) -> ConfigError {
    parse::<Sample>(&format!("{GOOD}{extra}"), "server.toml").unwrap_err()
}

#[test]
fn a_good_file_is_read() {
    let text = format!(
        "{GOOD}[limits]\nhandshake_timeout = \"5s\"\nmax_message = \"4MiB\"\n[[peers]]\nname = \"a\""
    );
    let sample: Sample = parse(&text, "server.toml").unwrap();
    assert_eq!(sample.trust_domain, "example.org");
    assert_eq!(sample.listen.port(), 8081);
    assert_eq!(
        sample.limits.handshake_timeout.unwrap().get(),
        Duration::from_secs(5)
    );
    assert_eq!(sample.limits.max_message.unwrap().get(), 4 << 20);
    assert!(sample.limits.max_connections.is_none());
    assert_eq!(sample.peers[0].name, "a");
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_key() {
    assert_eq!(
        parse::<Sample>("trust_domian = \"example.org\"", "server.toml")
            .unwrap_err()
            .to_string(),
        "server.toml, line 1: unknown key `trust_domian`; did you mean `trust_domain`?"
    );
    assert_eq!(
        refused("\n# a comment\n[limits]\nhandshake_timout = \"5s\"\n").to_string(),
        "server.toml, line 6: unknown key `limits.handshake_timout`; did you mean `handshake_timeout`?"
    );
    assert_eq!(
        refused("[[peers]]\nname = \"a\"\n[[peers]]\nname = \"b\"\nnmae = \"c\"\n").to_string(),
        "server.toml, line 7: unknown key `peers.nmae`; did you mean `name`?"
    );
    assert_eq!(
        refused("limits.max_conections = 5").to_string(),
        "server.toml, line 3: unknown key `limits.max_conections`; did you mean `max_connections`?"
    );
    assert_eq!(
        refused("[limitz]\n").to_string(),
        "server.toml, line 3: unknown key `limitz`; did you mean `limits`?"
    );
}

#[test]
fn an_unknown_key_like_no_other_lists_what_may_stand_there() {
    assert_eq!(
        refused("zzz = 1").to_string(),
        "server.toml, line 3: unknown key `zzz`; known here: trust_domain, listen, limits, peers"
    );
    assert_eq!(
        parse::<Nothing>("a = 1", "x").unwrap_err().to_string(),
        "x, line 1: unknown key `a`; no key may stand here"
    );
}

#[test]
fn a_missing_key_is_named_with_its_table() {
    assert_eq!(
        parse::<Sample>("trust_domain = \"example.org\"\n[limits]\n", "server.toml")
            .unwrap_err()
            .to_string(),
        "server.toml: required key `listen` is missing"
    );
    assert_eq!(
        refused("[[peers]]\n").to_string(),
        "server.toml: required key `peers.name` is missing"
    );
}

#[test]
fn a_wrong_type_names_line_and_key() {
    let text = refused("[limits]\nmax_connections = \"many\"\n").to_string();
    assert!(
        text.starts_with("server.toml, line 4: key `limits.max_connections`: "),
        "{text}"
    );
    let text = refused("[limits]\nmax_connections = 70000\n").to_string();
    assert!(
        text.starts_with("server.toml, line 4: key `limits.max_connections`: "),
        "{text}"
    );
    let text = parse::<Sample>("trust_domain = \"a\"\nlisten = \"nowhere\"", "server.toml")
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("server.toml, line 2: key `listen`: "), "{text}");
}

#[test]
fn a_bare_number_for_a_duration_or_a_size_is_refused_with_a_hint() {
    let text = refused("[limits]\nhandshake_timeout = 5\n").to_string();
    assert!(
        text.contains("line 4: key `limits.handshake_timeout`") && text.contains("\"90s\""),
        "{text}"
    );
    let text = refused("[limits]\nhandshake_timeout = \"5\"\n").to_string();
    assert!(text.contains("the unit is missing"), "{text}");
    let text = refused("[limits]\nmax_message = 65536\n").to_string();
    assert!(text.contains("\"64KiB\""), "{text}");
    let text = refused("[limits]\nmax_message = \"64kb\"\n").to_string();
    assert!(text.contains("`64kb` is not a size"), "{text}");
}

#[test]
fn text_that_is_not_toml_is_named_with_its_line() {
    let text = refused("listen [").to_string();
    assert!(text.starts_with("server.toml, line 3: not TOML: "), "{text}");
    assert!(!text.contains('\n'), "{text}");
    let text = refused("listen = \"127.0.0.1:1\"").to_string();
    assert!(
        text.starts_with("server.toml, line 3: not TOML: duplicate key"),
        "{text}"
    );
}

#[test]
fn files_that_cannot_be_read_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.toml");
    assert!(matches!(load::<Sample>(&file), Err(ConfigError::Missing(_))));
    assert!(matches!(
        load::<Sample>(dir.path()),
        Err(ConfigError::Unreadable { .. })
    ));
    std::fs::write(&file, b"trust_domain = \"\xff\"").unwrap();
    assert!(matches!(load::<Sample>(&file), Err(ConfigError::NotText(_))));
    std::fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(load::<Sample>(&file), Err(ConfigError::TooLong(_))));
    std::fs::write(&file, GOOD).unwrap();
    assert!(load::<Sample>(&file).is_ok());
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _outcome = parse::<Sample>(&text, "x");
    }

    #[test]
    fn no_toml_like_text_panics(lines in prop::collection::vec("(\\[{1,2}[a-z.]{0,9}\\]{1,2}|(listen|limits|peers|trust_domain|[a-z]{1,4})(\\.[a-z]{1,3})? ?= ?([0-9]{1,4}|\"[a-zé]{0,4}\"|\\{a=1\\}|\\[\\{\\}\\]|\\[1,2\\]))", 0..8)) {
        let _outcome = parse::<Sample>(&lines.join("\n"), "x");
    }

    #[test]
    fn a_span_and_a_size_read_back_what_they_show(millis in 0_u64..u64::from(u32::MAX) * 1000, bytes in any::<u64>()) {
        let span = Span::new(Duration::from_millis(millis));
        prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        let size = ByteSize::bytes(bytes);
        prop_assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
    }
}
