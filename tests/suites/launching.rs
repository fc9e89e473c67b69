//! `vouchsafe run --class …` as its users meet it, against an agent that says what each test has it say: how it fails, how
//! it ends, what it does with signals and with terminals. How real agents launch is not shown here.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "launching/agent.rs"]
mod agent;
#[path = "launching/endings.rs"]
mod endings;
#[path = "launching/refusals.rs"]
mod refusals;
#[path = "launching/terminals.rs"]
mod terminals;
