//! A process number that passes from one who has asked to one who is entitled, while the agent attests the first.

use vouchsafe_tests::daemons::own_uid;
use vouchsafe_tests::needs::Need;
use vouchsafe_tests::require;

use super::tally::{NO_PRESENCE, Tally, in_a_pid_namespace, path_selector, prepared, rounds, sleeper};

/// Without the hold on the process by its pidfd the number is taken for the process, and whoever shares the first one's
/// socket is answered in the name of the second. Agent and callers live in one PID namespace with 400 numbers; the agent
/// is stopped while the number changes hands. Nobody proves its presence here, for that would prevent it as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_used_again_while_its_process_is_attested() {
    require!(Need::Root, Need::Namespaces);
    let [sleep, seconds] = sleeper();
    let node = prepared(NO_PRESENCE).await;
    let selectors = [own_uid(), path_selector(&sleep)];
    let mut attacker = in_a_pid_namespace(&node, "reuse", &selectors, &[&sleep, &seconds]).await;
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
