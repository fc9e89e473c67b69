//! Execute-only copies of programs: root's, mode 0711, in folders named by their hash. The kernel makes a process that
//! may execute but not read its program non-dumpable. Who may run what is not decided here.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink,
};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use nix::unistd::geteuid;

use crate::Digest;
use crate::measure::{MeasureError, Measured, Measurer, Version};

/// Folders: to be passed through by everybody, to be listed by nobody but us.
const FOLDER_MODE: u32 = 0o711;
/// Copies: to be executed by everybody, to be read by nobody but us.
const COPY_MODE: u32 = 0o711;
/// The first bytes of a program that the kernel loads itself.
const ELF: &[u8; 4] = b"\x7fELF";
/// What programs look for beside the folder that they stand in (`$ORIGIN/../lib`, node's own modules).
const BESIDE: [&str; 2] = ["lib", "lib64"];
/// How many hexadecimal digits of the origin's hash tell copies of equal programs at different places apart.
const ORIGIN_DIGITS: usize = 16;
/// Why there is no copy to start from.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store's folder cannot be made or used.
    #[error("cannot keep copies of programs in `{path}`")]
    Store {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Somebody else can write to the store or its parents.
    #[error(
        "`{path}` must belong to root and be writable by nobody else, and everybody must be able to pass through it (mode 0711 or 0755)"
    )]
    Exposed {
        /// The folder.
        path: PathBuf,
    },
    /// A script, or nothing that can run.
    #[error("`{path}` is no ELF program; of a script, name its interpreter")]
    NotAProgram {
        /// The file.
        path: PathBuf,
    },
    /// What stands in the store is not what was put there.
    #[error("the copy `{path}` of a program is damaged: remove it and look who changed it")]
    Damaged {
        /// The copy.
        path: PathBuf,
    },
    /// The program itself.
    #[error(transparent)]
    Measure(#[from] MeasureError),
}

/// A copy that can be started.
#[derive(Debug)]
pub struct Copy {
    path: PathBuf,
    file: File,
}

impl Copy {
    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The copy itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// The copies of a node.
#[derive(Debug)]
pub struct CopyStore {
    dir: PathBuf,
    measurer: Measurer,
    /// Making one copy after the other keeps two from being made of one program.
    making: Mutex<HashMap<PathBuf, Version>>,
}

impl CopyStore {
    /// Takes a folder for copies; makes it where it is missing.
    ///
    /// # Errors
    /// `Exposed` where others could change what stands there, or could not reach it.
    pub fn open(dir: &Path) -> Result<Self, CopyError> {
        let dir = make_folder(dir)?;
        for part in dir.ancestors() {
            let metadata = fs::metadata(part).map_err(store(part))?;
            let mode = metadata.mode();
            let others_write = mode & 0o022 != 0 && mode & 0o1000 == 0;
            let ours = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
            if !ours || others_write || mode & 0o001 == 0 {
                return Err(CopyError::Exposed {
                    path: part.to_owned(),
                });
            }
        }
        // A copy whose making was cut off is no use to anybody.
        for entry in fs::read_dir(&dir).map_err(store(&dir))? {
            let path = entry.map_err(store(&dir))?.path();
            if path.extension().is_some_and(|extension| extension == "new") {
                fs::remove_dir_all(&path).map_err(store(&path))?;
            }
        }
        Ok(Self {
            dir,
            measurer: Measurer::default(),
            making: Mutex::default(),
        })
    }

    /// The copy of a measured program, made now where there is none, and compared with what was measured.
    ///
    /// # Errors
    /// `NotAProgram` for scripts, `Damaged` where a copy is there that is not the program.
    pub fn copy_of(&self, program: &Measured) -> Result<Copy, CopyError> {
        let mut magic = [0; 4];
        let read = program.file().read_at(&mut magic, 0);
        if read.map_err(store(program.path()))? != magic.len() || &magic != ELF {
            return Err(CopyError::NotAProgram {
                path: program.path().to_owned(),
            });
        }
        let origin = program.path().canonicalize().map_err(store(program.path()))?;
        let (Some(folder), Some(name)) = (origin.parent(), origin.file_name()) else {
            return Err(CopyError::NotAProgram { path: origin });
        };
        let origin_digest = Digest::of(folder.as_os_str().as_encoded_bytes()).to_string();
        let short = origin_digest.get(..ORIGIN_DIGITS).unwrap_or_default();
        let home = self.dir.join(format!("{}-{short}", program.sha256()));
        let path = home.join("bin").join(name);
        let mut verified = self.lock();
        if !home.exists() {
            make(&home, program, folder, &path)?;
        }
        let file = File::open(&path).map_err(store(&path))?;
        let metadata = file.metadata().map_err(store(&path))?;
        let sound = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o7777 == COPY_MODE;
        let version = Version::of(&metadata);
        if !sound || (verified.get(&path) != Some(&version) && self.hash(&path)? != program.sha256()) {
            return Err(CopyError::Damaged { path });
        }
        verified.insert(path.clone(), version);
        Ok(Copy { path, file })
    }

    fn hash(&self, path: &Path) -> Result<Digest, CopyError> {
        Ok(self.measurer.measure(path)?.sha256())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Version>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn store(path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Store { path, source }
}

fn make_folder(dir: &Path) -> Result<PathBuf, CopyError> {
    if !dir.exists() {
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(dir)
            .map_err(store(dir))?;
        // The umask must not shut anybody out.
        fs::set_permissions(dir, Permissions::from_mode(FOLDER_MODE)).map_err(store(dir))?;
    }
    dir.canonicalize().map_err(store(dir))
}

/// Makes the folder of a copy aside and puts it in its place at once.
fn make(home: &Path, program: &Measured, folder: &Path, path: &Path) -> Result<(), CopyError> {
    let aside = home.with_extension("new");
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(store(&aside))?;
    }
    let bin = aside.join("bin");
    for dir in [&aside, &bin] {
        fs::create_dir(dir).map_err(store(dir))?;
        fs::set_permissions(dir, Permissions::from_mode(FOLDER_MODE)).map_err(store(dir))?;
    }
    for name in BESIDE {
        let Some(original) = folder.parent().map(|parent| parent.join(name)) else {
            continue;
        };
        if original.is_dir() {
            let link = aside.join(name);
            symlink(&original, &link).map_err(store(&link))?;
        }
    }
    let target = bin.join(path.file_name().unwrap_or_default());
    fill(&target, program)?;
    fs::rename(&aside, home).map_err(store(home))?;
    let parent = home.parent().unwrap_or(home);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(store(parent))
}

/// Copies the bytes and hashes what it copies: those bytes, and no others, were approved.
fn fill(target: &Path, program: &Measured) -> Result<(), CopyError> {
    let mut open = OpenOptions::new();
    let mut to = open
        .write(true)
        .create_new(true)
        .mode(0o700)
        .open(target)
        .map_err(store(target))?;
    let mut from = File::open(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(program.file())
    ))
    .map_err(store(program.path()))?;
    let mut context = Context::new(&SHA256);
    let mut chunk = vec![0; 1 << 17];
    loop {
        let len = from.read(&mut chunk).map_err(store(program.path()))?;
        let Some(bytes) = chunk.get(..len).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        context.update(bytes);
        to.write_all(bytes).map_err(store(target))?;
    }
    if Digest::finish(context) != program.sha256() {
        return Err(CopyError::Measure(MeasureError::Changed {
            path: program.path().to_owned(),
        }));
    }
    let own = geteuid().as_raw();
    fchown(&to, Some(own), None).map_err(store(target))?;
    to.set_permissions(Permissions::from_mode(COPY_MODE))
        .map_err(store(target))?;
    to.sync_all().map_err(store(target))
}
