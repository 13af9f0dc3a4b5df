//! The private copies of a module: one for each generation, made in the master and loaded by its workers.
//!
//! A copy is a file of the runtime directory, so that it has a name that debuggers, profilers and sanitizers can open. The master keeps
//! it open and locked (flock(2)): a file whose lock can be had is a dead master's. If no directory can be used, is writable, has room
//! and lets code run, the copy is a file in memory; its name is then the master's descriptor.

use crate::runtime_dir;
use crate::sys::memory::{can_run_code, memory_file};
use crate::sys::{lock, process};
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The end of the names of modules and of their copies.
const SUFFIX: &[u8] = b".so";
/// The longest part of a copy's name that is the user's (bytes): names have at most 255 (NAME_MAX), those of memory files 249
/// (memfd_create(2)).
const LONGEST: usize = 200;
/// Attempts to make a file that another master, which starts at the same moment, takes for a dead master's.
const ATTEMPTS: usize = 3;

/// A private copy of a module.
#[derive(Debug)]
pub struct Image {
    file: File,
    /// `None` if it is in memory.
    path: Option<PathBuf>,
    /// The master. Its workers have a copy of this, and leave the file alone.
    owner: i32,
}

impl Image {
    /// Copies `len` bytes of a file into the first of these directories that can be used, or into memory.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file has fewer bytes; what reading it, or making a file in memory, fails with.
    pub fn copy(
        from: &File,
        len: u64,
        name: &OsStr,
        generation: u32,
        directories: &[PathBuf],
    ) -> io::Result<Self> {
        let name = &name.as_bytes()[..name.len().min(LONGEST)];
        for directory in directories {
            let Some(image) = Self::create(directory, name, generation) else { continue };
            let copied = image.fill(from, len).and_then(|()| {
                image.file.set_permissions(Permissions::from_mode(0o400))?;
                can_run_code(image.file.as_fd())
            });
            match copied {
                Ok(()) => return Ok(image),
                // There is no room here, or code may not run here: elsewhere it may.
                Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => drop(image),
                Err(e) => return Err(e),
            }
        }
        let file = File::from(memory_file(&CString::new(name)?)?);
        let image = Self { file, path: None, owner: process::own_pid() };
        image.fill(from, len)?;
        Ok(image)
    }

    /// Creates an empty file, locked, that only this user can open; `None` if that cannot be here.
    fn create(directory: &Path, name: &[u8], generation: u32) -> Option<Self> {
        runtime_dir::make_directory(directory).ok()?;
        let owner = process::own_pid();
        let stem = name.strip_suffix(SUFFIX).unwrap_or(name);
        let end = format!(".{owner}.{generation}.so");
        let path = directory.join(OsString::from_vec([stem, end.as_bytes()].concat()));
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            match options.read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    let image = Self { file, path: Some(path.clone()), owner };
                    // If it is locked, or gone, another master has looked at it in this moment.
                    if lock::try_lock(image.file.as_fd()).ok()? && image.is_there() {
                        return Some(image);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => remove_if_dead(&path),
                Err(_) => return None,
            }
        }
        None
    }

    fn fill(&self, from: &File, len: u64) -> io::Result<()> {
        let (mut from, mut to) = (from, &self.file);
        io::Seek::rewind(&mut from)?;
        if io::copy(&mut io::Read::take(from, len), &mut to)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Adopts a copy that a former program in this process has made: its name is that of its descriptor.
    pub fn adopt(fd: OwnedFd) -> Self {
        let file = File::from(fd);
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
        let mut image = Self { file, path, owner: process::own_pid() };
        // A file in memory has a name that leads nowhere.
        if !image.is_there() {
            image.path = None;
        }
        image
    }

    /// True if its path leads to it, and not to another file.
    fn is_there(&self) -> bool {
        let found = self.path.as_ref().and_then(|path| fs::symlink_metadata(path).ok());
        let own = self.file.metadata().ok();
        let identity = |about: fs::Metadata| (about.dev(), about.ino());
        found.is_some() && found.map(identity) == own.map(identity)
    }

    /// The path by which a worker loads it, and debuggers find it: of the file, which only this user can replace; of the master's
    /// descriptor, which stays open as long as a worker of the generation lives; or, if that cannot be opened, of this process's own. The
    /// last is another file, or none, for whoever else opens it.
    pub fn path(&self) -> PathBuf {
        if let Some(path) = &self.path
            && self.is_there()
        {
            return path.clone();
        }
        let number = self.file.as_raw_fd();
        let of_master = PathBuf::from(format!("/proc/{}/fd/{number}", self.owner));
        match File::open(&of_master) {
            Ok(_) => of_master,
            Err(_) => format!("/proc/self/fd/{number}").into(),
        }
    }

    /// The copy.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.owner == process::own_pid()
            && self.is_there()
            && let Some(path) = &self.path
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the copies that dead masters have left in these directories.
pub fn remove_leftovers(directories: &[PathBuf]) {
    for directory in directories.iter().filter(|directory| runtime_dir::check(directory).is_ok()) {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.filter(|entry| is_name_of_copy(&entry.file_name())).for_each(|e| remove_if_dead(&e.path()));
    }
}

/// True for `NAME.PID.GENERATION.so`.
fn is_name_of_copy(name: &OsStr) -> bool {
    let Some(stem) = name.as_bytes().strip_suffix(SUFFIX) else { return false };
    let mut parts = stem.rsplit(|byte| *byte == b'.');
    let is_number =
        |part: Option<&[u8]>| part.is_some_and(|p| !p.is_empty() && p.iter().all(u8::is_ascii_digit));
    is_number(parts.next()) && is_number(parts.next()) && parts.next().is_some()
}

/// Removes a copy if no master has it locked.
fn remove_if_dead(path: &Path) {
    let Ok(file) = OpenOptions::new().read(true).custom_flags(lock::OF_STRANGERS).open(path) else { return };
    let is_file = file.metadata().is_ok_and(|about| about.is_file() && about.uid() == process::own_user());
    if is_file && lock::try_lock(file.as_fd()).unwrap_or(false) {
        // While it is locked nobody else removes it, and so no other file gets its name.
        drop(Image { file, path: Some(path.to_path_buf()), owner: process::own_pid() });
    }
}
