//! A backup sealed as a whole, with the private keys in it.
//!
//! A line that names the format, 16 random bytes that name this file, and chunks: each its length and what
//! [`SealKeys::seal`] gives, bound to the file and to the chunk's number, so that no chunk can be left out, moved or taken
//! from another file. The first tells that the sealing key is the right one, the last that the file is whole.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use vouchsafe_identity::secret::Secret;
use vouchsafe_runtime::seal::{NotOpened, OVERHEAD_BYTES, Purpose, SealKeys};
use zeroize::Zeroizing;

/// The first bytes; the number is the format's.
const MAGIC: &[u8] = b"vouchsafe-sealed-backup 1\n";
const ID_BYTES: usize = 16;
/// Most bytes of the store in one chunk.
const MAX_STORE_BYTES: usize = 64 << 10;
/// Most bytes of a chunk before it is sealed: its kind, and a part of the store or a key.
const MAX_TEXT_BYTES: usize = 1 + MAX_STORE_BYTES;
/// Kinds of chunks.
const BEGIN: u8 = 0;
const STORE: u8 = 1;
const KEY: u8 = 2;
const END: u8 = 3;

/// Private keys by their ids, in PKCS#8.
pub(crate) type Keys = BTreeMap<String, Secret<Vec<u8>>>;

/// Why a sealed backup was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealError {
    /// The file is something else.
    #[error("this is not a sealed backup, or one of a newer release")]
    Foreign,
    /// The first chunk does not open.
    #[error("the backup was sealed with another key, or its beginning is damaged")]
    WrongKey,
    /// A later chunk does not open, or something follows the last one.
    #[error("the backup is damaged: part {0} was changed, moved or is of another backup")]
    Damaged(u64),
    /// There is no end.
    #[error("the backup is cut short: it ends in part {0}")]
    Cut(u64),
    /// It opens, and makes no sense.
    #[error("the backup is malformed: part {0} is of no known kind")]
    Malformed(u64),
    /// The system refused.
    #[error("the backup could not be read or written")]
    Io(#[from] io::Error),
}

/// Whether a file begins as a sealed backup does.
pub(crate) fn is_sealed(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

/// How many bytes tell.
pub(crate) const fn beginning_bytes() -> usize {
    MAGIC.len()
}

/// The file and the place in it that a chunk is bound to.
struct Place {
    binding: Vec<u8>,
    number: u64,
}

impl Place {
    fn first(id: [u8; ID_BYTES]) -> Self {
        Self {
            binding: [MAGIC, &id].concat(),
            number: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        [self.binding.as_slice(), &self.number.to_be_bytes()].concat()
    }
}

/// Seals one backup.
pub(crate) struct Sealer {
    keys: SealKeys,
    place: Place,
}

impl Sealer {
    /// Begins a file; gives its first bytes.
    pub(crate) fn begin(keys: SealKeys) -> Result<(Self, Vec<u8>), NotOpened> {
        let mut id = [0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| NotOpened)?;
        let place = Place::first(id);
        let mut bytes = place.binding.clone();
        let mut sealer = Self { keys, place };
        bytes.extend(sealer.chunk(BEGIN, &[])?);
        Ok((sealer, bytes))
    }

    /// The next bytes of the store's copy.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let mut sealed = Vec::with_capacity(bytes.len() + bytes.len() / 512 + OVERHEAD_BYTES);
        for part in bytes.chunks(MAX_STORE_BYTES) {
            sealed.extend(self.chunk(STORE, part)?);
        }
        Ok(sealed)
    }

    /// A private key.
    pub(crate) fn key(&mut self, id: &str, pkcs8: &Secret<Vec<u8>>) -> Result<Vec<u8>, NotOpened> {
        let length = u8::try_from(id.len()).map_err(|_long| NotOpened)?;
        let mut body = Zeroizing::new(Vec::with_capacity(1 + id.len() + pkcs8.expose().len()));
        body.push(length);
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(pkcs8.expose());
        self.chunk(KEY, &body)
    }

    /// The last bytes.
    pub(crate) fn end(mut self) -> Result<Vec<u8>, NotOpened> {
        self.chunk(END, &[])
    }

    fn chunk(&mut self, kind: u8, body: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let mut text = Zeroizing::new(Vec::with_capacity(1 + body.len()));
        text.push(kind);
        text.extend_from_slice(body);
        let sealed = self.keys.seal(Purpose::Backup, &self.place.bytes(), &text)?;
        self.place.number += 1;
        let length = u32::try_from(sealed.len()).map_err(|_long| NotOpened)?;
        Ok([length.to_be_bytes().as_slice(), &sealed].concat())
    }
}

/// Opens a sealed backup: writes the store's copy to `store` and gives the keys. What was written means nothing where
/// this fails.
///
/// # Errors
/// [`UnsealError`] says what is wrong with it.
pub(crate) fn open(mut from: impl Read, keys: &SealKeys, mut store: impl Write) -> Result<Keys, UnsealError> {
    let mut magic = [0; MAGIC.len()];
    let mut id = [0; ID_BYTES];
    whole(&mut from, &mut magic, UnsealError::Foreign)?;
    if magic != MAGIC {
        return Err(UnsealError::Foreign);
    }
    whole(&mut from, &mut id, UnsealError::Cut(0))?;
    let mut place = Place::first(id);
    let mut found = Keys::new();
    loop {
        let number = place.number;
        let text = next(&mut from, keys, &place)?;
        place.number += 1;
        match text.split_first() {
            Some((&BEGIN, [])) if number == 0 => {}
            Some((&STORE, part)) if number > 0 => store.write_all(part)?,
            Some((&KEY, body)) if number > 0 => {
                let (id, pkcs8) = key(body).ok_or(UnsealError::Malformed(number))?;
                found.insert(id, pkcs8);
            }
            Some((&END, [])) if number > 0 => break,
            _ => return Err(UnsealError::Malformed(number)),
        }
    }
    store.flush()?;
    match from.read(&mut [0])? {
        0 => Ok(found),
        _ => Err(UnsealError::Damaged(place.number)),
    }
}

/// The next chunk, opened.
fn next(from: &mut impl Read, keys: &SealKeys, place: &Place) -> Result<Zeroizing<Vec<u8>>, UnsealError> {
    let number = place.number;
    let unopened = || match number {
        0 => UnsealError::WrongKey,
        _ => UnsealError::Damaged(number),
    };
    let mut length = [0; 4];
    whole(from, &mut length, UnsealError::Cut(number))?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(OVERHEAD_BYTES..=MAX_TEXT_BYTES + OVERHEAD_BYTES).contains(&length) {
        return Err(unopened());
    }
    // Opened in its place, so that nothing of a key stays behind.
    let mut sealed = Zeroizing::new(vec![0; length]);
    whole(from, &mut sealed, UnsealError::Cut(number))?;
    let opened = keys.open(Purpose::Backup, &place.bytes(), &mut sealed);
    let text = opened.map_err(|_not_opened| unopened())?;
    Ok(Zeroizing::new(text.to_vec()))
}

fn key(body: &[u8]) -> Option<(String, Secret<Vec<u8>>)> {
    let (&length, rest) = body.split_first()?;
    let (id, pkcs8) = rest.split_at_checked(usize::from(length))?;
    Some((
        std::str::from_utf8(id).ok()?.to_owned(),
        Secret::new(pkcs8.to_vec()),
    ))
}

fn whole(from: &mut impl Read, bytes: &mut [u8], cut: UnsealError) -> Result<(), UnsealError> {
    match from.read_exact(bytes) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(cut),
        read => Ok(read?),
    }
}

#[cfg(test)]
mod tests;
