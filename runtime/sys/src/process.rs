//! Facts under `/proc/PID`. The number is trusted for one read: callers hold a pidfd, and look whether
//! it still lives after reading.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read};
use std::os::unix::fs::FileExt;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use zeroize::Zeroizing;

use crate::SysError;

/// `AT_RANDOM`: the auxiliary vector's entry that holds the address of 16 random bytes.
const AT_RANDOM: u64 = 25;

/// Room for an auxiliary vector, so that one read has it: the kernel keeps some 25 entries.
const AUXV_BYTES: usize = 1024;

/// Bytes behind `AT_RANDOM`.
const AT_RANDOM_BYTES: usize = 16;

/// Where `starttime` (field 22 of `/proc/PID/stat`) stands after the command's closing parenthesis.
const START_TIME_AFTER_COMMAND: usize = 19;

/// The 16 bytes that the kernel gave a program image at its exec: new with every exec, and a secret of
/// the process (its stack protector comes from them). Hash them, keep the hash, drop them.
pub struct AtRandom(Zeroizing<[u8; AT_RANDOM_BYTES]>);

impl AtRandom {
    /// The bytes, for hashing.
    #[must_use]
    pub fn expose(&self) -> &[u8; AT_RANDOM_BYTES] {
        &self.0
    }
}

impl fmt::Debug for AtRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRandom(..)")
    }
}

/// When the process started, in clock ticks since boot. An exec does not change it.
///
/// # Errors
/// `Gone` where no process has that number.
pub fn start_time(pid: i32) -> Result<u64, SysError> {
    let stat = fs::read(format!("/proc/{pid}/stat"))
        .map_err(|error| SysError::of_proc("reading `/proc/PID/stat`", error))?;
    // The command's name stands in parentheses and may itself hold any byte.
    stat.iter()
        .rposition(|byte| *byte == b')')
        .and_then(|end| stat.get(end + 1..))
        .and_then(|rest| std::str::from_utf8(rest).ok())
        .and_then(|rest| rest.split_ascii_whitespace().nth(START_TIME_AFTER_COMMAND))
        .and_then(|field| field.parse().ok())
        .ok_or(SysError::Malformed { pid, file: "stat" })
}

/// What the kernel told a program at its exec, as the kernel keeps it: where its code, its stack and the kernel's own
/// code are, all of that random where the process did not switch that off. A secret of the process: hash it.
pub struct AuxiliaryVector {
    pid: i32,
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for AuxiliaryVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuxiliaryVector(..)")
    }
}

impl AuxiliaryVector {
    /// That of the program that the process runs now.
    ///
    /// # Errors
    /// `Gone` where the process has ended (its memory too), `NotPermitted` where the caller may not know.
    pub fn of(pid: i32) -> Result<Self, SysError> {
        let mut bytes = Zeroizing::new(vec![0; AUXV_BYTES]);
        let len = File::open(format!("/proc/{pid}/auxv"))
            .and_then(|mut file| file.read(&mut bytes))
            .map_err(|error| SysError::of_proc("reading `/proc/PID/auxv`", error))?;
        match len {
            // A process that has exited has no memory, and an empty vector.
            0 => return Err(SysError::Gone),
            AUXV_BYTES => return Err(SysError::Malformed { pid, file: "auxv" }),
            _ => bytes.truncate(len),
        }
        Ok(Self { pid, bytes })
    }

    /// The bytes, for hashing.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// The 16 random bytes that the kernel gave the program, read from the process's memory: a process can make that
    /// take for ever.
    ///
    /// # Errors
    /// `Gone` where the process has ended, `NotPermitted` where the caller may not read its memory.
    pub fn at_random(&self) -> Result<AtRandom, SysError> {
        let pid = self.pid;
        let address = auxv_entry::<8>(&self.bytes, AT_RANDOM)
            .or_else(|| auxv_entry::<4>(&self.bytes, AT_RANDOM))
            .ok_or(SysError::Malformed { pid, file: "auxv" })?;
        let mut bytes = Zeroizing::new([0_u8; AT_RANDOM_BYTES]);
        // One call where it is to be had; a sandbox may refuse it and still grant the file.
        if read_memory(pid, address, bytes.as_mut_slice()).is_none() {
            read_mem_file(pid, address, bytes.as_mut_slice())?;
        }
        Ok(AtRandom(bytes))
    }
}

/// Fills `bytes` from the memory of a process; `None` where not all of them could be read.
fn read_memory(pid: i32, address: u64, bytes: &mut [u8]) -> Option<()> {
    let (len, base) = (bytes.len(), usize::try_from(address).ok()?);
    let from = [RemoteIoVec { base, len }];
    let read = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(bytes)], &from);
    (read == Ok(len)).then_some(())
}

/// The same through `/proc/PID/mem`, which says why it fails.
fn read_mem_file(pid: i32, address: u64, bytes: &mut [u8]) -> Result<(), SysError> {
    let memory = File::open(format!("/proc/{pid}/mem"))
        .map_err(|error| SysError::of_proc("opening `/proc/PID/mem`", error))?;
    let read = memory.read_exact_at(bytes, address);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SysError::Gone,
        _ => SysError::of_proc("reading `/proc/PID/mem`", error),
    })
}

/// The value of `kind` in an auxiliary vector whose words have `WORD` bytes (4 in a 32-bit process).
fn auxv_entry<const WORD: usize>(auxv: &[u8], kind: u64) -> Option<u64> {
    let (words, _) = auxv.as_chunks::<WORD>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs
        .iter()
        .map(|[key, value]| (word(key), word(value)))
        .take_while(|(key, _)| *key != 0)
        .find_map(|(key, value)| (key == kind).then_some(value))
}

/// A native word of four or eight bytes.
fn word<const WORD: usize>(bytes: &[u8; WORD]) -> u64 {
    let fold = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    if cfg!(target_endian = "little") {
        bytes.iter().rev().fold(0, fold)
    } else {
        bytes.iter().fold(0, fold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector<const WORD: usize>(pairs: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in pairs {
            bytes.extend_from_slice(&key.to_le_bytes()[..WORD]);
            bytes.extend_from_slice(&value.to_le_bytes()[..WORD]);
        }
        bytes
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn auxv_of_both_word_sizes_is_read() {
        let pairs = [(33, 0x7000), (AT_RANDOM, 0x7f01_0203), (0, 0)];
        let wide = vector::<8>(&pairs);
        assert_eq!(auxv_entry::<8>(&wide, AT_RANDOM), Some(0x7f01_0203));
        let narrow = vector::<4>(&pairs);
        assert_eq!(auxv_entry::<8>(&narrow, AT_RANDOM), None);
        assert_eq!(auxv_entry::<4>(&narrow, AT_RANDOM), Some(0x7f01_0203));
    }

    #[test]
    fn auxv_ends_at_its_terminator_and_ignores_a_torn_tail() {
        let after_end = vector::<8>(&[(3, 1), (0, 0), (AT_RANDOM, 9)]);
        assert_eq!(auxv_entry::<8>(&after_end, AT_RANDOM), None);
        let mut torn = vector::<8>(&[(AT_RANDOM, 9)]);
        torn.pop();
        assert_eq!(auxv_entry::<8>(&torn, AT_RANDOM), None);
    }

    #[test]
    fn both_ways_to_memory_read_the_same() {
        let pid = nix::unistd::getpid().as_raw();
        let secret = std::hint::black_box([7_u8; 16]);
        let address = secret.as_ptr() as u64;
        let (mut one, mut other) = ([0; 16], [0; 16]);
        read_memory(pid, address, &mut one).unwrap();
        read_mem_file(pid, address, &mut other).unwrap();
        assert_eq!((one, other), (secret, secret));
        assert_eq!(read_memory(i32::MAX, address, &mut one), None);
        assert!(read_mem_file(pid, 8, &mut other).is_err());
    }

    #[test]
    fn debug_shows_nothing() {
        let shown = format!("{:?}", AtRandom(Zeroizing::new([7; 16])));
        assert_eq!(shown, "AtRandom(..)");
        let vector = AuxiliaryVector::of(nix::unistd::getpid().as_raw()).unwrap();
        assert_eq!(format!("{vector:?}"), "AuxiliaryVector(..)");
    }
}
