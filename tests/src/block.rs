//! A small ext4 of a test's own on a loop device, which the kernel itself turns read-only: as after an error that it
//! finds, or by a remount. Gone when it is dropped.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// Enough for a store, and the room that it wants to see.
const BYTES: u64 = 128 << 20;
/// Major number of loop devices.
const LOOP_MAJOR: u64 = 7;
/// What `e2fsck` ends with at most when all is well now.
const MENDED: i32 = 1;

/// A file system.
#[derive(Debug)]
pub struct Block {
    folder: TempDir,
    device: String,
}

impl Block {
    /// Makes one, and mounts it.
    ///
    /// # Errors
    /// When a step fails; the message has what the tool said.
    pub fn mount() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vouchsafe-block-").tempdir()?;
        let image = folder.path().join("image");
        std::fs::File::create(&image)?.set_len(BYTES)?;
        run("mkfs.ext4", &["-q", text(&image)?])?;
        let device = run("losetup", &["--find", "--show", text(&image)?])?
            .trim()
            .to_owned();
        let block = Self { folder, device };
        std::fs::create_dir(block.place())?;
        block.mount_again()?;
        Ok(block)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// Lets the kernel find an error in it: it goes read-only under those who have files open, as on a failing disk.
    ///
    /// # Errors
    /// When the kernel has no such switch.
    pub fn fail(&self) -> anyhow::Result<()> {
        // The switch is there for every ext4 of this machine: no other one may be meant.
        let found = std::fs::metadata(self.place())?;
        ensure!(
            nix::sys::stat::major(found.dev()) == LOOP_MAJOR,
            "not our own device"
        );
        let name = self.device.strip_prefix("/dev/").context("a device")?;
        ensure!(name.starts_with("loop"), "`{name}` is not our own device");
        let switch = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        std::fs::write(&switch, "a test").with_context(|| switch.clone())
    }

    /// Mends it, with nobody using it, and mounts it again.
    ///
    /// # Errors
    /// When somebody uses it, or it cannot be mended.
    pub fn mend(&self) -> anyhow::Result<()> {
        run("umount", &[text(&self.place())?])?;
        let checked = Command::new("e2fsck")
            .args(["-f", "-y", &self.device])
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            checked.status.code().is_some_and(|code| code <= MENDED),
            "{}",
            String::from_utf8_lossy(&checked.stdout)
        );
        self.mount_again()
    }

    /// Mounts it anew, for reading only or for writing too.
    ///
    /// # Errors
    /// The kernel refuses the first while somebody has a file open for writing.
    pub fn remount(&self, writable: bool) -> anyhow::Result<()> {
        let how = if writable { "remount,rw" } else { "remount,ro" };
        run("mount", &["-o", how, text(&self.place())?]).map(drop)
    }

    fn mount_again(&self) -> anyhow::Result<()> {
        let place = self.place();
        run("mount", &["-o", "errors=remount-ro", &self.device, text(&place)?]).map(drop)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let place = self.place();
        if let Ok(place) = text(&place) {
            let _may_not_be_mounted = run("umount", &["-l", place]);
        }
        let _nothing_more_can_be_done = run("losetup", &["--detach", &self.device]);
    }
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
