//! The directory for what lives as long as a server: its control socket, the copies of its module. Only its user can enter it.
//!
//! It is the first of these that can be used: `$PREFORK_RUNTIME_DIR`, the only one if it is set; `$XDG_RUNTIME_DIR/prefork`;
//! `/run/prefork`, for root or its owner; `/tmp/prefork-UID`.

use crate::sys::process::own_user;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The variable that names the one directory.
pub const VARIABLE: &str = "PREFORK_RUNTIME_DIR";

/// The directories, best first.
pub fn directories() -> Vec<PathBuf> {
    let given = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(only) = given(VARIABLE) {
        return vec![only];
    }
    let own = given("XDG_RUNTIME_DIR").filter(|d| d.is_absolute()).map(|d| d.join("prefork"));
    own.into_iter().chain(["/run/prefork".into(), last_resort()]).collect()
}

/// The directory if there is no better one.
pub fn last_resort() -> PathBuf {
    format!("/tmp/prefork-{}", own_user()).into()
}

/// Makes a directory, or checks the one that is there.
///
/// # Errors
/// The reason why it cannot be used.
pub fn make_directory(directory: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check(directory),
        Err(e) => Err(e.to_string()),
    }
}

/// Checks that a directory belongs to this user, and that no other user can create files in it.
///
/// # Errors
/// The reason why it cannot be used.
pub fn check(directory: &Path) -> Result<(), String> {
    let found = fs::symlink_metadata(directory).map_err(|e| e.to_string())?;
    if !found.is_dir() {
        return Err("expected a directory".into());
    }
    if found.uid() != own_user() {
        return Err(format!("belongs to user {}", found.uid()));
    }
    match found.permissions().mode() & 0o022 {
        0 => Ok(()),
        _ => Err("others may write to it".into()),
    }
}
