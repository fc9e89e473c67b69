//! The smallest file works; unknown keys, and keys that contradict each other, are refused by name.

use vouchsafe_runtime::config::parse;

use super::*;

const SMALLEST: &str = r#"
trust_domain = "example.org"
data_dir = "/var/lib/vouchsafe"
listen = "127.0.0.1:8081"
admin_socket = "/run/x/server.sock"
"#;

fn with(extra: &str) -> Config {
    parse(&format!("{SMALLEST}{extra}"), "server.toml").unwrap()
}

#[test]
fn the_smallest_file_works() {
    let config = with("");
    config.check().unwrap();
    assert_eq!(config.agent_svid_ttl(), Duration::from_secs(3600));
    assert_eq!(config.asserted_entries, AssertedEntries::Warn);
}

#[test]
fn an_unknown_key_is_refused() {
    let refused = parse::<Config>(&format!("{SMALLEST}\nadmin_sockets = \"x\""), "server.toml").unwrap_err();
    assert!(refused.to_string().contains("admin_socket"), "{refused}");
}

#[test]
fn issuers_are_uris_or_plain_words() {
    for good in ["https://oidc.example.org/x", "urn:example:issuer", "vouchsafe"] {
        with(&format!("jwt_issuer = \"{good}\"")).check().unwrap();
    }
}

#[test]
fn keys_that_do_not_go_together_are_refused_by_name() {
    for (extra, named) in [
        ("ca_ttl = \"10s\"", "ca_ttl"),
        ("ca_ttl = \"99999999999999h\"", "ca_ttl"),
        ("default_x509_svid_ttl = \"25h\"", "default_x509_svid_ttl"),
        ("agent_ttl = \"0s\"", "agent_ttl"),
        ("admin_ids = [\"spiffe://other.org/a\"]", "spiffe://other.org/a"),
        ("admin_ids = [\"spiffe://example.org\"]", "admin_ids"),
        ("jwt_issuer = \"\"", "jwt_issuer"),
        ("jwt_issuer = \"https://x/ y\"", "jwt_issuer"),
        ("jwt_issuer = \"1:x\"", "jwt_issuer"),
        ("jwt_issuer = \"https:\"", "jwt_issuer"),
        ("[log]\nlevel = \"inof\"", "log.level"),
        ("[metrics]\naddress = \"0.0.0.0:9988\"", "metrics.allow_remote"),
        ("[limits]\nmax_calls = 0", "max_calls"),
        ("[limits]\nsync_timeout = \"0s\"", "sync_timeout"),
        ("[limits]\nmax_request_size = \"0B\"", "max_request_size"),
    ] {
        let refused = with(extra).check().unwrap_err();
        assert!(refused.to_string().contains(named), "{extra}: {refused}");
    }
}
