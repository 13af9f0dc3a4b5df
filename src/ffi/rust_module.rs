//! Modules in Rust: a cdylib with [`crate::module!`] has its own copy of this crate, and that copy runs the worker.
//!
//! The program that loads it hands over the worker's descriptors, its pages and its settings, as bytes, through the one C function of
//! the module; no Rust type of one copy is used by the other, so the two may come from different compilers. What they must share is the
//! way in which masters and workers speak, and that is told by a hash of the sources (build.rs).

use crate::error::{Error, ErrorKind, Result};
use crate::event::Kind;
use crate::log::{self, log};
use crate::scoreboard::{Common, WorkerPage};
use crate::sys::memory::SharedPage;
use crate::sys::process;
use crate::worker::handed::{Handed, Received, Shared};
use crate::worker::handler::IntoHandler;
use crate::worker::source::{Factory, Successor};
use crate::worker::{self, EXIT_FAILED, Worker, one_process};
use std::ffi::c_void;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::slice;

/// Makes a crate a module that `prefork ./libNAME.so` serves with, and reloads: of a type that implements [`crate::Handler`] and
/// [`Default`], or of a function from [`&Worker`](crate::Worker) to a handler, or to a `Result` with one, as
/// [`Server::factory`](crate::Server::factory) takes it. Once in a crate, whose `crate-type` is `cdylib`.
///
/// ```
/// # use prefork::{Handler, Kind, Request, Response};
/// #[derive(Default)]
/// struct Counter {
///     requests: u64,
/// }
///
/// impl Handler for Counter {
///     fn kind(&self) -> Kind {
///         Kind::Request
///     }
///
///     fn on_request(&mut self, _req: &Request<'_>, res: &mut Response) {
///         self.requests += 1;
///         let _ = res.body(format!("request {} of this worker\n", self.requests));
///     }
/// }
///
/// prefork::module!(Counter);
/// ```
///
/// With a function: `prefork::module!(|worker| Counter::open(worker.args()))`, or `prefork::module!(Counter::open)`.
///
/// In the worker all of the crate is there, as in a program that is the server: [`Worker::current`](crate::Worker::current), timers,
/// messages, topics, threads' wake-ups. A panic is caught; the client gets 500. The crate needs no `unsafe`, and may forbid it.
///
/// The module and the program that loads it must be built from the same sources of prefork; the compiler, its options and the features may
/// differ. A module from other sources is refused with one line, and in a reload the old workers stay.
#[macro_export]
macro_rules! module {
    ($handler:ident) => {
        $crate::module!(|_| <$handler as ::core::default::Default>::default());
    };
    ($factory:expr) => {
        const _: () = {
            extern "C" fn serve(setup: &$crate::ffi::rust_module::Setup) -> u64 {
                setup.serve($factory)
            }

            #[unsafe(export_name = "prefork_rust_module")]
            static MODULE: $crate::ffi::rust_module::RustModule =
                $crate::ffi::rust_module::RustModule::new(serve);
        };
    };
}

/// The version and the sources of this copy.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), ", sources ", env!("PREFORK_SOURCES"));
/// Bytes for that text in a module.
const BUILD_ROOM: usize = 64;
/// The result of a worker that could not serve.
const FAILED: u64 = u64::MAX;

/// What a module exports, as `prefork_rust_module`. For [`crate::module!`] alone.
#[doc(hidden)]
#[repr(C)]
pub struct RustModule {
    /// The text of [`BUILD`], and zeroes.
    build: [u8; BUILD_ROOM],
    serve: extern "C" fn(&Setup) -> u64,
}

/// What the function of a module gets. For [`crate::module!`] alone.
#[doc(hidden)]
#[repr(C)]
pub struct Setup {
    handed: *const u8,
    len: usize,
    own_page: *const SharedPage,
    common_pages: [*const SharedPage; 2],
    wake: RawFd,
    /// In a server that is one process.
    told: *mut c_void,
    ready: unsafe extern "C" fn(told: *mut c_void, kind: u8, kinds: *const u8, count: usize),
    failed: unsafe extern "C" fn(told: *mut c_void, kind: u8, text: *const u8, len: usize),
}

impl RustModule {
    /// A module that runs its workers with this function.
    pub const fn new(serve: extern "C" fn(&Setup) -> u64) -> Self {
        let (mut build, text) = ([0; BUILD_ROOM], BUILD.as_bytes());
        let mut i = 0;
        while i < text.len() {
            build[i] = text[i];
            i += 1;
        }
        Self { build, serve }
    }
}

/// A module that was loaded, and that has the same sources.
pub(super) struct Loaded(extern "C" fn(&Setup) -> u64);

impl Loaded {
    /// # Errors
    /// What it was built from instead.
    ///
    /// # Safety
    /// It is the symbol `prefork_rust_module` of an object that stays loaded, and was made by [`crate::module!`].
    pub(super) unsafe fn new(symbol: NonNull<c_void>) -> std::result::Result<Self, String> {
        // SAFETY: the text comes first in each version.
        let build = unsafe { symbol.cast::<[u8; BUILD_ROOM]>().read() };
        let theirs = build.split(|byte| *byte == 0).next().unwrap_or_default();
        if theirs != BUILD.as_bytes() {
            let theirs = String::from_utf8_lossy(theirs);
            return Err(format!(
                "built with prefork {theirs}, and this is prefork {BUILD}: build it with the version of this program"
            ));
        }
        // SAFETY: the same sources, so the same struct.
        Ok(Self(unsafe { symbol.cast::<RustModule>().as_ref() }.serve))
    }

    fn call(&self, handed: Handed<'_>, told: *mut c_void) -> u64 {
        let shared = handed.shared();
        let bytes = handed.into_bytes();
        let setup = Setup {
            handed: bytes.as_ptr(),
            len: bytes.len(),
            own_page: shared.page.page(),
            common_pages: shared.common.pages().map(std::ptr::from_ref),
            wake: shared.wake.as_raw_fd(),
            told,
            ready,
            failed,
        };
        (self.0)(&setup)
    }
}

/// Who is told in a server that is one process.
struct Told<'a> {
    ready: &'a mut dyn FnMut(Kind, Vec<Kind>),
    error: Option<Error>,
}

impl Successor for Loaded {
    fn serve(&self, handed: Handed<'_>) -> ! {
        self.call(handed, std::ptr::null_mut());
        process::exit(EXIT_FAILED)
    }

    fn serve_in_place(&self, handed: Handed<'_>, ready: &mut dyn FnMut(Kind, Vec<Kind>)) -> Result<u64> {
        let mut told = Told { ready, error: None };
        let cut = self.call(handed, (&raw mut told).cast());
        told.error.map_or(Ok(cut), Err)
    }
}

unsafe extern "C" fn ready(told: *mut c_void, kind: u8, kinds: *const u8, count: usize) {
    // SAFETY: from `serve_in_place`, whose value lives through the call of the module.
    let told = unsafe { &mut *told.cast::<Told<'_>>() };
    // SAFETY: as many as the module says.
    let kinds = unsafe { slice::from_raw_parts(kinds, count) };
    let known = |number: &u8| Kind::from_number(*number).unwrap_or(Kind::Request);
    (told.ready)(known(&kind), kinds.iter().map(known).collect());
}

unsafe extern "C" fn failed(told: *mut c_void, kind: u8, text: *const u8, len: usize) {
    // SAFETY: as in `ready`.
    let told = unsafe { &mut *told.cast::<Told<'_>>() };
    // SAFETY: as in `ready`.
    let text = String::from_utf8_lossy(unsafe { slice::from_raw_parts(text, len) });
    let kind = KINDS.get(usize::from(kind)).copied().unwrap_or(ErrorKind::System);
    told.error = Some(Error::new(kind, text));
}

/// The kinds of errors of a server that is one process, by their numbers.
const KINDS: [ErrorKind; 3] = [ErrorKind::System, ErrorKind::Handler, ErrorKind::Misconfigured];

impl Setup {
    /// In the module: serves with handlers that `make` makes, until the worker ends.
    pub fn serve<R: IntoHandler<M>, M>(&self, make: impl FnMut(&Worker) -> R) -> u64 {
        // No panic of this copy's own code may leave it.
        catch_unwind(AssertUnwindSafe(|| self.run(make))).unwrap_or(FAILED)
    }

    fn run<R: IntoHandler<M>, M>(&self, make: impl FnMut(&Worker) -> R) -> u64 {
        // SAFETY: as many bytes as it says, for the time of the call.
        let handed = unsafe { slice::from_raw_parts(self.handed, self.len) };
        // SAFETY: pages of a mapping that is never unmapped.
        let page = WorkerPage::at(unsafe { &*self.own_page });
        // SAFETY: as above.
        let common = Common::at(self.common_pages.map(|page| unsafe { &*page }));
        // SAFETY: open as long as the program that loaded this serves.
        let wake = unsafe { BorrowedFd::borrow_raw(self.wake) };
        let received = Received::from_bytes(handed, Shared { page, common, wake });
        let made = received.and_then(|received| Ok((received, mio::Poll::new()?)));
        let (Received { config, setup, alone }, mut poll) = match made {
            Ok(made) => made,
            Err(e) => {
                log!(Error, "module: take over the worker: {e}");
                return FAILED;
            }
        };
        // Levels and times are as in the program; a callback of its own is not called from here.
        let _hosted = log::set_up(&config, None);
        let mut source = Factory::of_module(make);
        let Some(signals) = alone else { worker::succeed(&mut source, &config, setup, &mut poll) };
        let mut ready = |kind: Kind, kinds: Vec<Kind>| {
            let kinds: Vec<u8> = kinds.into_iter().map(|kind| kind as u8).collect();
            // SAFETY: from `Loaded::call`, with what belongs to it.
            unsafe { (self.ready)(self.told, kind as u8, kinds.as_ptr(), kinds.len()) }
        };
        match one_process::run(&mut source, &config, setup, &mut poll, signals, &mut ready) {
            Ok(cut) => cut,
            Err(e) => {
                let kind = KINDS.iter().position(|kind| *kind == e.kind()).unwrap_or(0);
                let text = e.to_string();
                // SAFETY: as above.
                unsafe { (self.failed)(self.told, kind as u8, text.as_ptr(), text.len()) };
                FAILED
            }
        }
    }
}
