//! A process passes its program off as another one.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use vouchsafe_tests::upstream::TOKEN;

use super::tally::{
    Attacker, follow, path_selector, prepared, programs, python, rounds, run, script, victim,
};

/// While it is measured, the trusted program takes its place under the same path again and again. Without the hash of the
/// very file that is executed (`/proc/PID/exe`) the evil program has the hash of the file that stands there now.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_replaced_under_its_path_while_it_is_measured() {
    let mut node = prepared("").await;
    node.run(Some(TOKEN)).await.unwrap();
    let (trusted, evil) = programs(&node);
    let output = Command::new("sha256sum").arg(&trusted).output().unwrap();
    let hash = String::from_utf8(output.stdout).unwrap();
    let hash = format!("unix:sha256:{}", hash.split(' ').next().unwrap());
    victim(&node, &[&hash]).await;
    let (place, aside) = (node.path("place"), node.path("aside"));
    std::fs::hard_link(&evil, &place).unwrap();

    let mut command = Command::new(&place);
    command.env("PYTHONHOME", python().1);
    command.args(script(&node, "own", rounds(), &[]));
    // By the time that this returns it is executed, from the place that others take from now on.
    let attacker = Attacker::start(&mut command);

    let (over, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let replacing = {
        let (over, turns, place) = (Arc::clone(&over), Arc::clone(&turns), place.clone());
        tokio::task::spawn_blocking(move || {
            while !over.load(Ordering::Relaxed) {
                for program in [&trusted, &evil] {
                    std::fs::hard_link(program, &aside).unwrap();
                    std::fs::rename(&aside, &place).unwrap();
                    // A name of the same file is none to rename to: it stays, and has to go.
                    let _gone = std::fs::remove_file(&aside);
                    // What is linked anew while it is read has no hash: now and then there is time to read it.
                    let placed = Instant::now();
                    let stays = turns.load(Ordering::Relaxed) % 20;
                    while placed.elapsed() < Duration::from_millis(stays as u64) {
                        std::thread::yield_now();
                    }
                }
                turns.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let tally = follow("replaced_program", attacker).await;
    over.store(true, Ordering::Relaxed);
    replacing.await.unwrap();
    assert!(turns.load(Ordering::Relaxed) > 0);
    tally.close();
}

/// Without the kernel's own link to the executable, a process that writes another one's path into its arguments and its
/// name has that one's path.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_rewrites_its_arguments_and_its_name() {
    let mut node = prepared("").await;
    node.run(Some(TOKEN)).await.unwrap();
    let (trusted, evil) = programs(&node);
    victim(&node, &[&path_selector(&trusted)]).await;
    let mut command = Command::new(&evil);
    command.env("PYTHONHOME", python().1).arg0(&trusted);
    let trusted = trusted.display().to_string();
    command.args(script(&node, "renamed", rounds(), &[&trusted]));
    run("rewritten_arguments", &mut command).await.close();
}
