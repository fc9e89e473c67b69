//! The file system itself: files and folders in memory, just what a store, a key folder and a test need.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{Faults, Inode, Op, Shared};

const ROOT: Inode = 1;
const TTL: Duration = Duration::from_secs(1);
const BLOCK: u32 = 4096;
const PLENTY: u64 = 1 << 40;

/// What a file or folder holds.
#[derive(Debug)]
enum Body {
    File(Vec<u8>),
    Folder(BTreeMap<OsString, Inode>),
}

#[derive(Debug)]
struct Node {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Node {
    fn attributes(&self, ino: Inode) -> FileAttr {
        let (kind, size) = match &self.body {
            Body::File(bytes) => (FileType::RegularFile, bytes.len() as u64),
            Body::Folder(_) => (FileType::Directory, 0),
        };
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: u16::try_from(self.mode & 0o7777).unwrap_or(0o600),
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            blksize: BLOCK,
            flags: 0,
        }
    }
}

/// All files, and the log.
#[derive(Debug)]
pub(crate) struct State<M> {
    nodes: HashMap<Inode, Node>,
    last: Inode,
    pub(crate) log: Vec<Op<M>>,
    pub(crate) faults: Faults,
}

impl<M> Default for State<M> {
    fn default() -> Self {
        let root = Node {
            body: Body::Folder(BTreeMap::new()),
            mode: 0o755,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
        };
        Self {
            nodes: HashMap::from([(ROOT, root)]),
            last: ROOT,
            log: Vec::new(),
            faults: Faults::default(),
        }
    }
}

impl<M> State<M> {
    /// The mode of every file and folder that ever was.
    pub(crate) fn modes(&self) -> HashMap<Inode, (u32, bool)> {
        let nodes = self.nodes.iter();
        nodes
            .map(|(ino, node)| (*ino, (node.mode, matches!(node.body, Body::Folder(_)))))
            .collect()
    }

    pub(crate) fn rot(&mut self, path: &[&str], offset: usize) -> Option<()> {
        let mut ino = ROOT;
        for name in path {
            ino = *self.names(ino).ok()?.get(OsStr::new(name))?;
        }
        let byte = self.bytes(ino).ok()?.get_mut(offset)?;
        *byte = !*byte;
        Some(())
    }

    fn names(&mut self, ino: Inode) -> Result<&mut BTreeMap<OsString, Inode>, Errno> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::Folder(names)) => Ok(names),
            Some(Body::File(_)) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn bytes(&mut self, ino: Inode) -> Result<&mut Vec<u8>, Errno> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::File(bytes)) => Ok(bytes),
            Some(Body::Folder(_)) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn attributes(&self, ino: Inode) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&ino).ok_or(Errno::ENOENT)?;
        Ok(node.attributes(ino))
    }

    fn find(&mut self, parent: Inode, name: &OsStr) -> Result<FileAttr, Errno> {
        let ino = *self.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
        self.attributes(ino)
    }

    fn make(
        &mut self,
        parent: Inode,
        name: &OsStr,
        body: Body,
        mode: u32,
        by: &Request,
    ) -> Result<FileAttr, Errno> {
        self.check_room(None)?;
        let ino = self.last + 1;
        let names = self.names(parent)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), ino);
        self.last = ino;
        let (uid, gid) = (by.uid(), by.gid());
        self.nodes.insert(ino, Node { body, mode, uid, gid });
        self.name(parent, name, Some(ino), None);
        self.attributes(ino)
    }

    fn name(&mut self, dir: Inode, name: &OsStr, to: Option<Inode>, from: Option<OsString>) {
        let name = name.to_owned();
        self.log.push(Op::Name { dir, name, to, from });
    }

    fn remove(&mut self, parent: Inode, name: &OsStr) -> Result<(), Errno> {
        let ino = *self.names(parent)?.get(name).ok_or(Errno::ENOENT)?;
        if self.names(ino).is_ok_and(|names| !names.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        self.names(parent)?.remove(name);
        // The node stays: whoever has it open goes on, and so does a disk that has lost the removal.
        self.name(parent, name, None, None);
        Ok(())
    }

    fn rename(&mut self, from: (Inode, &OsStr), to: (Inode, &OsStr)) -> Result<(), Errno> {
        if from.0 != to.0 {
            // Nothing of ours does it, and the model of what a loss of power leaves has no place for it.
            return Err(Errno::EXDEV);
        }
        let names = self.names(from.0)?;
        let ino = names.remove(from.1).ok_or(Errno::ENOENT)?;
        names.insert(to.1.to_owned(), ino);
        self.name(to.0, to.1, Some(ino), Some(from.1.to_owned()));
        Ok(())
    }

    fn check_room(&self, end: Option<usize>) -> Result<(), Errno> {
        let over = end
            .zip(self.faults.largest_file)
            .is_some_and(|(end, most)| end > most);
        if self.faults.read_only {
            return Err(Errno::EROFS);
        }
        if self.faults.full || over {
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    fn write(&mut self, ino: Inode, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let offset = usize::try_from(offset).map_err(|_big| Errno::EFBIG)?;
        let end = offset.checked_add(data.len()).ok_or(Errno::EFBIG)?;
        self.check_room(Some(end))?;
        let bytes = self.bytes(ino)?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes
            .get_mut(offset..end)
            .ok_or(Errno::EIO)?
            .copy_from_slice(data);
        let data = data.to_vec();
        let len = u32::try_from(data.len()).map_err(|_big| Errno::EFBIG)?;
        self.log.push(Op::Write { ino, offset, data });
        Ok(len)
    }

    fn resize(&mut self, ino: Inode, size: u64) -> Result<(), Errno> {
        let size = usize::try_from(size).map_err(|_big| Errno::EFBIG)?;
        let bytes = self.bytes(ino)?;
        if bytes.len() != size {
            bytes.resize(size, 0);
            self.log.push(Op::Size { ino, size });
        }
        Ok(())
    }

    fn flush(&mut self, ino: Inode) -> Result<(), Errno> {
        if self.faults.flushes_fail {
            return Err(Errno::EIO);
        }
        self.log.push(Op::Flush { ino });
        Ok(())
    }
}

/// Answers the kernel.
pub(super) struct Recorder<M>(pub(super) Arc<Shared<M>>);

macro_rules! answer {
    ($reply:ident, $outcome:expr, $value:ident => $good:expr) => {
        match $outcome {
            Ok($value) => $good,
            Err(errno) => $reply.error(errno),
        }
    };
}

impl<M: Send + 'static> Filesystem for Recorder<M> {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.0.lock().find(parent.0, name);
        answer!(reply, found, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let found = self.0.lock().attributes(ino.0);
        answer!(reply, found, attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.0.lock();
        if let Some(node) = state.nodes.get_mut(&ino.0) {
            node.mode = mode.unwrap_or(node.mode);
            node.uid = uid.unwrap_or(node.uid);
            node.gid = gid.unwrap_or(node.gid);
        }
        let sized = size.map_or(Ok(()), |size| state.resize(ino.0, size));
        let done = sized.and_then(|()| state.attributes(ino.0));
        answer!(reply, done, attr => reply.attr(&TTL, &attr));
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let body = Body::Folder(BTreeMap::new());
        let made = self.0.lock().make(parent.0, name, body, mode & !umask, req);
        answer!(reply, made, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let body = Body::File(Vec::new());
        let made = self.0.lock().make(parent.0, name, body, mode & !umask, req);
        let opened = FopenFlags::empty();
        answer!(reply, made, attr => reply.created(&TTL, &attr, Generation(0), FileHandle(0), opened));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.0.lock().remove(parent.0, name);
        answer!(reply, done, _unit => reply.ok());
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let done = self.0.lock().remove(parent.0, name);
        answer!(reply, done, _unit => reply.ok());
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let done = self.0.lock().rename((parent.0, name), (newparent.0, newname));
        answer!(reply, done, _unit => reply.ok());
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Nothing is kept by the kernel from one open to the next, so that what rots is seen.
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.0.lock();
        answer!(reply, state.bytes(ino.0), bytes => {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            let end = start.saturating_add(size as usize).min(bytes.len());
            reply.data(bytes.get(start..end).unwrap_or_default());
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.0.lock().write(ino.0, offset, data);
        answer!(reply, written, len => reply.written(len));
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // This is close(), which makes nothing durable.
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let done = self.0.lock().flush(ino.0);
        answer!(reply, done, _unit => reply.ok());
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let done = self.0.lock().flush(ino.0);
        answer!(reply, done, _unit => reply.ok());
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.0.lock();
        let listed: Vec<_> = match state.names(ino.0) {
            Ok(names) => names.iter().map(|(name, ino)| (name.clone(), *ino)).collect(),
            Err(errno) => return reply.error(errno),
        };
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (n, (name, ino)) in (1_u64..).zip(listed).skip(skipped) {
            let Ok(attr) = state.attributes(ino) else { continue };
            if reply.add(INodeNo(ino), n, attr.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let state = self.0.lock();
        let free = match state.faults.full {
            true => 0,
            false => state.faults.free_bytes.unwrap_or(PLENTY) / u64::from(BLOCK),
        };
        let files = state.nodes.len() as u64;
        reply.statfs(
            PLENTY / u64::from(BLOCK),
            free,
            free,
            files,
            PLENTY,
            BLOCK,
            255,
            BLOCK,
        );
    }
}
