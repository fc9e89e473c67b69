//! What a process has used: processor time and memory, as the kernel counts them.

use std::time::Duration;

use anyhow::Context;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time of all threads of a process so far, ended ones included (`/proc/PID/stat`, in steps of 10 ms).
///
/// # Errors
/// When the process is not there.
pub fn processor(pid: i32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let ticks = ticks(&stat).with_context(|| format!("`{stat}` is no stat of a process"))?;
    let a_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel counts no ticks")?;
    Ok(Duration::from_secs_f64(
        f64::from(ticks) / f64::from(i32::try_from(a_second)?),
    ))
}

/// `utime` and `stime`: fields 14 and 15, counted behind the name, which may hold anything.
fn ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?)
}

/// Memory of a process that is in RAM, its program included, in bytes.
///
/// # Errors
/// When the process is not there.
pub fn resident_bytes(pid: i32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("the kernel tells no VmRSS")?;
    Ok(kib.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
}

/// Processor time of the calling thread so far.
///
/// # Errors
/// When the kernel does not tell.
pub fn own_thread() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = |time: TimeVal| u64::try_from(time.num_microseconds());
    Ok(Duration::from_micros(
        micros(usage.user_time())? + micros(usage.system_time())?,
    ))
}

/// Lets this process and those that it starts open as many files as they may, and says how many that are.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_open_files() -> anyhow::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_hides_no_field() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14";
        assert_eq!(ticks(stat), Some(11 + 12));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(resident_bytes(pid).unwrap() > 1e5);
        processor(pid).unwrap();
        assert!(processor(-1).is_err());
    }
}
