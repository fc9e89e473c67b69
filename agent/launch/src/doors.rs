//! Doors that a runtime opens to its own uid, and how its arguments shut them: node opens its inspector on SIGUSR1,
//! Java takes agents from anybody of its uid.

use std::ffi::OsString;
use std::path::Path;

/// Where node is told to listen when a signal has its inspector opened: at an address for documentation (RFC 5737 §3), which no
/// host has, so that it listens nowhere, from its first instruction on and whether or not it knows `--disable-sigusr1`. A program
/// that opens its inspector itself may name another.
const NO_INSPECTOR: &str = "--inspect-port=192.0.2.1:9229";
const NO_ATTACH: &str = "-XX:+DisableAttachMechanism";

/// Puts what shuts a runtime's doors behind `argv[0]`.
pub(crate) fn shut(program: &Path, argv: &mut Vec<OsString>) {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    // As in `node22`, `node-20.1` and `nodejs-v18`.
    let numbered = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let plain = name.trim_end_matches(numbered);
    let plain = plain
        .strip_suffix('v')
        .unwrap_or(plain)
        .trim_end_matches(numbered);
    let argument = match plain {
        "node" | "nodejs" => NO_INSPECTOR,
        "java" => NO_ATTACH,
        _ => return,
    };
    argv.insert(1.min(argv.len()), argument.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut_for(program: &str, argv: &[&str]) -> Vec<OsString> {
        let mut argv = argv.iter().map(OsString::from).collect();
        shut(Path::new(program), &mut argv);
        argv
    }

    #[test]
    fn only_known_runtimes_get_arguments_and_before_their_own() {
        for other in [
            "/usr/bin/python3",
            "/usr/bin/nodeagent",
            "/opt/node/bin/deno",
            "/usr/bin/javac",
        ] {
            assert_eq!(shut_for(other, &["x", "a"]), ["x", "a"], "{other}");
        }
        for node in [
            "/usr/bin/node",
            "/usr/bin/nodejs",
            "/opt/node22",
            "/opt/node-20.1",
            "/opt/nodejs-v18.19.1",
            "/opt/node_v20",
        ] {
            assert_eq!(
                shut_for(node, &["node", "a.js"]),
                ["node", NO_INSPECTOR, "a.js"],
                "{node}"
            );
        }
        let java = ["java", NO_ATTACH, "-jar"];
        assert_eq!(shut_for("/opt/jdk/bin/java", &["java", "-jar"]), java);
    }
}
