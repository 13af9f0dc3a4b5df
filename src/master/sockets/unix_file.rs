//! The file of a Unix socket: bound under a hidden name and put in place when it listens, so that a file whose socket refuses
//! connections is always a dead server's; and removed at the end. Servers that start or end at the same time take turns.

use crate::sys::{errno, lock, process, socket};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Device and inode of a file.
pub type Identity = (u64, u64);

/// The longest path of a Unix socket (unix(7), less the final NUL).
const MAX_PATH: usize = 107;
/// The longest wait for other servers, which are done within a millisecond; a lock that is held for longer is held for something
/// else, and then nothing but the order of two that start at once depends on it.
const PATIENCE: Duration = Duration::from_millis(500);
/// The pause between two attempts to lock.
const PAUSE: Duration = Duration::from_millis(2);

/// Binds a path with these permissions, listens, and puts the file in place of nothing or of a dead server's.
///
/// # Errors
/// `AddrInUse` if a process answers there; another file is refused.
pub fn listen(path: &Path, mode: u32, backlog: i32) -> io::Result<(OwnedFd, Identity)> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(io::Error::other(format!("a Unix socket path has at most {MAX_PATH} bytes")));
    }
    is_free(path)?;
    let directory = File::open(directory_of(path))?;
    let hidden = hidden_name(path, &directory);
    let _ = fs::remove_file(&hidden);
    let fd = socket::listen_unix(&hidden, mode, backlog)?;
    let made = fs::symlink_metadata(&hidden).map(|m| (m.dev(), m.ino()));
    match made.and_then(|made| put(&hidden, path).map(|()| made)) {
        Ok(made) => Ok((fd, made)),
        Err(e) => {
            let _ = fs::remove_file(&hidden);
            Err(e)
        }
    }
}

/// Removes the file if it is still the one that was made here.
pub fn remove(path: &Path, made: Identity) {
    let _lock = lock(directory_of(path));
    if identity(path) == Some(made) {
        let _ = fs::remove_file(path);
    }
}

fn put(hidden: &Path, path: &Path) -> io::Result<()> {
    let _lock = lock(directory_of(path));
    loop {
        // Unlike rename(2) it replaces nothing: not every program that puts a socket there takes the lock.
        let Err(e) = fs::hard_link(hidden, path) else { return fs::remove_file(hidden) };
        let is_gone = is_free(path)?;
        // Else it is a dead server's, or a file system without hard links.
        if !is_gone || e.kind() != io::ErrorKind::AlreadyExists {
            return fs::rename(hidden, path);
        }
    }
}

/// Returns true if no file is there, and false for the socket of a dead server.
///
/// # Errors
/// As [`listen`].
fn is_free(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(about) if !about.file_type().is_socket() => {
            Err(io::Error::other("a file that is not a socket is there"))
        }
        Ok(_) if socket::unix_answers(path)? => Err(errno::error(errno::EADDRINUSE)),
        Ok(_) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns a name that no other process uses, in the same directory; if that makes the path too long, by the directory's descriptor.
fn hidden_name(path: &Path, directory: &File) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", process::own_pid()));
    let hidden = directory_of(path).join(name);
    if hidden.as_os_str().len() <= MAX_PATH {
        return hidden;
    }
    let number = directory.as_fd().as_raw_fd();
    format!("/proc/self/fd/{number}/.prefork.{}", process::own_pid()).into()
}

/// Locks a directory; `None` if that cannot be done in time or at all.
fn lock(directory: &Path) -> Option<File> {
    let file = File::open(directory).ok()?;
    let end = Instant::now() + PATIENCE;
    while !lock::try_lock(file.as_fd()).ok()? {
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    Some(file)
}
