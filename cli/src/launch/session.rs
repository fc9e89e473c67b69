//! A run from its admission to its end: its events, the signals that are for it, and an agent that goes away and comes
//! back meanwhile.

use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};
use vouchsafe_proto::vouchsafe::launch::v1::ended::Outcome;
use vouchsafe_proto::vouchsafe::launch::v1::launch_client::LaunchClient;
use vouchsafe_proto::vouchsafe::launch::v1::launch_event::Event;
use vouchsafe_proto::vouchsafe::launch::v1::{
    Admitted, Ended, FollowRunRequest, LaunchEvent, SignalRequest, Started,
};

use super::signals::{Heard, is_deadly, stop};
use super::terminal::{Pty, Relay};
use super::view::{EventView, StartedView};
use super::{Ending, LaunchArgs, refused, terminal_error};
use crate::args::Global;
use crate::client::{Connection, workload_request};
use crate::error::CliError;
use crate::output::Output;

/// How long to rest before the agent is looked for again: at first, and at most.
const FIRST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST: Duration = Duration::from_secs(2);

/// What the agent tells of a run.
pub(super) type Events = Streaming<LaunchEvent>;

/// One run, followed.
#[derive(Debug)]
pub(super) struct Session<'a> {
    args: &'a LaunchArgs,
    global: &'a Global,
    output: &'a Output,
    agent: Connection,
    events: Events,
    heard: Heard,
    /// Its id, once it is admitted.
    run: Option<String>,
    started: bool,
    /// A signal that is for the run, and came when it had not begun or the agent was away already.
    unsent: Option<Signal>,
    pty: Option<Pty>,
    relay: Option<Relay>,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        args: &'a LaunchArgs,
        global: &'a Global,
        output: &'a Output,
        agent: Connection,
        events: Events,
        heard: Heard,
        pty: Option<Pty>,
    ) -> Self {
        Self {
            args,
            global,
            output,
            agent,
            events,
            heard,
            run: None,
            started: false,
            unsent: None,
            pty,
            relay: None,
        }
    }

    /// Follows the run to its end, or to its start where it is detached.
    pub(super) async fn follow(mut self) -> Result<Ending, CliError> {
        loop {
            let told = tokio::select! {
                biased;
                Some(signal) = self.heard.recv() => {
                    match self.hear(signal).await {
                        Some(ending) => return Ok(ending),
                        None => continue,
                    }
                }
                told = self.events.message() => told,
            };
            let ending = match told {
                Ok(Some(LaunchEvent { event: Some(event) })) => self.take(event).await?,
                // Of a later version.
                Ok(Some(LaunchEvent { event: None })) => None,
                Ok(None) => self.look_again("the agent ended the stream".to_owned()).await?,
                Err(status) if is_broken(&status) || (self.run.is_some() && is_away(&status)) => {
                    self.look_again(status.message().to_owned()).await?
                }
                Err(status) => return Err(self.failed(status).await),
            };
            if let Some(ending) = ending {
                return Ok(ending);
            }
        }
    }

    /// Before the program runs, the launch has failed; afterwards its end is not heard of.
    async fn failed(&mut self, status: Status) -> CliError {
        match (self.started, self.run.clone()) {
            (true, Some(run)) => {
                self.put_back().await;
                let reason = status.message().to_owned();
                CliError::Lost { run, reason }
            }
            _ => refused(&self.agent, self.args.class.as_str(), status),
        }
    }

    async fn take(&mut self, event: Event) -> Result<Option<Ending>, CliError> {
        match event {
            Event::Admitted(admitted) => {
                self.admitted(&admitted);
                Ok(None)
            }
            Event::Started(started) => self.begun(started).await,
            Event::Ended(ended) => self.over(&ended).await.map(Some),
        }
    }

    fn admitted(&mut self, admitted: &Admitted) {
        if self.run.is_none() {
            self.run = Some(admitted.run_id.clone());
            if !self.args.detach {
                self.output.aside(&EventView::from(admitted));
            }
        }
    }

    /// The program runs: who is detached is done.
    async fn begun(&mut self, started: Started) -> Result<Option<Ending>, CliError> {
        if self.started {
            return Ok(None);
        }
        self.started = true;
        self.run = Some(started.run_id.clone());
        let view = StartedView::from(started);
        if !self.args.quiet {
            for name in &view.dropped_variables {
                let class = &self.args.class;
                self.output.note(&format!(
                    "note: the run does not see `{name}`, which class `{class}` does not allow"
                ));
            }
            for weaker in &view.weaker {
                self.output
                    .note(&format!("note: weaker than it could be: {weaker}"));
            }
        }
        if self.args.detach {
            self.output.show(&view, || view.run.clone());
            return Ok(Some(Ending::Done));
        }
        self.output.aside(&EventView::Started(view));
        if let Some(pty) = self.pty.take() {
            self.relay = Some(pty.begin().map_err(terminal_error)?);
        }
        if let Some(signal) = self.unsent.take() {
            self.pass(signal).await;
        }
        Ok(None)
    }

    async fn over(&mut self, ended: &Ended) -> Result<Ending, CliError> {
        self.put_back().await;
        self.output.aside(&EventView::from(ended));
        if !ended.reason.is_empty() && !self.args.quiet {
            let text = format!("note: run `{}` was ended: {}", ended.run_id, ended.reason);
            self.output.note(&text);
        }
        match ended.outcome {
            // As the kernel tells a parent of it.
            Some(Outcome::Exited(code)) => Ok(Ending::Exited(u8::try_from(code & 0xff).unwrap_or(1))),
            Some(Outcome::Signalled(signal)) => Ok(Ending::Signalled(signal)),
            Some(Outcome::Unknown(_)) | None => Err(CliError::Lost {
                run: ended.run_id.clone(),
                reason: "the agent lost sight of it".to_owned(),
            }),
        }
    }

    async fn put_back(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.finish().await;
        }
    }

    /// Passes a signal on, as far as it is for the run. Before the program runs a deadly one ends the launch; once the run
    /// is admitted, the program may have begun unheard, so that the first one waits for it.
    async fn hear(&mut self, signal: Signal) -> Option<Ending> {
        if !self.started {
            match signal {
                Signal::SIGTSTP => stop(),
                signal if is_deadly(signal) && self.run.is_some() && self.unsent.is_none() => {
                    self.unsent = Some(signal);
                }
                signal if is_deadly(signal) => return Some(Ending::Signalled(signal as i32)),
                _ => {}
            }
            return None;
        }
        match (signal, &mut self.relay) {
            (Signal::SIGWINCH, Some(relay)) => relay.resize(),
            // The kernel stops no leader of a session by SIGTSTP.
            (Signal::SIGTSTP, _) => {
                self.pass(Signal::SIGSTOP).await;
                match &mut self.relay {
                    Some(relay) => relay.suspended(stop),
                    None => stop(),
                }
                // SIGCONT has woken this process, and comes next.
            }
            (signal, _) => self.pass(signal).await,
        }
        None
    }

    async fn pass(&mut self, signal: Signal) {
        let request = SignalRequest {
            run_id: self.run.clone().unwrap_or_default(),
            signal: signal as i32,
        };
        let mut client = LaunchClient::new(self.agent.channel.clone());
        match self.agent.call(client.signal(workload_request(request))).await {
            // The events show that the agent is away, or that the run has ended by now.
            Err(error) if !is_final(&error) => self.unsent = Some(signal),
            _ => {}
        }
    }

    /// Looks for the agent until it is back and knows of the run. A deadly signal ends the wait, and this process.
    async fn look_again(&mut self, reason: String) -> Result<Option<Ending>, CliError> {
        let Some(run) = self.run.clone() else {
            return Err(CliError::Unwell(format!(
                "the agent went away before it launched the run ({reason}): try again"
            )));
        };
        let deadline = Instant::now() + self.args.agent_wait;
        let mut rest = FIRST_REST;
        loop {
            let last = match self.again(&run).await {
                Ok(()) => {
                    if let Some(signal) = self.unsent.take() {
                        self.pass(signal).await;
                    }
                    return Ok(None);
                }
                Err(error) if is_final(&error) => {
                    self.put_back().await;
                    let reason = error.to_string();
                    return Err(CliError::Lost { run, reason });
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                self.put_back().await;
                let waited = humantime::format_duration(self.args.agent_wait);
                let reason = format!("the agent has been away for {waited} (--agent-wait): {last}");
                return Err(CliError::Lost { run, reason });
            }
            let signal = match self.unsent.take() {
                Some(signal) => Some(signal),
                None => tokio::time::timeout(rest, self.heard.recv()).await.ok().flatten(),
            };
            if let Some(signal) = signal.filter(|signal| is_deadly(*signal)) {
                self.put_back().await;
                let text = format!("note: run `{run}` may go on, for no agent is there to end it");
                self.output.note(&text);
                return Ok(Some(Ending::Signalled(signal as i32)));
            }
            rest = (rest * 2).min(LONGEST_REST);
        }
    }

    async fn again(&mut self, run: &str) -> Result<(), CliError> {
        let agent = Connection::launch(self.global, None).await?;
        let mut client = LaunchClient::new(agent.channel.clone());
        let run_id = run.to_owned();
        let request = workload_request(FollowRunRequest { run_id });
        self.events = agent.call(client.follow(request)).await?;
        self.agent = agent;
        Ok(())
    }
}

/// Whether the connection failed, and not the call.
fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// What an agent says that is about to go.
fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
}

/// Whether the agent is there and has answered for good.
fn is_final(error: &CliError) -> bool {
    matches!(error, CliError::Call { status, .. } if !is_broken(status) && !is_away(status))
}
