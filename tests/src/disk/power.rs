//! What a loss of power leaves, by this model:
//!
//! - What was written to a file before its last flush is there. Of each later write, and change of size, any may be
//!   there or not, in any combination; a write may be torn, each sector of 512 bytes by itself. A hole reads as zeros.
//! - Names of a folder are there as at its last flush, and then as far as any number of the later steps, in their
//!   order. A rename is one step. Flushing a *file* does not make its name durable.
//!
//! This promises less than ext4 does (its journal keeps names in one order for the whole disk, and writes of a file
//! that grows with its size), so what holds here holds there.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{Inode, Op};

const SECTOR: usize = 512;

/// Numbers that look random, the same for one seed.
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The numbers of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one (splitmix64).
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends, and needs no adapters"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next one below a bound; 0 below 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// What becomes of that which was not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is lost.
    Everything,
    /// None of it is lost: the process was killed rather than the power cut.
    Nothing,
    /// Each piece is there, or not, or torn.
    Some,
}

/// What was asked of a disk.
#[derive(Debug)]
pub struct Recording<M> {
    ops: Vec<Op<M>>,
    modes: HashMap<Inode, (u32, bool)>,
}

impl<M: Clone> Recording<M> {
    pub(super) fn new(ops: Vec<Op<M>>, modes: HashMap<Inode, (u32, bool)>) -> Self {
        Self { ops, modes }
    }

    /// How many moments it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing was asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The marks before a moment, in order.
    #[must_use]
    pub fn marks(&self, moment: usize) -> Vec<M> {
        let ops = self.ops.iter().take(moment);
        ops.filter_map(|op| match op {
            Op::Mark(mark) => Some(mark.clone()),
            _ => None,
        })
        .collect()
    }

    /// The moments right after each flush, at which least is in doubt, and right before, at which most is.
    #[must_use]
    pub fn flushes(&self) -> Vec<usize> {
        let ops = self.ops.iter().enumerate();
        ops.filter_map(|(n, op)| matches!(op, Op::Flush { .. }).then_some(n))
            .collect()
    }

    /// Makes in `to`, which must not be there yet, what a loss of power at a moment could leave.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn after_power_loss(
        &self,
        moment: usize,
        loss: Loss,
        chance: &mut Numbers,
        to: &Path,
    ) -> anyhow::Result<()> {
        let ops = self.ops.get(..moment).unwrap_or(&self.ops);
        let mut flushed: HashMap<Inode, usize> = HashMap::new();
        for (n, op) in ops.iter().enumerate() {
            if let Op::Flush { ino } = op {
                flushed.insert(*ino, n);
            }
        }
        let mut files: HashMap<Inode, Vec<u8>> = HashMap::new();
        let mut folders: HashMap<Inode, BTreeMap<OsString, Inode>> = HashMap::new();
        let mut names_end: HashMap<Inode, bool> = HashMap::new();
        for (n, op) in ops.iter().enumerate() {
            let safe = |ino: &Inode| flushed.get(ino).is_some_and(|flush| n < *flush);
            match op {
                Op::Write { ino, offset, data } => {
                    let file = files.entry(*ino).or_default();
                    if safe(ino) {
                        put(file, *offset, data);
                    } else {
                        put_some(file, *offset, data, loss, chance);
                    }
                }
                Op::Size { ino, size } => {
                    let there = safe(ino) || loss == Loss::Nothing || (loss == Loss::Some && chance.coin());
                    if there {
                        files.entry(*ino).or_default().resize(*size, 0);
                    }
                }
                Op::Name { dir, name, to, from } => {
                    let ended = names_end.entry(*dir).or_default();
                    if !safe(dir) {
                        let lost = match loss {
                            Loss::Everything => true,
                            Loss::Nothing => false,
                            Loss::Some => chance.below(4) == 0,
                        };
                        *ended = *ended || lost;
                    }
                    if !*ended {
                        let names = folders.entry(*dir).or_default();
                        from.as_ref().map(|from| names.remove(from));
                        match to {
                            Some(ino) => names.insert(name.clone(), *ino),
                            None => names.remove(name),
                        };
                    }
                }
                Op::Flush { .. } | Op::Mark(_) => {}
            }
        }
        self.build(1, to, &files, &folders)
    }

    fn build(
        &self,
        ino: Inode,
        path: &Path,
        files: &HashMap<Inode, Vec<u8>>,
        folders: &HashMap<Inode, BTreeMap<OsString, Inode>>,
    ) -> anyhow::Result<()> {
        let (mode, is_folder) = self.modes.get(&ino).copied().unwrap_or((0o700, true));
        if is_folder {
            DirBuilder::new().mode(mode & 0o7777).create(path)?;
            for (name, ino) in folders.get(&ino).into_iter().flatten() {
                self.build(*ino, &path.join(name), files, folders)?;
            }
            return Ok(());
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode & 0o7777)
            .open(path)?;
        file.write_all(files.get(&ino).map_or(&[], Vec::as_slice))?;
        Ok(())
    }
}

fn put(file: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(place) = file.get_mut(offset..end) {
        place.copy_from_slice(data);
    }
}

fn put_some(file: &mut Vec<u8>, offset: usize, data: &[u8], loss: Loss, chance: &mut Numbers) {
    match (loss, chance.below(3)) {
        (Loss::Nothing, _) | (Loss::Some, 0) => put(file, offset, data),
        (Loss::Everything, _) | (Loss::Some, 1) => {}
        (Loss::Some, _) => {
            let mut start = 0;
            while start < data.len() {
                // Sectors are those of the disk, not of the write.
                let end = (start + SECTOR - (offset + start) % SECTOR).min(data.len());
                if chance.coin() {
                    put(file, offset + start, data.get(start..end).unwrap_or_default());
                }
                start = end;
            }
        }
    }
}
