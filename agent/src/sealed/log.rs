//! The format of the sealed state, without IO: a log of sealed frames, and the head that says which log is the current
//! one and how far it surely goes.
//!
//! A log begins with [`MAGIC`], the format's version and the log's id. A frame is its length (4 bytes, big-endian), then
//! what [`SealKeys::seal`] gives. Each frame is bound to version, agent, log and its own number, so frames cannot be
//! taken from elsewhere, left out, repeated or put in another order. What is cut off the end is missed by the head.

use vouchsafe_runtime::seal::{NotOpened, OVERHEAD_BYTES, Purpose, SealKeys};

/// Begins each file.
pub const MAGIC: [u8; 8] = *b"VCHSEAL\n";
/// The format that is written, and the newest that is read.
pub const VERSION: u16 = 1;
/// Length of what stands before the first frame, in bytes.
pub const HEADER_BYTES: usize = MAGIC.len() + 2 + LOG_ID_BYTES;
/// Length of a log's id, in bytes.
pub const LOG_ID_BYTES: usize = 16;
/// Largest frame, sealed, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
/// Largest log, in bytes.
pub const MAX_LOG_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest head, in bytes.
pub const MAX_HEAD_BYTES: u64 = 4096;

/// Names a log.
pub type LogId = [u8; LOG_ID_BYTES];

/// Why a sealed state is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSeal {
    /// The bytes do not begin as ours do.
    #[error("it is not a file of this agent's sealed state")]
    Foreign,
    /// A newer program wrote it.
    #[error("it has version {found}, and this program knows {VERSION} at most")]
    TooNew {
        /// Its version.
        found: u16,
    },
    /// A version that never was.
    #[error("it has version 0, which does not exist")]
    NoVersion,
    /// It is longer than it can be.
    #[error("it is longer than the limit of {limit} bytes")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// The key does not open it.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// Something that was surely written is not there.
    #[error("it ends before what was surely written: it was cut off, or an older copy was put back")]
    CutOff,
    /// It was opened, and what it says cannot be.
    #[error("what it says cannot be: {0}")]
    Nonsense(String),
}

/// What the head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The current log.
    pub log: LogId,
    /// How many of its frames are surely there.
    pub frames: u64,
    /// When the head was written, in Unix seconds.
    pub sealed_at: i64,
}

/// A log that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Frames that were opened.
    pub frames: u64,
    /// Whether something unfinished stood after them.
    pub torn: bool,
}

/// What a frame is bound to, beside its purpose.
fn binding(agent: &str, log: &LogId, number: u64) -> Vec<u8> {
    let mut binding = Vec::with_capacity(HEADER_BYTES + 8 + agent.len());
    binding.extend_from_slice(&MAGIC);
    binding.extend_from_slice(&VERSION.to_be_bytes());
    binding.extend_from_slice(log);
    binding.extend_from_slice(&number.to_be_bytes());
    binding.extend_from_slice(agent.as_bytes());
    binding
}

/// The beginning of a log.
pub fn header(log: &LogId) -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_be_bytes(), log].concat()
}

/// Checks the beginning of a file; gives the log's id and the rest.
fn open_header(bytes: &mut [u8]) -> Result<(LogId, &mut [u8]), BadSeal> {
    let (magic, rest) = bytes
        .split_first_chunk_mut::<{ MAGIC.len() }>()
        .ok_or(BadSeal::Foreign)?;
    if *magic != MAGIC {
        return Err(BadSeal::Foreign);
    }
    let (version, rest) = rest.split_first_chunk_mut::<2>().ok_or(BadSeal::CutOff)?;
    match u16::from_be_bytes(*version) {
        0 => return Err(BadSeal::NoVersion),
        VERSION => {}
        found => return Err(BadSeal::TooNew { found }),
    }
    let (log, rest) = rest
        .split_first_chunk_mut::<LOG_ID_BYTES>()
        .ok_or(BadSeal::CutOff)?;
    Ok((*log, rest))
}

/// Seals the frame of that number.
///
/// # Errors
/// [`BadSeal::TooLong`] for a text that makes no frame, [`BadSeal::NotOpened`] when the library refuses.
pub fn frame(
    keys: &SealKeys,
    agent: &str,
    log: &LogId,
    number: u64,
    text: &[u8],
) -> Result<Vec<u8>, BadSeal> {
    let sealed = keys.seal(Purpose::State, &binding(agent, log, number), text)?;
    let length = u32::try_from(sealed.len())
        .ok()
        .filter(|_| sealed.len() <= MAX_FRAME_BYTES);
    let length = length.ok_or(BadSeal::TooLong {
        limit: MAX_FRAME_BYTES as u64,
    })?;
    Ok([&length.to_be_bytes()[..], &sealed].concat())
}

/// Opens a log in place and gives each frame's text to `take`, in order. A frame that was not surely written, by the
/// head, may be unfinished: it and all after it are left out. Any other that cannot be opened condemns the whole.
///
/// # Errors
/// [`BadSeal`]; whatever `take` was given must then not be used.
pub fn read(
    keys: &SealKeys,
    agent: &str,
    head: &Head,
    bytes: &mut [u8],
    mut take: impl FnMut(&[u8]) -> Result<(), BadSeal>,
) -> Result<Read, BadSeal> {
    let (log, mut rest) = open_header(bytes)?;
    if log != head.log {
        return Err(BadSeal::Foreign);
    }
    let mut frames = 0;
    while !rest.is_empty() {
        let sure = frames < head.frames;
        let Some((sealed, after)) = next(rest) else {
            if sure {
                return Err(BadSeal::CutOff);
            }
            return Ok(Read { frames, torn: true });
        };
        match keys.open(Purpose::State, &binding(agent, &log, frames), sealed) {
            Ok(text) => take(text)?,
            Err(error) if sure => return Err(error.into()),
            Err(_torn) => return Ok(Read { frames, torn: true }),
        }
        frames += 1;
        rest = after;
    }
    if frames < head.frames {
        return Err(BadSeal::CutOff);
    }
    Ok(Read { frames, torn: false })
}

/// The next frame and what stands after it.
fn next(bytes: &mut [u8]) -> Option<(&mut [u8], &mut [u8])> {
    let (length, rest) = bytes.split_first_chunk_mut::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if !(OVERHEAD_BYTES..=MAX_FRAME_BYTES).contains(&length) {
        return None;
    }
    rest.split_at_mut_checked(length)
}

impl Head {
    /// Seals the head.
    ///
    /// # Errors
    /// [`BadSeal::NotOpened`] when the library refuses.
    pub fn seal(&self, keys: &SealKeys, agent: &str) -> Result<Vec<u8>, BadSeal> {
        let text = [self.frames.to_be_bytes(), self.sealed_at.to_be_bytes()].concat();
        let sealed = keys.seal(Purpose::Head, &binding(agent, &self.log, 0), &text)?;
        Ok([header(&self.log), sealed].concat())
    }

    /// Opens a head in place.
    ///
    /// # Errors
    /// [`BadSeal`] says why it is not used.
    pub fn open(keys: &SealKeys, agent: &str, bytes: &mut [u8]) -> Result<Self, BadSeal> {
        let (log, sealed) = open_header(bytes)?;
        let text = keys.open(Purpose::Head, &binding(agent, &log, 0), sealed)?;
        let nonsense = || BadSeal::Nonsense("a head of another length".to_owned());
        let (frames, rest) = text.split_first_chunk::<8>().ok_or_else(nonsense)?;
        let sealed_at: &[u8; 8] = rest.try_into().map_err(|_length| nonsense())?;
        Ok(Self {
            log,
            frames: u64::from_be_bytes(*frames),
            sealed_at: i64::from_be_bytes(*sealed_at),
        })
    }
}

#[cfg(test)]
mod tests;
