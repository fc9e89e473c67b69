//! What a test needs from its surroundings. `require!(Need::Go)` as the first line of a test leaves it where
//! the need is not met, and says so by name on the real stderr, which the test harness does not swallow;
//! `tools/test` counts and lists those lines. With `CI=true` such a test fails instead, unless
//! `tests/skips.toml` names it with a reason.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use landlock::{AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr};
use serde::Deserialize;

use crate::{dependencies, repository};

/// Something outside the workspace that a test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The Python packages `spiffe` and `spiffe-tls`.
    Python,
    /// The Go peers, and so Go 1.24 or newer to build them.
    Go,
    /// The Java peers, and so a JDK and Maven to build them.
    Java,
    /// The agent frameworks of `make demo-swarm`.
    Frameworks,
    /// The right to become another user.
    Root,
    /// Node.js, where every user can reach it.
    Node,
    /// A kernel that holds files and TCP ports (Landlock, Linux 6.7).
    Landlock,
    /// The right to make hosts of a network, and iproute2 and util-linux to do it.
    Networks,
    /// User, mount and PID namespaces for everybody, and util-linux to make them.
    Namespaces,
    /// A Python whose library is a shared one.
    SharedPython,
    /// Pidfds with an inode a process.
    Pidfs,
    /// `/dev/fuse`, and the right to mount.
    Fuse,
    /// Loop devices with an ext4 on them, and the right to mount.
    Loop,
}

impl Need {
    /// Why the need is not met here, with the next step; nothing where it is met.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let (met, lacking) = match self {
            Self::Python => (
                installed("python"),
                "the Python peers are not installed: run `make deps`",
            ),
            Self::Go => (
                installed("go"),
                "the Go peers are not built: install Go 1.24 or newer, run `make deps`",
            ),
            Self::Java => (
                installed("java"),
                "the Java peers are not built: install a JDK and Maven, run `make deps`",
            ),
            Self::Frameworks => (
                installed("swarm"),
                "the agent frameworks are not installed: run `make deps`",
            ),
            Self::Root => (
                nix::unistd::geteuid().is_root(),
                "only root can become another user",
            ),
            Self::Node => (
                ["/usr/bin/node", "/usr/local/bin/node", "/usr/bin/nodejs"]
                    .iter()
                    .any(|path| Path::new(path).is_file()),
                "no node that every user can reach: install nodejs",
            ),
            Self::Landlock => (
                has_landlock(),
                "this kernel has no Landlock with TCP ports: Linux 6.7 or newer, `landlock` among its security modules",
            ),
            Self::Networks => (
                nix::unistd::geteuid().is_root()
                    && succeeds("ip", &["-Version"])
                    && succeeds("nsenter", &["--version"]),
                "no hosts of our own: run as root, install iproute2 and util-linux",
            ),
            Self::Namespaces => (
                succeeds("unshare", &["-Urmp", "--fork", "true"]),
                "no user namespaces: install util-linux, and look at /proc/sys/user/max_user_namespaces",
            ),
            Self::SharedPython => (
                crate::clients::shared_python().is_some(),
                "no Python 3.11 or newer with a shared library: build one with `--enable-shared` (pyenv: `PYTHON_CONFIGURE_OPTS`)",
            ),
            Self::Pidfs => (
                vouchsafe_sys::PidFd::of_self()
                    .and_then(|own| own.identity())
                    .is_ok_and(|identity| identity.inode().is_some()),
                "pidfds have no inode of their own: Linux 6.9 or newer",
            ),
            Self::Fuse => (
                nix::unistd::geteuid().is_root() && opens("/dev/fuse"),
                "no FUSE: run as root where /dev/fuse can be opened",
            ),
            Self::Loop => (
                nix::unistd::geteuid().is_root()
                    && opens("/dev/loop-control")
                    && succeeds("mkfs.ext4", &["-V"])
                    && succeeds("losetup", &["--version"]),
                "no loop devices: run as root where /dev/loop-control can be opened, install e2fsprogs and util-linux",
            ),
        };
        (!met).then(|| lacking.to_owned())
    }
}

fn has_landlock() -> bool {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let rules = rules.handle_access(AccessNet::ConnectTcp);
    rules.is_ok_and(|rules| rules.create().is_ok())
}

fn opens(path: &str) -> bool {
    let both = std::fs::OpenOptions::new().read(true).write(true).open(path);
    both.is_ok()
}

/// Whether `make deps` finished installing this part.
fn installed(part: &str) -> bool {
    dependencies().join(part).join(".stamp").is_file()
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    let quiet = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    quiet
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// One test that CI may skip.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excuse {
    /// The test, as `SKIPPED` prints it: the test binary, the modules, the function.
    pub test: String,
    /// Why CI cannot run it.
    pub reason: String,
}

/// The contents of `tests/skips.toml`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excuses {
    /// The tests that CI may skip.
    #[serde(default)]
    pub skip: Vec<Excuse>,
}

impl Excuses {
    /// Reads the list of a repository.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown key, or an entry without a reason.
    pub fn load(repository: &Path) -> anyhow::Result<Self> {
        let path = repository.join("tests/skips.toml");
        let excuses: Self = toml::from_str(&std::fs::read_to_string(path)?)?;
        for excuse in &excuses.skip {
            anyhow::ensure!(
                !excuse.reason.trim().is_empty(),
                "`{}` has no reason",
                excuse.test
            );
        }
        Ok(excuses)
    }

    fn covers(&self, test: &str) -> bool {
        self.skip.iter().any(|excuse| excuse.test == test)
    }
}

/// What becomes of a test.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Run,
    Skip(String),
    Fail(String),
}

fn decide(missing: Option<String>, in_ci: bool, excused: bool) -> Verdict {
    match missing {
        None => Verdict::Run,
        Some(reason) if in_ci && !excused => Verdict::Fail(format!(
            "{reason} (with CI=true only tests in tests/skips.toml may be skipped)"
        )),
        Some(reason) => Verdict::Skip(reason),
    }
}

/// Whether the test may go on. Not for direct use: `require!` knows the name of the test.
///
/// # Panics
/// With `CI=true`, where the need is not met and `tests/skips.toml` does not name the test.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "CI is told by the environment, and a test has no config"
)]
pub fn may_run(need: Need, test: &str) -> bool {
    let missing = need.missing();
    let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    // A list that cannot be read excuses nobody; the tidy suite says what is wrong with it.
    let excused = missing.is_some() && Excuses::load(repository()).unwrap_or_default().covers(test);
    match decide(missing, in_ci, excused) {
        Verdict::Run => true,
        Verdict::Skip(reason) => {
            let line = format!("SKIPPED {test}: {reason}\n");
            // Past the harness's capture: a skip must be seen. If stderr is closed nobody is looking.
            let _ = std::io::stderr().write_all(line.as_bytes());
            false
        }
        Verdict::Fail(reason) => {
            assert!(reason.is_empty(), "{test}: {reason}");
            false
        }
    }
}

/// The full name of the function or method that a marker inside it belongs to.
#[must_use]
pub fn enclosing(marker: &str) -> String {
    marker.trim_end_matches("::marker").replace("::{{closure}}", "")
}

/// Leaves the test, by name, where one of its needs is not met.
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        fn marker() {}
        let test = $crate::needs::enclosing(::std::any::type_name_of_val(&marker));
        if $(!$crate::needs::may_run($need, &test))||+ {
            return;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_would_skip_fails_in_ci() {
        let verdict = decide(Some("no Go".to_owned()), true, false);
        assert!(matches!(verdict, Verdict::Fail(reason) if reason.starts_with("no Go")));
    }

    #[test]
    fn an_excused_test_skips_in_ci_and_any_test_skips_elsewhere() {
        assert_eq!(
            decide(Some("no Go".to_owned()), true, true),
            Verdict::Skip("no Go".to_owned())
        );
        assert_eq!(
            decide(Some("no Go".to_owned()), false, false),
            Verdict::Skip("no Go".to_owned())
        );
    }

    #[test]
    fn a_test_whose_needs_are_met_runs() {
        assert_eq!(decide(None, true, false), Verdict::Run);
    }

    #[test]
    fn a_skip_is_named_after_the_test_function() {
        fn marker() {}
        let name = enclosing(std::any::type_name_of_val(&marker));
        assert_eq!(
            name,
            "vouchsafe_tests::needs::tests::a_skip_is_named_after_the_test_function"
        );
    }

    #[tokio::test]
    async fn a_skip_in_an_async_test_has_the_same_kind_of_name() {
        fn marker() {}
        let name = enclosing(std::any::type_name_of_val(&marker));
        assert!(
            name.ends_with("tests::a_skip_in_an_async_test_has_the_same_kind_of_name"),
            "{name}"
        );
    }

    #[test]
    fn an_excuse_needs_a_reason_and_known_keys() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tests")).unwrap();
        let file = folder.path().join("tests/skips.toml");
        std::fs::write(&file, "[[skip]]\ntest = \"a::b\"\nreason = \" \"\n").unwrap();
        assert!(
            Excuses::load(folder.path())
                .unwrap_err()
                .to_string()
                .contains("a::b")
        );
        std::fs::write(&file, "[[skip]]\ntest = \"a::b\"\nwhy = \"x\"\n").unwrap();
        assert!(Excuses::load(folder.path()).is_err());
        std::fs::write(&file, "[[skip]]\ntest = \"a::b\"\nreason = \"x\"\n").unwrap();
        assert!(Excuses::load(folder.path()).unwrap().covers("a::b"));
    }
}
