//! The places of control sockets: `NAME.PID.sock` in the runtime directory. Clients search all directories that can be one.

pub use crate::runtime_dir::{VARIABLE, directories};
use crate::runtime_dir::{check, last_resort, make_directory};
use crate::sys::{process, socket};
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".sock";
/// The longest path of a Unix socket (unix(7), less the final NUL).
const MAX_PATH: usize = 107;

/// The sockets that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// Their paths.
    pub sockets: Vec<PathBuf>,
    /// Directories that exist but are not accessible to this user.
    pub closed: Vec<PathBuf>,
}

/// Finds control sockets; their masters may have ended.
pub fn find() -> Found {
    let mut found = Found::default();
    for directory in directories() {
        match sockets_in(&directory) {
            Ok(sockets) => found.sockets.extend(sockets),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => found.closed.push(directory),
            Err(_) => {}
        }
    }
    found
}

fn sockets_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    // Any user may have created the directory, with sockets of their own for others to connect to.
    if directory == last_resort() && directory.exists() {
        check(directory).map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
    }
    let entries = fs::read_dir(directory)?.flatten();
    // A hidden one does not listen yet.
    let is_shown =
        |name: &OsString| name.as_bytes().ends_with(SUFFIX.as_bytes()) && name.as_bytes()[0] != b'.';
    let sockets = entries.filter(|e| is_shown(&e.file_name()) && e.file_type().is_ok_and(|t| t.is_socket()));
    Ok(sockets.map(|e| e.path()).collect())
}

/// Removes the socket of a master that has ended, if its directory belongs to this user.
pub fn remove_stale(path: &Path) {
    if path.parent().is_some_and(|d| check(d).is_ok()) {
        let _ = fs::remove_file(path);
    }
}

/// The file of a control socket that this process has created; removed when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Place {
    /// Creates a control socket in the first directory that can be used.
    ///
    /// # Errors
    /// The reason for each directory why it cannot be used.
    pub(crate) fn make(name: &str) -> Result<(Self, OwnedFd), String> {
        let mut failures = Vec::new();
        for directory in directories() {
            match Self::make_in(&directory, name) {
                Ok(made) => return Ok(made),
                Err(e) => failures.push(format!("{}: {e}", directory.display())),
            }
        }
        Err(failures.join("; "))
    }

    pub(crate) fn make_in(directory: &Path, name: &str) -> Result<(Self, OwnedFd), String> {
        make_directory(directory)?;
        let end = format!(".{}{SUFFIX}", process::own_pid());
        let room = MAX_PATH.saturating_sub(directory.as_os_str().len() + end.len() + "/.".len());
        let name: String = name.chars().take(room).collect();
        let path = directory.join(format!("{name}{end}"));
        if name.is_empty() {
            return Err("the path is too long for a socket".into());
        }
        if socket::unix_answers(&path).unwrap_or(false) {
            return Err(format!("{name}{end} is in use by a process with the same pid in another container"));
        }
        Self::bind(directory, path).map_err(|e| e.to_string())
    }

    /// Binds under a hidden name first: a client that found the socket before it listens would remove it as stale.
    fn bind(directory: &Path, path: PathBuf) -> io::Result<(Self, OwnedFd)> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = directory.join(format!(".{name}"));
        let _ = fs::remove_file(&hidden);
        let fd = socket::listen_unix(&hidden, 0o600, BACKLOG)?;
        let mut place = Self { identity: identity(&hidden), path: hidden };
        fs::rename(&place.path, &path)?;
        place.path = path;
        Ok((place, fd))
    }

    /// True unless the file is gone, or another one is in its place.
    pub(crate) fn is_there(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(found) => self.identity == Some((found.dev(), found.ino())),
            Err(e) => !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        }
    }

    /// Keeps the file when dropped: it is of the master, another process.
    pub(crate) fn disown(&mut self) {
        self.identity = None;
    }
}

/// The most clients that wait to be accepted.
const BACKLOG: i32 = 64;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{DirBuilder, Permissions};
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    #[test]
    fn a_directory_of_another_user_or_open_to_others_is_refused() {
        assert!(check(Path::new("/proc/self/nothing")).is_err());
        assert!(check(Path::new("/dev/null")).unwrap_err().contains("expected a directory"));
        let own = std::env::temp_dir().join(format!("prefork-place-{}", process::own_pid()));
        DirBuilder::new().mode(0o700).create(&own).unwrap();
        assert_eq!(check(&own), Ok(()));
        fs::set_permissions(&own, Permissions::from_mode(0o777)).unwrap();
        assert_eq!(check(&own), Err("others may write to it".into()));
        assert!(Place::make_in(&own, "x").is_err());
        fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
        let link = own.join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(check(&link).is_err());
        fs::remove_dir_all(own).unwrap();
    }

    #[test]
    fn a_socket_has_mode_0600_and_is_removed_at_the_end() {
        let own = std::env::temp_dir().join(format!("prefork-place2-{}", process::own_pid()));
        let (place, fd) = Place::make_in(&own, &"long-name".repeat(7)).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&place.path).unwrap().permissions().mode() & 0o777, 0o600);
        let found = sockets_in(&own).unwrap();
        assert_eq!(found, std::slice::from_ref(&place.path));
        assert!(found[0].as_os_str().len() <= MAX_PATH && socket::unix_answers(&found[0]).unwrap());
        drop((place, fd));
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        fs::remove_dir(own).unwrap();
    }
}
