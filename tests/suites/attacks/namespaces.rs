//! A process in namespaces of its own, or in a root of its own, where it arranges the file system as it likes.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use vouchsafe_tests::needs::Need;
use vouchsafe_tests::node::Node;
use vouchsafe_tests::require;
use vouchsafe_tests::upstream::TOKEN;

use super::tally::{
    path_selector, prepared, programs, python, rounds, run, script, sleeper, victim, without_rights,
};

/// Mounts the first program over the second one's path and executes it there.
const MOUNT: &str = r#"mount --bind "$1" "$2" && shift && exec "$@""#;

/// The same below a copy of the whole file system, which is the program's root.
const CHROOT: &str = r#"jail="$1"; mount --rbind / "$jail" && mount --bind "$2" "$jail$3" && shift 2 &&
    exec chroot "$jail" "$@""#;

/// A node whose entry is for the trusted program, which gets an SVID when it asks.
async fn node(trusted: impl Fn(&Node) -> String) -> Node {
    let mut node = prepared("").await;
    node.run(Some(TOKEN)).await.unwrap();
    let trusted = trusted(&node);
    victim(&node, &[&path_selector(&trusted)]).await;
    node
}

/// The evil program asks from its namespaces under the trusted one's path.
async fn ask_from(name: &'static str, namespaces: &[&str], script_text: &str, jail: Option<&str>) {
    let node = node(|node| programs(node).0.display().to_string()).await;
    let (trusted, evil) = (node.path("trusted"), node.path("evil"));
    let mut honest = without_rights(&trusted);
    assert_eq!(
        run("own", honest.args(script(&node, "own", 1, &[])))
            .await
            .wrong(),
        1,
        "the trusted program itself is answered: else the attack shows nothing"
    );
    let mut command = without_rights("unshare");
    command.args(namespaces).args(["sh", "-c", script_text, "sh"]);
    if let Some(jail) = jail {
        std::fs::create_dir(node.path(jail)).unwrap();
        command.arg(node.path(jail));
    }
    command.args([&evil, &trusted]);
    command.args(script(&node, "own", rounds(), &[]));
    run(name, &mut command).await.close();
}

/// Without the comparison of device and inode the evil program has the trusted one's path.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_mounted_over_anothers_path() {
    require!(Need::Namespaces);
    ask_from("mounted_over", &["-Urm"], MOUNT, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_in_a_pid_namespace() {
    require!(Need::Namespaces);
    let namespaces = ["-Urmp", "--fork", "--kill-child"];
    ask_from("mounted_over_in_pid_namespace", &namespaces, MOUNT, None).await;
}

/// Without the agent's own view of the path (its root, not the process's) the evil program has the trusted one's path.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_below_a_root_of_its_own() {
    require!(Need::Namespaces);
    ask_from("chroot", &["-Urm"], CHROOT, Some("jail")).await;
}

/// Who is root over a PID namespace can name any process of it as the sender, and answer PINGs in its name. Without the
/// look at the namespace's owner the right program's SVID goes to whoever shares its socket.
#[tokio::test]
async fn a_sender_forged_in_a_namespace() {
    require!(Need::Namespaces);
    let [sleep, seconds] = sleeper();
    let node = node(|_| sleep.clone()).await;
    let mut command = without_rights("unshare");
    command.args(["-Urmp", "--mount-proc", "--fork", "--kill-child"]);
    command.arg(Path::new(&python().0));
    command.args(script(&node, "forged", rounds(), &[&sleep, &seconds]));
    run("forged", &mut command).await.close();
}
