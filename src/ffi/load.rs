//! Handlers from a shared object: checked and copied in the master, loaded in the worker.
//!
//! The master never loads the file, so a broken one cannot harm it. The workers of one generation load the same private copy,
//! so a file that is overwritten in place cannot change the code they run.

use super::module::{Callbacks, PREFORK_ABI_MAJOR, PREFORK_ABI_MINOR, prefork_module};
use super::{origin, rust_module};
use crate::Handler;
use crate::Worker;
use crate::code;
use crate::error::{Error, ErrorKind, Result};
use crate::event::CodeFile;
use crate::ids::Generation;
use crate::image::{self, Image};
use crate::runtime_dir;
use crate::server::Server;
use crate::sys::dl::Library;
use crate::sys::elf;
use crate::worker::failure::StartFailure;
use crate::worker::source::{Opened, Source};
use std::ffi::CString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::result;

impl Server {
    /// A server whose handler is a shared object with a `prefork_module`, or one made by [`crate::module!`]; each worker loads a private
    /// copy of it. A relative path is
    /// meant from the working directory of now, with the symbolic links of `$PWD`; each reload follows the path anew. The module
    /// calls functions of this program, which must be linked with `-Wl,--export-dynamic-symbol=prefork_*` (in build.rs:
    /// `cargo:rustc-link-arg-bins=`).
    pub fn module(path: impl AsRef<Path>) -> Self {
        Self::with_source(ModuleSource::new(path.as_ref()))
    }
}

/// Loads a module by its own path.
///
/// # Errors
/// The reason why it is none.
pub(super) fn open_for_test(path: &Path) -> result::Result<Box<dyn Handler>, String> {
    let source = ModuleSource::new(path);
    source.check().map_err(|e| source.refusal(e).to_string())?;
    match source.load_from(&source.path)? {
        Opened::Handler(handler) => Ok(handler),
        Opened::Successor(_) => {
            Err(format!("load {}: a module in Rust: test it with prefork::testing", source.name))
        }
    }
}

/// The handler of a `.so`.
struct ModuleSource {
    path: PathBuf,
    name: String,
    /// Copies by generation: the one that serves, the one that is to, and those of generations that workers drain of.
    copies: Vec<Copy>,
    /// The directories for copies, best first; none: in memory.
    directories: fn() -> Vec<PathBuf>,
    /// The file of the last copy that was wanted, if it could be read, and the one of the generation that serves.
    last_read: Option<CodeFile>,
    serving: Option<CodeFile>,
}

/// The copy of a module for one generation.
struct Copy {
    generation: Generation,
    image: Image,
    /// The folders that stand for `$ORIGIN`: that of the path as it was given, and that of the file if a link leads to another one.
    origins: Vec<PathBuf>,
    /// True if no worker starts with it any more.
    retired: bool,
}

impl ModuleSource {
    fn new(path: &Path) -> Self {
        Self {
            path: code::absolute(path),
            name: path.display().to_string(),
            copies: Vec::new(),
            directories: runtime_dir::directories,
            last_read: None,
            serving: None,
        }
    }

    /// Opens the file and checks that it is a module, as far as that is seen without loading it.
    fn check(&self) -> io::Result<(File, Metadata)> {
        // Before the file is opened: opening a pipe would wait for its other end.
        let about = fs::metadata(&self.path)?;
        if !about.is_file() {
            return Err(io::Error::other(if about.is_dir() { "a directory" } else { "not a regular file" }));
        }
        let file = File::open(&self.path)?;
        let about = file.metadata()?;
        elf::check(&file, about.len())?;
        Ok((file, about))
    }

    /// Checks the file and makes a private copy of it.
    fn copy(&self, generation: Generation) -> io::Result<(Copy, CodeFile)> {
        let (file, about) = self.check()?;
        let real = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let read = CodeFile::new(&real, &about)?;
        let given = self.path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        let mut origins: Vec<_> = given.into_iter().chain(real.parent().map(PathBuf::from)).collect();
        origins.dedup();
        let directories = (self.directories)();
        if generation == Generation::FIRST {
            image::remove_leftovers(&directories);
        }
        // The name is what debuggers show.
        let name = self.path.file_name().unwrap_or_default();
        let image = Image::copy(&file, about.len(), name, generation.0, &directories)?;
        Ok((Copy { generation, image, origins, retired: false }, read))
    }

    /// Loads a private copy, after the libraries that lie beside the file.
    fn load(&self, copy: &Copy) -> result::Result<Opened, String> {
        let mut needed = copy.origins.iter().map(|origin| origin::libraries(copy.image.file(), origin));
        let libraries = needed.find(|found| !found.is_empty()).unwrap_or_default();
        let mut failure = None;
        for library in &libraries {
            let path = CString::new(library.path.as_os_str().as_bytes()).unwrap_or_default();
            if let Err(text) = Library::open_first(&path) {
                failure.get_or_insert(text);
            }
        }
        let loaded = self.load_from(&copy.image.path());
        // The loader only says that it has not found the library.
        loaded.map_err(|text| match failure {
            Some(failure) => explain(&failure, "", &self.name),
            None => {
                match libraries.iter().find_map(|library| Some((library, library.unknown_as.as_ref()?))) {
                    Some((library, name)) if text.contains("cannot open shared object file") => format!(
                        "load {}: {} lies beside it, but has no name: link it with -Wl,-soname,{}",
                        self.name,
                        library.path.display(),
                        name.display()
                    ),
                    _ => text,
                }
            }
        })
    }

    /// The error of a file that is no module.
    fn refusal(&self, e: io::Error) -> Error {
        let is_cut = e.kind() == io::ErrorKind::UnexpectedEof;
        let e = if is_cut { io::Error::other("truncated: build or copy it again") } else { e };
        Error::io(ErrorKind::Handler, format!("load {}", self.name), e)
    }

    fn load_from(&self, path: &Path) -> result::Result<Opened, String> {
        let c_path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
        let explain = |text: String| explain(&text, &path.to_string_lossy(), &self.name);
        let library = Library::open(&c_path).map_err(explain)?;
        if let Some(symbol) = library.symbol(c"prefork_rust_module") {
            // SAFETY: a symbol of this name is one of `module!`; the object stays loaded.
            let module = unsafe { rust_module::Loaded::new(symbol) };
            let module = module.map_err(|found| format!("load {}: {found}", self.name))?;
            return Ok(Opened::Successor(Box::new(module)));
        }
        let refuse = |found: &str| {
            let ours = format!("ABI {PREFORK_ABI_MAJOR}.{PREFORK_ABI_MINOR}");
            let version = env!("CARGO_PKG_VERSION");
            format!("load {}: expected a prefork_module ({ours}, prefork {version}), {found}", self.name)
        };
        let symbol = library.symbol(c"prefork_module");
        let symbol =
            symbol.ok_or_else(|| refuse("found no symbol of that name: define it with PREFORK_MODULE, or in Rust with prefork::module!"))?;
        // SAFETY: a symbol of this name is a descriptor, which gives its version and size itself; the object stays loaded.
        let module =
            unsafe { prefork_module::read(symbol.as_ptr().cast()) }.map_err(|found| refuse(&found))?;
        // SAFETY: the object stays loaded, and so do the callbacks; `state` is NULL until worker_start sets it.
        let callbacks = unsafe { Callbacks::new(module, std::ptr::null_mut()) }.map_err(refuse)?;
        Ok(Opened::Handler(Box::new(callbacks)))
    }
}

impl Source for ModuleSource {
    fn prepare(&mut self, generation: Generation) -> Result<()> {
        self.last_read = None;
        let (copy, read) = self.copy(generation).map_err(|e| self.refusal(e))?;
        self.copies.push(copy);
        if generation == Generation::FIRST {
            self.serving = Some(read.clone());
        }
        self.last_read = Some(read);
        Ok(())
    }

    fn images(&self) -> Vec<(Generation, BorrowedFd<'_>)> {
        self.copies.iter().map(|copy| (copy.generation, copy.image.as_fd())).collect()
    }

    fn adopt_images(&mut self, images: Vec<(Generation, OwnedFd)>) {
        let adopt = |(generation, fd)| Copy {
            generation,
            image: Image::adopt(fd),
            origins: Vec::new(),
            retired: false,
        };
        self.copies = images.into_iter().map(adopt).collect();
    }

    fn is_module(&self) -> bool {
        true
    }

    fn last_read(&self) -> Option<CodeFile> {
        self.last_read.clone()
    }

    fn serving(&self) -> Option<CodeFile> {
        self.serving.clone().map(|file| file.compared(&self.path))
    }

    fn adopt_serving(&mut self, file: Option<CodeFile>) {
        let origin = file.as_ref().and_then(|file| Path::new(&file.path).parent()).map(PathBuf::from);
        self.copies.iter_mut().for_each(|copy| copy.origins = origin.iter().cloned().collect());
        self.serving = file;
    }

    fn keep_only(&mut self, generation: Generation) {
        // A generation that was read and is kept is the one that serves.
        if self.copies.last().is_some_and(|copy| copy.generation == generation) && self.last_read.is_some() {
            self.serving.clone_from(&self.last_read);
        }
        self.copies.iter_mut().for_each(|copy| copy.retired |= copy.generation != generation);
    }

    fn free_unused(&mut self, is_in_use: &dyn Fn(Generation) -> bool) {
        self.copies.retain(|copy| !copy.retired || is_in_use(copy.generation));
    }

    fn open(&mut self, worker: &Worker) -> result::Result<Opened, StartFailure> {
        // The loaded object stays when the descriptor is closed.
        let mut copies = std::mem::take(&mut self.copies).into_iter();
        let copy = copies
            .find(|copy| copy.generation.0 == worker.generation())
            .ok_or("the module was not prepared".to_owned())?;
        Ok(self.load(&copy)?)
    }

    fn open_in_place(&mut self, _: &Worker) -> result::Result<Opened, StartFailure> {
        self.check().map_err(|e| self.refusal(e).to_string())?;
        Ok(self.load_from(&self.path)?)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Makes one line of the loader's message: the user's path instead of the copy's, and what to do.
fn explain(text: &str, copy: &str, name: &str) -> String {
    let text = text.strip_prefix(copy).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text);
    let advice = ADVICE.iter().find(|(sign, _)| text.contains(sign)).map_or("", |(_, advice)| advice);
    format!("load {name}: {}{advice}", text.replace(copy, name))
}

/// The advice to add to a message of the loader that contains a phrase; the first one counts.
const ADVICE: [(&str, &str); 4] = [
    (
        "undefined symbol: prefork_",
        ": this prefork lacks it, or its program is not linked with -Wl,--export-dynamic-symbol=prefork_*",
    ),
    ("undefined symbol", ": check its spelling, or link the library that has it"),
    ("position-independent executable", ": build it with cc -shared -fPIC"),
    ("cannot open shared object file", ": install it, or set LD_LIBRARY_PATH"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Handler;
    use std::process::Command;

    /// A folder that is removed when dropped.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("prefork-load-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// Compiles C into a file in this folder.
        fn cc(&self, name: &str, code: &str, options: &[&str]) -> PathBuf {
            let source = self.0.join(format!("{name}.c"));
            fs::write(&source, format!("#include <prefork.h>\n{code}\n")).unwrap();
            let include = concat!(env!("CARGO_MANIFEST_DIR"), "/include");
            let out = self.0.join(name);
            let mut cc = Command::new("cc");
            cc.args(["-std=c99", "-I", include, "-o"]).arg(&out).arg(&source).args(options);
            assert!(cc.status().unwrap().success(), "{cc:?}");
            out
        }

        fn module(&self, name: &str, code: &str) -> PathBuf {
            self.cc(name, code, &["-shared", "-fPIC"])
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The tests are one process, in which the names of files would be the same.
    fn in_memory(path: &Path) -> ModuleSource {
        ModuleSource { directories: Vec::new, ..ModuleSource::new(path) }
    }

    fn worker() -> Worker {
        let (channel, _) = crate::message::channel(1024).unwrap();
        Worker::new(crate::worker::SelfInfo {
            id: crate::ids::WorkerId(1),
            slot: crate::ids::Slot(0),
            generation: crate::ids::Generation::FIRST,
            args: Vec::new(),
            started: std::time::SystemTime::now(),
            forked_at: crate::sys::time::Time::default(),
            last_exit: None,
            page: crate::scoreboard::Scoreboard::new(1).unwrap().page(crate::ids::Page(0)),
            messages: crate::worker::messages::WorkerMessages::new(channel.socket, channel.outbox),
            own: crate::worker::Own::default(),
            listeners: Vec::new(),
        })
    }
    const REQUEST: &str = "static void on_request(prefork_request *q, prefork_response *r, void *s) { (void)q; (void)r; (void)s; }";

    /// A worker opens one module in its life. These tests open many in one process, where the loader takes a known name for the
    /// same object: so no descriptor's number may be used again.
    fn open(source: &mut ModuleSource) -> result::Result<Box<dyn Handler>, String> {
        let copy = source.copies.last().unwrap();
        let (generation, origins) = (copy.generation, copy.origins.clone());
        let image = Image::adopt(copy.image.as_fd().try_clone_to_owned().unwrap());
        let copy = Copy { generation, image, origins, retired: false };
        let opened = source.load(&copy);
        std::mem::forget(copy);
        opened.map(|opened| match opened {
            Opened::Handler(handler) => handler,
            Opened::Successor(_) => panic!("a module in Rust"),
        })
    }

    /// The refusal of a file, in the master or in the worker.
    fn refusal(path: &Path) -> String {
        let mut source = in_memory(path);
        let text = match source.prepare(Generation(1)) {
            Err(e) => e.to_string(),
            Ok(()) => open(&mut source).err().unwrap(),
        };
        assert!(text.starts_with(&format!("load {}: ", path.display())), "{text}");
        assert!(!text.contains('\n') && !text.contains("/proc/"), "{text}");
        text
    }

    /// A module whose worker_start returns a number, to tell it from others.
    fn numbered(folder: &Folder, name: &str, number: u8) -> PathBuf {
        let start =
            format!("static int start(prefork_worker *w, void **s) {{ (void)w; (void)s; return {number}; }}");
        let code =
            format!("{REQUEST}\n{start}\nPREFORK_MODULE(.worker_start = start, .on_request = on_request)");
        folder.module(name, &code)
    }

    fn number(source: &mut ModuleSource) -> String {
        open(source).unwrap().start(&worker()).unwrap_err().to_string()
    }

    #[test]
    fn a_module_loads() {
        let folder = Folder::new("loads");
        let path = folder.module("ok.so", &format!("{REQUEST}\nPREFORK_MODULE(.on_request = on_request)"));
        let mut source = in_memory(&path);
        source.prepare(Generation(1)).unwrap();
        let mut handler = open(&mut source).unwrap();
        assert_eq!(handler.kind(), crate::Kind::Request);
        handler.start(&worker()).unwrap();
    }

    #[test]
    fn files_that_are_not_modules_are_told_apart() {
        let folder = Folder::new("files");
        assert!(refusal(&folder.0.join("missing.so")).contains("No such file or directory"));
        assert!(refusal(&folder.0).contains(": a directory"));
        assert!(refusal(Path::new("/dev/null")).contains("not a regular file"));
        for (name, content, expected) in [
            ("empty.so", &b""[..], "truncated"),
            ("text.so", b"int x;\n", "not a shared object: build it with"),
        ] {
            let path = folder.0.join(name);
            fs::write(&path, content).unwrap();
            assert!(refusal(&path).contains(expected), "{name}");
        }
    }

    #[test]
    fn a_module_cut_at_any_place_is_refused_in_the_master() {
        let folder = Folder::new("cut");
        let whole = fs::read(numbered(&folder, "whole.so", 1)).unwrap();
        let path = folder.0.join("cut.so");
        for len in (1..whole.len()).step_by(97).chain([whole.len() - 1]) {
            fs::write(&path, &whole[..len]).unwrap();
            let text = in_memory(&path).prepare(Generation(1)).unwrap_err().to_string();
            assert!(text.contains("truncated") || len < 4, "{len}: {text}");
        }
    }

    #[test]
    fn objects_and_programs_are_told_apart() {
        let folder = Folder::new("kinds");
        let main = "int main(void) { return 0; }";
        assert!(
            refusal(&folder.cc("x.o", main, &["-c"])).contains("an object file: link it with cc -shared")
        );
        assert!(
            refusal(&folder.cc("fixed", main, &["-no-pie"])).contains("not a shared object: build it with")
        );
        let text = refusal(&folder.cc("pie", main, &["-pie", "-fPIE"]));
        assert!(text.contains("position-independent executable: build it with cc -shared -fPIC"), "{text}");
    }

    #[test]
    fn a_module_for_another_machine_is_refused() {
        let folder = Folder::new("machine");
        let path = numbered(&folder, "other.so", 1);
        let mut bytes = fs::read(&path).unwrap();
        bytes[18] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        assert!(refusal(&path).contains("built for another machine"));
    }

    #[test]
    fn modules_without_what_it_takes_are_refused() {
        let folder = Folder::new("refused");
        let conn = "static void on_conn(prefork_conn *c, void *s) { (void)c; (void)s; }";
        let lost = "void nowhere(void);\nvoid *keep(void);\nvoid *keep(void) { nowhere(); return 0; }";
        for (name, code, expected) in [
            ("bare", "int x;".to_owned(), "found no symbol of that name: define it with PREFORK_MODULE"),
            ("none", "PREFORK_MODULE(.on_drain = 0)".into(), "found no handler"),
            (
                "both",
                format!("{REQUEST}{conn} PREFORK_MODULE(.on_request = on_request, .on_connection = on_conn)"),
                "found on_connection together",
            ),
            (
                "oneway",
                "static ptrdiff_t give(prefork_conn *c, void *b, size_t n, void *s) { (void)c; (void)b; (void)n; (void)s; return 0; }\n\
                 static void on_conn(prefork_conn *c, void *s) { (void)c; (void)s; }\n\
                 PREFORK_MODULE(.on_data = on_conn, .state_version = 1, .on_handover = give)"
                    .to_owned(),
                "found on_handover without on_takeover",
            ),
            (
                "abi",
                format!(
                    "{REQUEST}\n#undef PREFORK_ABI_MAJOR\n#define PREFORK_ABI_MAJOR 7\nPREFORK_MODULE(.on_request = on_request)"
                ),
                concat!(
                    "(ABI 2.1, prefork ",
                    env!("CARGO_PKG_VERSION"),
                    "), found ABI 7.1: compile it against"
                ),
            ),
            ("lost", lost.into(), ": undefined symbol: nowhere: check its spelling"),
            ("newer", lost.replace("nowhere", "prefork_nowhere"), "this prefork lacks it"),
        ] {
            let text = refusal(&folder.module(&format!("{name}.so"), &code));
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let folder = Folder::new("needs");
        folder.module("libgone.so", "int gone(void); int gone(void) { return 1; }");
        let link = format!("-L{}", folder.0.display());
        let options = ["-shared", "-fPIC", &link, "-Wl,--no-as-needed", "-lgone"];
        let path = folder.cc("needs.so", "int x;", &options);
        fs::remove_file(folder.0.join("libgone.so")).unwrap();
        let text = refusal(&path);
        assert!(text.contains("libgone.so: cannot open shared object file"), "{text}");
        assert!(text.ends_with("install it, or set LD_LIBRARY_PATH"), "{text}");
    }

    #[test]
    fn workers_load_the_copy_whatever_becomes_of_the_file() {
        let folder = Folder::new("copy");
        let path = numbered(&folder, "module.so", 3);
        let mut source = in_memory(&path);
        source.prepare(Generation(1)).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(100).unwrap();
        assert_eq!(number(&mut source), "worker_start returned 3");
        // A copy that cannot be replaced stays.
        source.prepare(Generation(2)).unwrap_err();
        assert_eq!(number(&mut source), "worker_start returned 3");
    }

    #[test]
    fn a_new_copy_is_new_code() {
        let folder = Folder::new("new");
        let path = numbered(&folder, "module.so", 3);
        let mut source = in_memory(&path);
        source.prepare(Generation(1)).unwrap();
        assert_eq!(number(&mut source), "worker_start returned 3");
        fs::rename(numbered(&folder, "next.so", 4), &path).unwrap();
        assert_eq!(number(&mut source), "worker_start returned 3");
        source.prepare(Generation(2)).unwrap();
        source.keep_only(Generation(2));
        source.free_unused(&|generation| generation == Generation(1));
        assert_eq!(source.copies.len(), 2, "a worker of the first generation drains");
        source.free_unused(&|_| false);
        assert_eq!(source.copies.len(), 1);
        assert_eq!(number(&mut source), "worker_start returned 4");
    }
}
