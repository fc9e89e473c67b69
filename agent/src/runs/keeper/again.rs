//! What an earlier life of the agent started: what lives goes on, what has ended is told, and what either has left behind
//! stays known as its own.

use vouchsafe_identity::RunId;
use vouchsafe_launch::{LaunchError, Launched, Outcome, Recovered};
use vouchsafe_proto::vouchsafe::run::v1::LeasedStart;

use super::{Cause, Keeper, Kept, Launching, Over};
use crate::runs::record::RunRecord;
use crate::runs::users::Place;

/// A run that an earlier life of the agent started.
#[derive(Debug)]
pub enum Found {
    /// It lives.
    Living(Kept),
    /// It has ended.
    Ended(Gone),
}

/// A run that ended while no agent looked.
#[derive(Debug)]
pub struct Gone {
    run: RunId,
    outcome: Outcome,
    /// How it was launched by a lease, if the server has not heard of it.
    unheard: Option<LeasedStart>,
    /// Its uid, for as long as what it has left behind lives.
    place: Option<Place>,
    /// The control group of what it has left behind.
    group: Option<String>,
}

impl Launching {
    /// Finds what an earlier life of the agent started, and takes in what lives. To be done before anybody is served, for
    /// until then nobody knows whose those processes are. Blocks.
    ///
    /// # Errors
    /// Where what is on disk cannot be read.
    pub fn find_again(&self, ends: &super::Ends) -> Result<Vec<Found>, LaunchError> {
        let mut found = Vec::new();
        for (name, recovered) in self.starter.recover()? {
            let record = RunId::new(&name).ok().and_then(|run| self.records.get(run));
            let Some(record) = record else {
                // Nobody can say what it is: it gets nothing, and it goes.
                tracing::warn!(run_id = name, "a run of which the agent has no record is ended");
                if let Recovered::Living(launched) = &recovered {
                    launched.kill()?;
                }
                self.starter.forget(&name)?;
                continue;
            };
            match recovered {
                Recovered::Ended(outcome) => {
                    ends.note(Over {
                        run: record.run,
                        launcher: record.launcher(),
                        outcome,
                        cause: Cause::Over,
                    });
                    found.push(Found::Ended(self.gone(&record, outcome)));
                }
                Recovered::Living(launched) => {
                    found.extend(self.living(&record, launched)?.map(Found::Living))
                }
            }
        }
        self.records.keep_only(|run| {
            let ended = |found: &Found| matches!(found, Found::Ended(gone) if gone.run == run);
            self.runs.get(run).is_some() || found.iter().any(ended)
        });
        Ok(found)
    }

    fn living(&self, record: &RunRecord, launched: Launched) -> Result<Option<Kept>, LaunchError> {
        let main = launched.main().try_clone().map_err(|error| error.to_string());
        match main.and_then(|main| self.enter(record, main).map_err(|error| error.to_string())) {
            Ok(run) => Ok(Some(Kept {
                run,
                launched,
                place: self.place_again(record),
                output: record.output,
                unheard: record.unheard(),
            })),
            Err(error) => {
                tracing::warn!(run_id = %record.run, error, "a run that cannot be kept is ended");
                launched.kill()?;
                Ok(None)
            }
        }
    }

    fn gone(&self, record: &RunRecord, outcome: Outcome) -> Gone {
        self.runs.lease_is_used(record.run);
        // Its class may let its children live on: they are no less of it than before.
        let left = self.starter.is_populated(&record.run.to_string());
        let group = record
            .group
            .as_ref()
            .filter(|_| left)
            .map(|(_, path)| path.clone());
        if let Some(group) = &group {
            self.runs.leave(record.run, group.clone());
        }
        Gone {
            run: record.run,
            outcome,
            unheard: record.unheard(),
            place: group.as_ref().and_then(|_| self.place_again(record)),
            group,
        }
    }

    fn place_again(&self, record: &RunRecord) -> Option<Place> {
        let root = nix::unistd::geteuid().is_root();
        root.then(|| self.users.again(record.uid, record.alone))
    }
}

impl Keeper {
    /// Takes up what an earlier life of the agent started, and tells the server which runs live.
    pub async fn take_up(self, found: Vec<Found>) {
        let mut ended = Vec::new();
        for found in found {
            match found {
                Found::Living(kept) => {
                    tracing::info!(run_id = %kept.run.id, class = %kept.run.class, "a run lives on");
                    self.keep(kept, std::future::pending());
                }
                Found::Ended(gone) => ended.push(gone),
            }
        }
        for mut gone in ended {
            let run = gone.run;
            if let Some(told) = gone.unheard.take()
                && let Err(error) = self.launched_by_lease(run, 0, told).await
            {
                tracing::warn!(run_id = %run, %error, "the server does not take a run that was launched by a lease");
            }
            self.tell(run, gone.outcome).await;
            let keeper = self.clone();
            self.group.passing("what a run left behind", async move {
                keeper.forget(run).await;
                if let Some(group) = &gone.group {
                    keeper.launching.runs.forget_left(group);
                }
                drop(gone.place);
            });
        }
        self.report().await;
    }
}
