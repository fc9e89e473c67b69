//! The control group of a process (v2), and the systemd unit that it belongs to.
//!
//! A group is given only where the process's own user could not have arranged it: where neither the group nor a folder on
//! the way to it is that user's to write. So it is measured. Groups that were delegated (those of a login session, of
//! rootless containers) are withheld from the users that they were delegated to.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use vouchsafe_attestors::{Asked, Evidence, Trust, WorkloadAttestError};

use super::NAME;
use super::ask::{CGROUP, INVOCATION, UNIT};
use super::place::{out_of_reach, plain};
use crate::proc_dir::ProcDir;
use crate::text::{add, shown};

/// Longest list of a process's groups, in bytes: a dozen hierarchies, each with a path.
const MAX_GROUPS_BYTES: u64 = 64 * 1024;

/// What ends a path whose group was removed.
const REMOVED: &[u8] = b" (deleted)";

/// Types of units that have processes.
const TYPES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
const SLICE: &str = ".slice";
const MAX_UNIT_BYTES: usize = 255;

/// Where the unified hierarchy is mounted for the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    folder: PathBuf,
    /// Which group is shown there.
    root: PathBuf,
}

/// What is known of groups and units besides the process.
#[derive(Debug)]
pub(super) struct Groups {
    mount: OnceLock<Mount>,
    /// systemd's own folder, `/run/systemd`.
    systemd: PathBuf,
}

impl Groups {
    pub(super) fn new(systemd: PathBuf) -> Self {
        Self {
            mount: OnceLock::new(),
            systemd,
        }
    }

    /// Says what was asked for.
    pub(super) fn say(
        &self,
        evidence: &mut Evidence,
        dir: &ProcDir<'_>,
        asked: &Asked,
    ) -> Result<(), WorkloadAttestError> {
        let bytes = dir
            .read(c"cgroup", MAX_GROUPS_BYTES)
            .map_err(|error| dir.failed("`/proc/PID/cgroup`", error))?;
        let powers = dir.powers()?;
        let group = plain(&powers).and_then(|()| unified(&bytes));
        let group = group.and_then(|group| Ok((self.folder(&group)?, group)));
        if asked.has(CGROUP) {
            let found = group.clone().and_then(|(folder, group)| {
                out_of_reach(&folder.join("cgroup.procs"), &powers)?;
                Ok(group)
            });
            match found {
                Ok(group) => add(evidence, Trust::Measured, NAME, "cgroup", &group),
                Err(reason) => evidence.withhold(CGROUP, reason),
            }
        }
        if !asked.has(UNIT) && !asked.has(INVOCATION) {
            return Ok(());
        }
        let unit = group.and_then(|(folder, group)| {
            let unit = unit_of(&group)?;
            // Who can write above the unit could make one of that name, or move others into it.
            let above = folder.ancestors().nth(unit.below).unwrap_or(&folder);
            out_of_reach(&above.join("cgroup.procs"), &powers)?;
            self.runs()?;
            Ok(unit.name)
        });
        for (what, name, found) in [
            (UNIT, "systemd_unit", unit.clone()),
            (
                INVOCATION,
                "systemd_invocation_id",
                unit.and_then(|unit| self.invocation(&unit)),
            ),
        ] {
            match found {
                _ if !asked.has(what) => {}
                Ok(value) => add(evidence, Trust::Measured, NAME, name, OsStr::new(&value)),
                Err(reason) => evidence.withhold(what, reason),
            }
        }
        Ok(())
    }

    /// A group's folder in the agent's view.
    fn folder(&self, group: &OsStr) -> Result<PathBuf, String> {
        let mount = match self.mount.get() {
            Some(mount) => mount,
            None => {
                let mounts = fs::read("/proc/self/mountinfo");
                let mounts = mounts.map_err(|error| format!("the mounts cannot be read: {error}"))?;
                let found = mount(&mounts).ok_or("no cgroup v2 hierarchy is mounted for the agent")?;
                self.mount.get_or_init(|| found)
            }
        };
        let outside = || {
            format!(
                "the control group {} is not visible in the hierarchy that is mounted for the agent",
                shown(group)
            )
        };
        let below = Path::new(group)
            .strip_prefix(&mount.root)
            .map_err(|_| outside())?;
        Ok(mount.folder.join(below))
    }

    /// Whether systemd runs at all: without it, a unit is only the name of a group.
    fn runs(&self) -> Result<(), String> {
        let folder = self.systemd.join("system");
        match folder.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => Ok(()),
            _ => Err(format!(
                "systemd does not run here: there is no {}",
                shown(folder.as_os_str())
            )),
        }
    }

    /// The invocation that systemd itself noted of a unit: `INVOCATION_ID` in the environment is the process's word only.
    fn invocation(&self, unit: &str) -> Result<String, String> {
        let link = self.systemd.join("units").join(format!("invocation:{unit}"));
        let id = link
            .read_link()
            .map_err(|error| format!("systemd has no invocation of {unit}: {error}"))?;
        let id = id.to_string_lossy();
        let good = id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match good {
            true => Ok(id.into_owned()),
            false => Err(format!("{} is no invocation id", shown(OsStr::new(id.as_ref())))),
        }
    }
}

/// The path in the unified hierarchy, of `/proc/<pid>/cgroup`. The kernel lets no group's name have a line break.
fn unified(bytes: &[u8]) -> Result<OsString, String> {
    if bytes.len() as u64 > MAX_GROUPS_BYTES {
        return Err(format!(
            "the list of its control groups is over the limit of {MAX_GROUPS_BYTES} bytes"
        ));
    }
    let path = bytes
        .split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(b"0::"));
    let path = path.ok_or("the host has no cgroup v2 hierarchy")?;
    let odd = |part: &[u8]| matches!(part, b"." | b"..");
    if !path.starts_with(b"/") || path.split(|byte| *byte == b'/').any(odd) {
        let text = shown(OsStr::from_bytes(path));
        return Err(format!(
            "the control group {text} is outside of the agent's cgroup namespace"
        ));
    }
    if path.ends_with(REMOVED) {
        return Err("its control group was removed".to_owned());
    }
    Ok(OsString::from_vec(path.to_vec()))
}

/// The first unified hierarchy of `/proc/self/mountinfo` (proc(5)).
fn mount(mounts: &[u8]) -> Option<Mount> {
    let lines = mounts.split(|byte| *byte == b'\n');
    lines.into_iter().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, folder) = (fields.nth(3)?, fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (kind == b"cgroup2").then(|| Mount {
            folder: unescaped(folder),
            root: unescaped(root),
        })
    })
}

/// Without the octal escapes of blanks and backslashes.
fn unescaped(field: &[u8]) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::with_capacity(field.len()), field);
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let octal = |digit: &u8| matches!(digit, b'0'..=b'7');
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b, c, after @ ..]) if octal(b) && octal(c) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// A unit, and how many levels its folder's parent stands above the process's group.
#[derive(Debug, PartialEq, Eq)]
struct Unit {
    name: String,
    below: usize,
}

/// The system's unit of a group, as systemd reads it (`cg_path_get_unit`): after slices, the first part.
fn unit_of(group: &OsStr) -> Result<Unit, String> {
    let none = || format!("the control group {} belongs to no unit of systemd", shown(group));
    let text = group.to_str().ok_or_else(none)?;
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    let is_slice = |part: &&str| is_unit(part, &[SLICE]);
    let slices = parts.iter().take_while(|part| is_slice(part)).count();
    let part = parts.get(slices).ok_or_else(none)?;
    // A name that looks like a file of the kernel's has a `_` before it.
    let name = part.strip_prefix('_').unwrap_or(part);
    match is_unit(name, &TYPES) {
        true => Ok(Unit {
            name: name.to_owned(),
            below: parts.len() - slices,
        }),
        false => Err(none()),
    }
}

/// Whether systemd would take this for the name of a unit of one of these types.
fn is_unit(name: &str, types: &[&str]) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let stem = types.iter().find_map(|kind| name.strip_suffix(kind));
    name.len() <= MAX_UNIT_BYTES
        && name.bytes().all(allowed)
        && stem.is_some_and(|stem| !stem.is_empty() && !stem.starts_with('@'))
}

#[cfg(test)]
mod tests;
