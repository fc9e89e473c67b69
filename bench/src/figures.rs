//! The figures, one file each. Each starts its own daemons, so that one can be measured without the others.

mod follow;
mod issuing;
mod memory;
mod push;
mod registry;
mod restart;
mod runs;
mod tokens;
mod workload_api;

use crate::plan::Plan;
use crate::report::Report;

/// Number of the last figure; the first is 1.
pub const LAST: u8 = 9;

/// Measures one figure.
///
/// # Errors
/// When it cannot be measured.
pub async fn measure(figure: u8, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    match figure {
        1 => issuing::measure(plan, report).await,
        2 => tokens::measure(plan, report).await,
        3 => workload_api::measure(plan, report).await,
        4 => push::measure(plan, report).await,
        5 => follow::measure(plan, report).await,
        6 => registry::measure(plan, report).await,
        7 => memory::measure(plan, report).await,
        8 => restart::measure(plan, report).await,
        9 => runs::measure(plan, report).await,
        other => anyhow::bail!("there is no figure {other}: there are 1 to {LAST}"),
    }
}

/// A count as a floating number.
fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
