//! Opening files to be sent: never waits for the other end of a FIFO or a device, and never leaves a folder that it is to stay in.

use super::retry;
use libc::{ELOOP, ENOSYS, EPERM, EXDEV};
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// To read. `O_NONBLOCK`: a FIFO is opened at once; with `O_NOCTTY` a terminal becomes nobody's.
const READ: i32 = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
/// A folder as a place to begin at.
const FOLDER: i32 = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
/// A rename elsewhere has made the kernel give up (openat2(2), `EAGAIN`): it may do so a few times.
const RACES: u32 = 16;

/// Opens a file to read it.
///
/// # Errors
/// As open(2).
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(READ).open(path)
}

/// Opens a file by a relative path that must not lead out of `root`, whatever `..`, symbolic links and mount points are in it
/// (openat2(2), `RESOLVE_BENEATH`). If the system refuses that call (a seccomp filter), no symbolic link below `root` is followed.
///
/// # Errors
/// `EXDEV` or `ELOOP` if the path leads out of `root`; as open(2).
pub fn open_below(root: &Path, path: &CStr) -> io::Result<File> {
    let root = OpenOptions::new().read(true).custom_flags(FOLDER).open(root)?;
    match beneath(root.as_fd(), path) {
        Err(e) if matches!(e.raw_os_error(), Some(ENOSYS | EPERM)) => step_by_step(root.as_fd(), path),
        opened => opened,
    }
}

fn beneath(root: BorrowedFd<'_>, path: &CStr) -> io::Result<File> {
    // `struct open_how`: flags, mode, resolve.
    let how: [u64; 3] = [READ as u64, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS];
    let mut races = 0;
    loop {
        let opened = retry(|| {
            // SAFETY: a C string, and a structure of the size that is given.
            let fd = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    root.as_raw_fd(),
                    path.as_ptr(),
                    how.as_ptr(),
                    size_of_val(&how),
                )
            };
            own(fd as i32)
        });
        match opened {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && races < RACES => races += 1,
            opened => return opened.map(File::from),
        }
    }
}

/// As [`beneath`], by the names in the path one after the other, none of which may be a symbolic link.
fn step_by_step(root: BorrowedFd<'_>, path: &CStr) -> io::Result<File> {
    if path.to_bytes().starts_with(b"/") {
        return Err(io::Error::from_raw_os_error(EXDEV));
    }
    let mut folder = root.try_clone_to_owned()?;
    let mut names =
        path.to_bytes().split(|b| *b == b'/').filter(|name| !matches!(*name, b"" | b".")).peekable();
    while let Some(name) = names.next() {
        if name == b".." {
            return Err(io::Error::from_raw_os_error(EXDEV));
        }
        let flags = if names.peek().is_some() { FOLDER } else { READ };
        let name = CString::new(name)?;
        // SAFETY: a C string.
        let open =
            || own(unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags | libc::O_NOFOLLOW) });
        folder = retry(open).map_err(|e| match e.raw_os_error() {
            // What O_DIRECTORY says of a symbolic link.
            Some(libc::ENOTDIR) => io::Error::from_raw_os_error(ELOOP),
            _ => e,
        })?;
    }
    Ok(File::from(folder))
}

fn own(fd: i32) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just returned it, so that nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    type Open = fn(BorrowedFd<'_>, &CStr) -> io::Result<File>;

    /// A folder with a root and a secret beside it.
    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("prefork-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("root/sub")).unwrap();
        fs::write(path.join("root/sub/file"), "file").unwrap();
        fs::write(path.join("secret"), "secret").unwrap();
        symlink("../../secret", path.join("root/sub/out")).unwrap();
        symlink(path.join("secret"), path.join("root/absolute")).unwrap();
        symlink("sub", path.join("root/inside")).unwrap();
        symlink("../", path.join("root/up")).unwrap();
        path
    }

    fn read(open: Open, root: &Path, path: &CStr) -> io::Result<String> {
        let root = OpenOptions::new().read(true).custom_flags(FOLDER).open(root)?;
        let mut text = String::new();
        open(root.as_fd(), path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn nothing_outside_is_opened() {
        let path = folder("outside");
        let root = path.join("root");
        for open in [beneath as Open, step_by_step] {
            assert_eq!(read(open, &root, c"sub/file").unwrap(), "file");
            assert_eq!(read(open, &root, c"sub/./file").unwrap(), "file");
            for outside in
                [c"../secret", c"sub/../../secret", c"sub/out", c"absolute", c"up/secret", c"/etc/passwd"]
            {
                let e = read(open, &root, outside).unwrap_err();
                assert!(matches!(e.raw_os_error(), Some(EXDEV | ELOOP)), "{outside:?}: {e}");
            }
            assert_eq!(read(open, &root, c"nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        assert_eq!(read(beneath, &root, c"inside/file").unwrap(), "file");
        assert!(read(step_by_step, &root, c"inside/file").is_err());
        let mut text = String::new();
        open_below(&root, c"sub/file").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "file");
        fs::remove_dir_all(path).unwrap();
    }
}
