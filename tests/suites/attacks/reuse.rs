//! A process number that passes from one who has asked to one who is entitled, while the agent attests the first.

use std::process::Command;

use vouchsafe_tests::daemons::{binary, own_uid};
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::upstream::TOKEN;
use vouchsafe_tests::{require, wait};

use super::tally::{Attacker, NO_PRESENCE, Tally, path_selector, prepared, python, rounds, script, sleeper};

/// Without the hold on the process by its pidfd the number is taken for the process, and whoever shares the first one's
/// socket is answered in the name of the second. Agent and callers live in one PID namespace with 400 numbers; the agent
/// is stopped while the number changes hands. Nobody proves its presence here, for that would prevent it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_used_again_while_its_process_is_attested() {
    require!(Need::Root, Need::Namespaces);
    let [sleep, seconds] = sleeper();
    let node = prepared(NO_PRESENCE).await;
    node.upstream
        .put_entry("victim", &[&own_uid(), &path_selector(&sleep)], |_| {});
    let config = node.path("agent.toml");
    std::fs::write(&config, node.config_text()).unwrap();
    let (agent, config) = (
        binary("vouchsafe-agent").unwrap().display().to_string(),
        config.display().to_string(),
    );
    let more = [agent.as_str(), &config, TOKEN, &sleep, &seconds];
    let mut command = Command::new("unshare");
    command
        .args(["-pm", "--mount-proc", "--fork", "--kill-child"])
        .arg(python().0);
    command.args(script(&node, "reuse", rounds(), &more));
    let mut attacker = Attacker::start(&mut command);
    wait::until("the agent has the victim's SVID", async || {
        (node.health().await.ok()?.cached_svids == 1).then_some(())
    })
    .await
    .unwrap();
    attacker.tell();
    let (mut tally, mut reused) = (Tally::new("number_used_again"), 0);
    while let Some(line) = attacker.line().await {
        let (word, number) = line.split_once(' ').unwrap();
        tally.count(word);
        if tally.wrong() > 0 {
            // One is enough to fail, and without the defence some of the others would be silent for long.
            return tally.close();
        }
        reused += usize::from(number == "reused");
    }
    assert!(reused * 10 >= rounds() * 9, "{reused} numbers were used again");
    tally.close();
}
