//! What an operator can get wrong, and the smallest file that works.

use vouchsafe_runtime::config::parse;

use super::*;

const SMALLEST: &str = r#"
trust_domain = "example.org"
data_dir = "/var/lib/vouchsafe-agent"
server_address = "127.0.0.1:8081"
workload_socket = "/run/x/agent.sock"
trust_bundle = "/run/x/bundle.pem"
"#;

fn checked(more: &str) -> Result<Config, String> {
    let config: Config = parse(&format!("{more}{SMALLEST}"), "agent.toml").map_err(|e| e.to_string())?;
    config.check().map_err(|e| e.to_string())?;
    Ok(config)
}

#[test]
fn the_smallest_file_works() {
    let config = checked("").unwrap();
    assert_eq!(
        config.admin_socket(),
        Path::new("/var/lib/vouchsafe-agent/admin.sock")
    );
    assert_eq!(config.sync_interval.get(), Duration::from_secs(5));
    assert_eq!(config.hold_unmatched.get(), Duration::ZERO);
}

#[test]
fn mistakes_are_named() {
    for (more, part) in [
        ("sync_intervall = \"5s\"\n", "`sync_interval`"),
        ("sync_interval = 5\n", "unit"),
        ("sync_interval = \"1ms\"\n", "`sync_interval` of 1ms"),
        ("insecure_bootstrap = true\n", "remove one of them"),
        ("hold_unmatched = \"11m\"\n", "`hold_unmatched` of 11m"),
        (
            "limits.max_held_calls_per_uid = 0\n",
            "`limits.max_held_calls_per_uid` is 0",
        ),
        ("join_token = \"a b\"\n", "join token"),
        (
            "join_token = \"a\"\njoin_token_file = \"/x\"\n",
            "remove one of them",
        ),
        ("admin_socket = \"/run/x/agent.sock\"\n", "a path of its own"),
        (
            "launch.socket = \"/run/x/agent.sock\"\n",
            "`launch.socket` are both",
        ),
        ("cache.x509_svids = 0\n", "`cache.x509_svids` is 0"),
        ("seal_key = \"credential:../x\"\n", "none of `file`"),
        ("limits.max_streams = 1\n", "limits.max_streams"),
        (
            "attest.presence_timeout = \"1h\"\n",
            "`attest.presence_timeout` of 1h",
        ),
        (
            "attest.presence_exempt_uids = [\"nobody\"]\n",
            "attest.presence_exempt_uids",
        ),
        ("log.level = \"loud\"\n", "log.level"),
        ("metrics.address = \"[::]:1\"\n", "metrics.allow_remote"),
    ] {
        let refused = checked(more).unwrap_err();
        assert!(refused.contains(part), "{more}: {refused}");
    }
}

#[test]
fn without_a_way_to_know_the_server_there_is_no_start() {
    let text = SMALLEST.replace("trust_bundle", "join_token_file");
    let config: Config = parse(&text, "agent.toml").unwrap();
    assert!(matches!(config.check(), Err(BadConfig::NoTrust)));
}

#[test]
fn a_token_is_not_shown() {
    let config = checked("join_token = \"sesame-12345\"\n").unwrap();
    assert!(!format!("{config:?}").contains("sesame"));
}

#[test]
fn a_token_file_may_end_in_a_line_break_and_must_hold_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, "sesame\n").unwrap();
    assert_eq!(read_token(&path).unwrap().expose(), "sesame");
    std::fs::write(&path, "open sesame\n").unwrap();
    let refused = read_token(&path).unwrap_err();
    assert!(matches!(refused, TokenFileError::Malformed { .. }));
    assert!(matches!(
        read_token(&dir.path().join("none")),
        Err(TokenFileError::Unreadable { .. })
    ));
}
