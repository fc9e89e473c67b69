//! A daemon in this process: told to end, or watched until it ends by itself.

use std::future::Future;

use anyhow::{Context, bail};
use tokio::sync::oneshot;
use tokio::time::timeout;
use vouchsafe_runtime::TaskGroup;

use crate::wait::DEADLINE;

/// A daemon that runs until it is told to stop, or this is dropped.
#[derive(Debug)]
pub struct Running<E> {
    group: TaskGroup,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<Result<(), E>>,
}

impl<E> Running<E>
where
    E: std::error::Error + Send + Sync + 'static,
{
    /// Lets `run` run; the future that it gets resolves when the daemon has to end.
    pub fn start<R>(
        name: &'static str,
        run: impl FnOnce(std::pin::Pin<Box<dyn Future<Output = &'static str> + Send>>) -> R,
    ) -> Self
    where
        R: Future<Output = Result<(), E>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let (tell, ended) = oneshot::channel();
        let (group, _failures) = TaskGroup::new();
        let running = run(Box::pin(async {
            let _dropped = stopped.await;
            "the test is over"
        }));
        group.passing(name, async move {
            let _nobody_asks = tell.send(running.await);
        });
        Self { group, stop, ended }
    }

    /// Whether it has ended, and how.
    pub fn has_ended(&mut self) -> Option<Result<(), E>> {
        self.ended.try_recv().ok()
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// What it ended with, or that it does not end.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { group, stop, ended } = self;
        let _ended_already = stop.send(());
        timeout(DEADLINE, ended).await.context("it does not end")???;
        drop(group);
        Ok(())
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it ends without an error, or does not within the deadline.
    pub async fn failure(self) -> anyhow::Result<E> {
        match timeout(DEADLINE, self.ended).await.context("it does not end")?? {
            Ok(()) => bail!("it ended as told"),
            Err(error) => Ok(error),
        }
    }
}
