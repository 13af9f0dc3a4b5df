//! Handlers from a shared object: checked and copied in the master, loaded in the worker.
//!
//! The master never loads the file, so a broken one cannot harm it and a reload really reads the new one; the workers of one
//! generation load one private copy, so a file that is overwritten in place cannot pull the code from under them.

use super::elf;
use super::module::{Callbacks, PREFORK_ABI_MAJOR, PREFORK_ABI_MINOR, prefork_module};
use crate::error::{Error, ErrorKind, Result};
use crate::server::Source;
use crate::sys::dl::Library;
use crate::sys::memory::{copy_file, memory_file};
use crate::{Handler, Worker};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result;

/// The handler of a `.so`.
pub(crate) struct ModuleSource {
    path: PathBuf,
    name: String,
    image: Option<OwnedFd>,
}

impl ModuleSource {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), name: path.display().to_string(), image: None }
    }

    /// A private copy of the file, which has passed the check.
    fn copy(&self) -> result::Result<OwnedFd, String> {
        let about = fs::metadata(&self.path).map_err(|e| missing(&e))?;
        if about.is_dir() {
            return Err("found a directory: give the file in it".into());
        }
        if !about.is_file() {
            // Opening a pipe would wait for its other end.
            return Err("found no regular file: give the path of the .so itself".into());
        }
        let file = File::open(&self.path).map_err(|e| missing(&e))?;
        let failed = |e: io::Error| format!("cannot copy it: {e}");
        let len = file.metadata().map_err(failed)?.len();
        elf::check(&file, len)?;
        let image = memory_file(&self.image_name()).map_err(failed)?;
        copy_file(file.as_fd(), image.as_fd(), len).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                "found it changing while it was read: wait until it is built".into()
            }
            _ => failed(e),
        })?;
        Ok(image)
    }

    /// What /proc/PID/maps and debuggers show. The kernel takes at most 249 bytes (memfd_create(2)).
    fn image_name(&self) -> CString {
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        CString::new(&name[..name.len().min(200)]).unwrap_or_default()
    }

    /// One line on why the file does not load: what was looked for, what was found, what to do.
    fn refusal(&self, found: &str) -> String {
        format!("load {}: expected a shared object, {found}", self.name)
    }

    fn load(&self, image: BorrowedFd<'_>) -> result::Result<Callbacks, String> {
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let c_path = CString::new(path.as_str()).unwrap_or_default();
        let library = Library::open(&c_path).map_err(|text| explain(&text, &path, &self.name))?;
        let symbol = library.symbol(c"prefork_module").ok_or_else(|| {
            self.module_refusal("found no symbol of that name: define it with PREFORK_MODULE")
        })?;
        // SAFETY: a symbol of this name is a descriptor, which says its version and size itself; the object stays loaded.
        let module = unsafe { prefork_module::read(symbol.as_ptr().cast()) };
        let module = module.map_err(|found| self.module_refusal(&found))?;
        // SAFETY: the callbacks stay where they are, as the object stays loaded; `state` is NULL until worker_start sets it.
        unsafe { Callbacks::new(module, std::ptr::null_mut()) }.map_err(|found| self.module_refusal(found))
    }

    fn module_refusal(&self, found: &str) -> String {
        let ours =
            format!("ABI {PREFORK_ABI_MAJOR}.{PREFORK_ABI_MINOR}, prefork {}", env!("CARGO_PKG_VERSION"));
        format!("load {}: expected a prefork_module ({ours}), {found}", self.name)
    }
}

impl Source for ModuleSource {
    fn prepare(&mut self) -> Result<()> {
        let image = self.copy().map_err(|found| Error::new(ErrorKind::Handler, self.refusal(&found)))?;
        self.image = Some(image);
        Ok(())
    }

    fn open(&mut self, _worker: &Worker) -> result::Result<Box<dyn Handler>, String> {
        // The loaded object stays when the descriptor is closed.
        let image = self.image.take().ok_or("the module was not prepared")?;
        Ok(Box::new(self.load(image.as_fd())?))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn missing(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => "found no such file: check the path, or build it first".into(),
        io::ErrorKind::PermissionDenied => {
            "found one that may not be read: chmod +r it and its folder".into()
        }
        _ => format!("cannot open it: {e}"),
    }
}

/// Turns what the loader said into our one line: the user's path for the copy's, and what to do.
fn explain(text: &str, copy: &str, name: &str) -> String {
    let text = text.strip_prefix(copy).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    let text = text.replace(copy, name);
    let advice = if text.contains("undefined symbol: prefork_") {
        "this prefork does not have it, or the program that embeds it does not export it \
         (-Wl,--export-dynamic-symbol=prefork_*)"
    } else if text.contains("undefined symbol") {
        "check its spelling, or link the library that has it"
    } else if text.contains("position-independent executable") || text.contains("dynamic section") {
        elf::BUILD
    } else if text.contains("cannot open shared object file") {
        "install it, or set LD_LIBRARY_PATH"
    } else {
        "the loader's ld.so(8) variable LD_DEBUG=all tells more"
    };
    format!("load {name}: expected a shared object that loads, found {text}: {advice}")
}
