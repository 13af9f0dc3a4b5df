//! The files that code is read from: how their paths are followed anew, and what was read.
//!
//! A path is kept as it was given, made absolute by the directory that the caller's shell shows: in a deployment that switches a
//! symbolic link (`current` to the next release), the path and not the directory it led to at the start says what to read next.

use crate::event::CodeFile;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The working directory with its symbolic links: `$PWD`, if it leads to the working directory.
pub fn logical_directory() -> Option<PathBuf> {
    let logical = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute())?;
    is_same(&fs::metadata(&logical).ok()?, &fs::metadata(".").ok()?).then_some(logical)
}

/// Makes a path absolute, and keeps its symbolic links.
pub fn absolute(path: &Path) -> PathBuf {
    match logical_directory().or_else(|| std::env::current_dir().ok()) {
        Some(directory) => directory.join(path),
        None => path.to_path_buf(),
    }
}

/// The path by which this program was started: as it was given, or as `$PATH` has it, if that leads to this program; or else the file's.
/// A relative path is also tried from `$PWD`, since a host may have left the directory in which it was started.
///
/// # Errors
/// If `/proc` has no link to it (proc(5)).
pub fn own_program() -> io::Result<PathBuf> {
    let own = fs::metadata("/proc/self/exe")?;
    let given = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let candidates = if given.as_os_str().as_encoded_bytes().contains(&b'/') {
        vec![given]
    } else {
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search).map(|directory| directory.join(&given)).collect()
    };
    let shown = std::env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    let from_shown = |path: &PathBuf| shown.as_ref().map(|directory| directory.join(path));
    let leads_here = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| is_same(&found, &own));
    let mut paths =
        candidates.iter().map(|path| absolute(path)).chain(candidates.iter().filter_map(from_shown));
    match paths.find(leads_here) {
        Some(path) => Ok(path),
        None => fs::read_link("/proc/self/exe"),
    }
}

fn is_same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

impl CodeFile {
    /// The file of this program.
    ///
    /// # Errors
    /// If `/proc` does not show it (proc(5)).
    pub(crate) fn own() -> io::Result<Self> {
        Self::new(&fs::read_link("/proc/self/exe")?, &fs::metadata("/proc/self/exe")?)
    }

    /// A file that was opened: where it lies, without symbolic links.
    ///
    /// # Errors
    /// If the system does not tell its time.
    pub(crate) fn new(path: &Path, about: &Metadata) -> io::Result<Self> {
        let path = path.to_string_lossy().into_owned();
        Ok(Self { path, inode: about.ino(), modified: about.modified()?, sha256: None, changed: false })
    }

    /// Looks if the path as it was given leads to another file by now, or to none.
    pub(crate) fn compared(mut self, given: &Path) -> Self {
        // One that another program has handed over knows the time in milliseconds.
        let identity =
            |file: &Self| (file.inode, file.modified.duration_since(UNIX_EPOCH).ok().map(|t| t.as_millis()));
        let now = fs::metadata(given).and_then(|about| Self::new(given, &about));
        self.changed = now.ok().as_ref().map(identity) != Some(identity(&self));
        self
    }
}
