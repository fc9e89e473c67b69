//! Doors that a runtime opens to its own uid, and how its arguments shut them: node opens its inspector on SIGUSR1,
//! Java takes agents from anybody of its uid.

use std::ffi::OsString;
use std::path::Path;

/// Puts what shuts a runtime's doors behind `argv[0]`. `node_guard` is a script that handles SIGUSR1: it does so on every
/// node, where `--disable-sigusr1` would stop those that do not know it.
pub(crate) fn shut(program: &Path, argv: &mut Vec<OsString>, node_guard: &Path) {
    let name = program
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let arguments = match name {
        "node" | "nodejs" => vec!["--require".into(), node_guard.as_os_str().to_owned()],
        "java" => vec!["-XX:+DisableAttachMechanism".into()],
        _ => return,
    };
    let after_name = 1.min(argv.len());
    argv.splice(after_name..after_name, arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shut_for(program: &str, argv: &[&str]) -> Vec<OsString> {
        let mut argv = argv.iter().map(OsString::from).collect();
        shut(Path::new(program), &mut argv, Path::new("/guard.cjs"));
        argv
    }

    #[test]
    fn only_known_runtimes_get_arguments_and_before_their_own() {
        assert_eq!(shut_for("/usr/bin/python3", &["python3", "a"]), ["python3", "a"]);
        let node = ["node", "--require", "/guard.cjs", "a.js"];
        assert_eq!(shut_for("/usr/bin/node", &["node", "a.js"]), node);
        let java = ["java", "-XX:+DisableAttachMechanism", "-jar"];
        assert_eq!(shut_for("/opt/jdk/bin/java", &["java", "-jar"]), java);
    }
}
