//! What Prometheus expects to know of every process, by the names that it has for it.

use std::fmt;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeVal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use time::OffsetDateTime;

use super::{Scrape, count, moment};

/// Bytes of the kB in which `/proc/self/status` counts.
const KIB: f64 = 1024.0;
const MICROSECONDS: f64 = 1_000_000.0;

/// Reads the process's own state at each scrape.
#[derive(Debug)]
pub(super) struct Process {
    started_at: OffsetDateTime,
}

impl Process {
    pub(super) fn new(started_at: OffsetDateTime) -> Self {
        Self { started_at }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape::new(&mut encoder);
        scrape.gauge(
            "process_start_time_seconds",
            "When the process started, in seconds since 1970",
            moment(self.started_at),
        )?;
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
            scrape.counter("process_cpu_seconds", "CPU time, of user and system", cpu)?;
        }
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (field, name, help, unit) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory", KIB),
            ("VmSize:", "process_virtual_memory_bytes", "Virtual memory", KIB),
            (
                "Threads:",
                "process_threads",
                "Threads of the operating system",
                1.0,
            ),
        ] {
            if let Some(value) = number(&status, field) {
                scrape.gauge(name, help, value * unit)?;
            }
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            // One of them is the folder itself.
            let open = open.count().saturating_sub(1);
            scrape.gauge("process_open_fds", "Open file descriptors", count(open))?;
        }
        if let Ok((soft, _hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let most = usize::try_from(soft).unwrap_or(usize::MAX);
            scrape.gauge(
                "process_max_fds",
                "Most file descriptors that may be open",
                count(most),
            )?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "CPU time stays far below 2^53")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / MICROSECONDS
}

fn number(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
