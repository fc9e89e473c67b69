//! Waiting for a condition with a deadline. Tests wait this way and no other, so that one that waits in vain
//! says what never came.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long a condition may take: generous, because it is only ever used up by a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Errors
/// When there is none within the deadline; the error names `what` never came.
pub async fn until<T>(what: &str, mut answer: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
    let asking = async {
        let mut tick = interval(Duration::from_millis(25));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Some(answer) = answer().await {
                return answer;
            }
        }
    };
    match timeout(DEADLINE, asking).await {
        Ok(answer) => Ok(answer),
        Err(_) => anyhow::bail!("{what}: not within {} s", DEADLINE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_is_named() {
        let error = until("the moon turns green", async || None::<()>)
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("the moon turns green"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_asks_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = until("the third time", async || {
            asked += 1;
            (asked == 3).then_some("yes")
        });
        assert_eq!(answer.await.unwrap(), "yes");
    }
}
