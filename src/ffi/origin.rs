//! The libraries that a module needs from the folder of its own file (`$ORIGIN` in its run path; ld.so(8)).
//!
//! The loader would look for them beside the copy that it loads. So the worker loads them first, from the user's folder: then the loader
//! knows them by their names (`DT_SONAME`), and looks no further.

use crate::sys::elf::{self, Dynamic};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A library to load before the module.
#[derive(Debug, PartialEq, Eq)]
pub struct Beside {
    /// Its path.
    pub path: PathBuf,
    /// The name by which the module needs it, if the library itself has another one, or none: the loader will not find it.
    pub unknown_as: Option<OsString>,
}

/// Returns the libraries that a module needs from places that it names by its own folder, `origin`. A file that cannot be read needs
/// none: the loader says why.
pub fn libraries(module: &File, origin: &Path) -> Vec<Beside> {
    let Ok(dynamic) = elf::dynamic(module) else { return Vec::new() };
    let overruling = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let find = |name: &OsString| {
        let path = find(name, &dynamic, origin, &overruling)?;
        let soname = File::open(&path).and_then(|file| elf::dynamic(&file)).ok()?.soname;
        Some(Beside { path, unknown_as: (soname.as_ref() != Some(name)).then(|| name.clone()) })
    };
    dynamic.needed.iter().filter_map(find).collect()
}

/// Finds a library in the order of the loader, as far as it looks in places that are named by `origin`.
fn find(name: &OsStr, dynamic: &Dynamic, origin: &Path, overruling: &OsStr) -> Option<PathBuf> {
    // That is a path.
    if name.as_bytes().contains(&b'/') {
        return None;
    }
    let places = match (&dynamic.runpath, &dynamic.rpath) {
        // Only of this one the user has the last word.
        (Some(_), _)
            if std::env::split_paths(overruling).any(|p| p.is_absolute() && p.join(name).exists()) =>
        {
            None
        }
        (Some(places), _) | (None, Some(places)) => Some(places),
        (None, None) => None,
    };
    let mut places = places?.as_bytes().split(|byte| *byte == b':');
    places
        .find_map(|place| {
            let (place, is_named_by_origin) = expand(place, origin);
            let path = place.join(name);
            path.is_file().then_some((path, is_named_by_origin))
        })
        .and_then(|(path, is_named_by_origin)| is_named_by_origin.then_some(path))
}

/// Puts a folder in the place of `$ORIGIN` or `${ORIGIN}`; true if it was there.
fn expand(place: &[u8], origin: &Path) -> (PathBuf, bool) {
    for word in [&b"$ORIGIN"[..], b"${ORIGIN}"] {
        if let Some(rest) = place.strip_prefix(word)
            && (rest.is_empty() || rest[0] == b'/')
        {
            let path = [origin.as_os_str().as_bytes(), rest].concat();
            return (OsString::from_vec(path).into(), true);
        }
    }
    (OsStr::from_bytes(place).into(), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_for_the_folder_is_expanded_at_the_beginning_only() {
        let expand = |place: &str| expand(place.as_bytes(), Path::new("/r/1"));
        for (place, expected) in [
            ("$ORIGIN", "/r/1"),
            ("${ORIGIN}", "/r/1"),
            ("$ORIGIN/../lib", "/r/1/../lib"),
            ("${ORIGIN}/lib", "/r/1/lib"),
        ] {
            assert_eq!(expand(place), (expected.into(), true));
        }
        for place in ["/usr/lib", "$ORIGINAL", "lib", ""] {
            assert_eq!(expand(place), (place.into(), false));
        }
    }
}
