//! What a process tells of itself when a fault ends it: the signal, the user's code that ran, for whom, and the way there.
//!
//! A signal handler writes it to shared memory, where the parent reads it when the process has ended. It calls nothing that allocates; a fault
//! or a lock in it, which unwinding may meet in a damaged process, ends the attempt: the process always ends by the first signal, with the
//! same status and core as without the handler. What runs is noted by a few stores of pointers, which nothing reads meanwhile.

use super::memory::{self, PAGE};
use super::time::Time;
use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, AtomicUsize};

/// The signals of faults. A handler that somebody else has set stays.
const SIGNALS: [c_int; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGTRAP, libc::SIGSYS];
/// Those whose address is that of a fault.
const OF_ADDRESSES: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
/// The signal of the timer that ends an attempt to unwind. Nothing else of the process runs then.
const GIVE_UP: c_int = libc::SIGALRM;
/// The time for an attempt (nanoseconds). Less than a second, after which a worker that was aborted is killed.
const PATIENCE: libc::c_long = 800_000_000;
/// The size of the stack on which the handler runs: the one in use may have overflowed.
const STACK: usize = 16 * PAGE;
/// The most frames that are written.
const MOST_FRAMES: u32 = 32;
/// The longest name in a frame (bytes).
const LONGEST_NAME: usize = 160;

/// Words of the area: the signal, last of those that are written at first; 0 if nothing was.
const SIGNAL: usize = 0;
/// Not 0 if the next word is the address of a fault.
const HAS_ADDRESS: usize = 1;
const ADDRESS: usize = 2;
/// The time (milliseconds of [`Time`]), and when the call began (0: none).
const AT: usize = 3;
const SINCE: usize = 4;
/// The bytes of each text, in the word before it.
const PEER: Place = Place { at: 5, words: 16 };
const METHOD: Place = Place { at: 22, words: 4 };
const TARGET: Place = Place { at: 27, words: 25 };
const FRAMES: Place = Place { at: 53, words: 390 };
/// The words of an area.
pub const WORDS: usize = FRAMES.at + 1 + FRAMES.words;

/// A text in the area: its length, then its bytes.
struct Place {
    at: usize,
    words: usize,
}

/// The memory that the parent reads.
pub type Area = &'static [AtomicU64];

static AREA: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static CALL_SINCE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
static PROCESS: AtomicI32 = AtomicI32::new(0);
static THREAD: AtomicI32 = AtomicI32::new(0);
/// The thread that writes.
static WRITER: AtomicI32 = AtomicI32::new(0);
/// Its signal.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Where user code was called from: frames of the stack above are the caller's. 0: none runs.
static BASE: AtomicUsize = AtomicUsize::new(0);
/// When it was called, if `CALL_SINCE` does not say.
static BEGAN: AtomicU64 = AtomicU64::new(0);
static SOCKET: AtomicI32 = AtomicI32::new(-1);
static SENDER: AtomicPtr<libc::sockaddr> = AtomicPtr::new(ptr::null_mut());
static METHOD_AT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static METHOD_LEN: AtomicUsize = AtomicUsize::new(0);
static TARGET_AT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static TARGET_LEN: AtomicUsize = AtomicUsize::new(0);

/// User code is about to be called from here. `base` is a value on the stack of the caller.
#[inline(always)]
pub fn begin_call(base: &u8) {
    BASE.store(ptr::from_ref(base) as usize, Relaxed);
}

/// As [`begin_call`], of a call whose time is not in the word that [`watch`] was given.
pub fn begin_timed_call(base: &u8) {
    BEGAN.store(Time::now().as_millis(), Relaxed);
    begin_call(base);
}

/// User code has returned: nothing that was noted for it is looked at any more.
#[inline(always)]
pub fn end_call() {
    BASE.store(0, Relaxed);
    SOCKET.store(-1, Relaxed);
    SENDER.store(ptr::null_mut(), Relaxed);
    METHOD_LEN.store(0, Relaxed);
    TARGET_LEN.store(0, Relaxed);
}

/// The next call is for the client of this socket.
#[inline(always)]
pub fn note_client(socket: BorrowedFd<'_>) {
    SOCKET.store(socket.as_raw_fd(), Relaxed);
}

/// The next call is for a request, which is unchanged until the call returns.
#[inline(always)]
pub fn note_request(socket: BorrowedFd<'_>, method: &[u8], target: &[u8]) {
    note_client(socket);
    METHOD_AT.store(method.as_ptr().cast_mut(), Relaxed);
    METHOD_LEN.store(method.len(), Relaxed);
    TARGET_AT.store(target.as_ptr().cast_mut(), Relaxed);
    TARGET_LEN.store(target.len(), Relaxed);
}

/// The next call is for a datagram of this sender, whose address is unchanged until the call returns.
pub fn note_sender(sender: *const libc::sockaddr) {
    SENDER.store(sender.cast_mut(), Relaxed);
}

/// Has faults of this process, and not of those that it forks, written to `area`, of [`WORDS`] words. `since` is the time at which the running
/// call began (milliseconds of [`Time`]; 0: none runs). Without memory for its stack nothing is watched.
pub fn watch(area: Area, since: &'static AtomicU64) {
    let (process, thread) = own_ids();
    PROCESS.store(process, Relaxed);
    THREAD.store(thread, Relaxed);
    if area.len() < WORDS || !set_stack() {
        return;
    }
    CALL_SINCE.store(ptr::from_ref(since).cast_mut(), Relaxed);
    AREA.store(area.as_ptr().cast_mut(), Relaxed);
    // Now the loader finds the functions that it would look for at the first call, which takes its lock.
    unwind(&mut |_, _| false);
    let mut about = no_names();
    // SAFETY: `about` is writable; any address may be asked for.
    unsafe { libc::dladdr(fault as *const c_void, &raw mut about) };
    for signal in SIGNALS {
        // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is writable; a null new action changes nothing.
        unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        if action.sa_sigaction == libc::SIG_DFL {
            set_action(signal, fault as *const () as usize);
        }
    }
}

/// Undoes [`watch`].
pub fn unwatch() {
    for signal in SIGNALS {
        // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is writable; a null new action changes nothing.
        unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
        if action.sa_sigaction == fault as *const () as usize {
            set_action(signal, libc::SIG_DFL);
        }
    }
}

/// This process and this thread.
fn own_ids() -> (c_int, c_int) {
    // SAFETY: takes nothing and cannot fail.
    let process = unsafe { libc::getpid() };
    // SAFETY: as above.
    (process, unsafe { libc::gettid() })
}

/// Gives this thread a stack for signal handlers.
fn set_stack() -> bool {
    let Ok(stack) = memory::map_with_guard(STACK) else { return false };
    let stack = libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK };
    // SAFETY: memory of that size that is never unmapped and that nothing else uses.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0 }
}

/// Sets a function with three arguments, or a default, as the action of a signal.
fn set_action(signal: c_int, action: usize) {
    // SAFETY: sigaction is plain data for which all zero bytes are a valid value.
    let mut wanted: libc::sigaction = unsafe { mem::zeroed() };
    wanted.sa_sigaction = action;
    wanted.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `wanted` is valid through the call, and its handler does only what a handler may.
    unsafe { libc::sigaction(signal, &raw const wanted, ptr::null_mut()) };
}

extern "C" fn fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a valid one.
    let code = unsafe { (*info).si_code };
    let (process, thread) = own_ids();
    if process != PROCESS.load(Relaxed) {
        // A process that user code has forked.
        return raise_again(signal, info);
    }
    let first = THREAD.load(Relaxed);
    if code == libc::SI_USER && thread != first {
        // A signal to the process goes to any thread, but what the first one does is asked for.
        // SAFETY: takes no pointers.
        unsafe { libc::syscall(libc::SYS_tgkill, process, first, signal) };
        return;
    }
    match WRITER.compare_exchange(0, thread, Relaxed, Relaxed) {
        Ok(_) => {}
        // A fault in what follows.
        Err(writer) if writer == thread => return end_now(),
        Err(_) => loop {
            // The other thread ends the process.
            // SAFETY: takes nothing.
            unsafe { libc::pause() };
        },
    }
    FIRST.store(signal, Relaxed);
    // SAFETY: NULL, or the start of an area of that many words.
    let area = unsafe { std::slice::from_raw_parts(AREA.load(Relaxed), WORDS) };
    note(area, signal, code, info);
    // One that comes from elsewhere while no user code runs says nothing about this process.
    if code != libc::SI_USER || BASE.load(Relaxed) != 0 {
        set_action(GIVE_UP, give_up as *const () as usize);
        limit(thread);
        write_frames(area, context);
        set_action(GIVE_UP, libc::SIG_IGN);
    }
    raise_again(signal, info);
}

extern "C" fn give_up(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    if own_ids().1 == WRITER.load(Relaxed) {
        end_now();
    }
}

/// Writes all but the way.
fn note(area: &[AtomicU64], signal: c_int, code: c_int, info: *const libc::siginfo_t) {
    if code > 0 && OF_ADDRESSES.contains(&signal) {
        // SAFETY: the kernel gives a valid one.
        let info = unsafe { &*info };
        // SAFETY: that of a fault has an address.
        let address = unsafe { info.si_addr() };
        area[ADDRESS].store(address as u64, Relaxed);
        area[HAS_ADDRESS].store(1, Relaxed);
    }
    area[AT].store(Time::now().as_millis(), Relaxed);
    if BASE.load(Relaxed) != 0 {
        // SAFETY: given to `watch` before this handler was set, and valid as long as the process lives.
        let since = unsafe { CALL_SINCE.load(Relaxed).as_ref() }.map_or(0, |since| since.load(Relaxed));
        let since = if since == 0 { BEGAN.load(Relaxed) } else { since };
        area[SINCE].store(since, Relaxed);
    }
    area[SIGNAL].store(signal as u64, Relaxed);
    let mut address = [0u8; PEER.words * 8];
    let mut len = address.len() as libc::socklen_t;
    let sender = SENDER.load(Relaxed);
    if !sender.is_null() {
        // SAFETY: `note_sender` says that it is unchanged until the call returns.
        let family = c_int::from(unsafe { (*sender).sa_family });
        let size = if family == libc::AF_INET6 {
            size_of::<libc::sockaddr_in6>()
        } else {
            size_of::<libc::sockaddr_in>()
        };
        // SAFETY: an address of that family has that size, and there is room for it.
        unsafe { ptr::copy_nonoverlapping(sender.cast(), address.as_mut_ptr(), size) };
        put(area, &PEER, &address[..size]);
    } else if SOCKET.load(Relaxed) >= 0 {
        let at = address.as_mut_ptr().cast();
        // SAFETY: getpeername(2) may be called in a signal handler (signal-safety(7)); both pointers are to writable memory.
        if unsafe { libc::getpeername(SOCKET.load(Relaxed), at, &raw mut len) } == 0 {
            put(area, &PEER, address.get(..len as usize).unwrap_or_default());
        }
    }
    for (place, at, len) in [(&METHOD, &METHOD_AT, &METHOD_LEN), (&TARGET, &TARGET_AT, &TARGET_LEN)] {
        let (at, len) = (at.load(Relaxed), len.load(Relaxed).min(place.words * 8));
        if !at.is_null() {
            // SAFETY: `note_request` says that these bytes are unchanged until the call returns.
            put(area, place, unsafe { std::slice::from_raw_parts(at, len) });
        }
    }
}

/// Writes a text.
fn put(area: &[AtomicU64], place: &Place, bytes: &[u8]) {
    let mut text = Text { words: &area[place.at + 1..=place.at + place.words], len: 0 };
    bytes.iter().for_each(|byte| text.push(*byte));
    area[place.at].store(text.len as u64, Relaxed);
}

/// A text that grows, as far as there is room.
struct Text<'a> {
    words: &'a [AtomicU64],
    len: usize,
}

impl Text<'_> {
    fn push(&mut self, byte: u8) {
        if let Some(word) = self.words.get(self.len / 8) {
            let mut bytes =
                if self.len.is_multiple_of(8) { [0; 8] } else { word.load(Relaxed).to_ne_bytes() };
            bytes[self.len % 8] = byte;
            word.store(u64::from_ne_bytes(bytes), Relaxed);
            self.len += 1;
        }
    }

    fn push_all(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.push(*byte));
    }

    fn push_hex(&mut self, number: usize) {
        self.push_all(b"0x");
        let digits = (usize::BITS - (number | 1).leading_zeros()).div_ceil(4);
        for i in (0..digits).rev() {
            self.push(b"0123456789abcdef"[number >> (4 * i) & 15]);
        }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.len + bytes <= self.words.len() * 8
    }
}

/// Has the kernel send a signal to this thread soon.
fn limit(thread: c_int) {
    // SAFETY: sigevent is plain data for which all zero bytes are a valid value.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = GIVE_UP;
    event.sigev_notify_thread_id = thread;
    let mut timer: c_int = 0;
    // The system calls themselves, since the functions of the same names are not made for signal handlers.
    // SAFETY: both pointers are valid through the call; the kernel's timer number is an int.
    let made = unsafe {
        libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw const event, &raw mut timer)
    };
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let once = libc::itimerspec { it_interval: none, it_value: libc::timespec { tv_nsec: PATIENCE, ..none } };
    if made == 0 {
        // SAFETY: the pointer is valid through the call; no former value is asked for.
        unsafe { libc::syscall(libc::SYS_timer_settime, timer, 0, &raw const once, 0usize) };
    }
    change_mask(libc::SIG_UNBLOCK, GIVE_UP);
}

fn change_mask(how: c_int, signal: c_int) {
    // SAFETY: sigset_t is plain data; sigemptyset makes it a valid set.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is writable.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: `set` is an initialised set.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: a set; no former one is asked for. May be called in a signal handler (signal-safety(7)).
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

/// Ends the process by the signal when this handler returns, with the registers and the information of now: a core shows the fault.
fn raise_again(signal: c_int, info: *const libc::siginfo_t) {
    set_action(signal, libc::SIG_DFL);
    // The signal is blocked until the handler returns.
    let (process, thread) = own_ids();
    // SAFETY: a process may send itself what the kernel has sent (rt_sigqueueinfo(2)); `info` is the kernel's.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info) };
    if sent != 0 {
        // SAFETY: takes no pointers.
        unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    }
}

/// Ends the process by its first signal, from within the handler.
fn end_now() {
    let signal = FIRST.load(Relaxed);
    set_action(signal, libc::SIG_DFL);
    let (process, thread) = own_ids();
    // SAFETY: takes no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
    change_mask(libc::SIG_UNBLOCK, signal);
}

/// The unwinder's view of a frame.
type Frame = c_void;

/// The answers to the unwinder: go on, stop.
const GO_ON: c_int = 0;
const STOP: c_int = 4;

// Of the library that Rust's own panics need, on every target.
unsafe extern "C" {
    fn _Unwind_Backtrace(each: extern "C" fn(*mut Frame, *mut c_void) -> c_int, arg: *mut c_void) -> c_int;
    fn _Unwind_GetIP(frame: *mut Frame) -> usize;
    fn _Unwind_GetCFA(frame: *mut Frame) -> usize;
}

/// Calls a function with the code address and the stack address of each frame of this thread, from here to its start, until it returns false.
fn unwind(each: &mut dyn FnMut(usize, usize) -> bool) {
    extern "C" fn call(frame: *mut Frame, arg: *mut c_void) -> c_int {
        // SAFETY: the unwinder passes on what `unwind` gives it.
        let each = unsafe { &mut *arg.cast::<&mut dyn FnMut(usize, usize) -> bool>() };
        // SAFETY: the unwinder's frame, valid during this call.
        let code = unsafe { _Unwind_GetIP(frame) };
        // SAFETY: as above.
        let stack = unsafe { _Unwind_GetCFA(frame) };
        if each(code, stack) { GO_ON } else { STOP }
    }
    let mut each = each;
    // SAFETY: `each` outlives the call, and `call` does not unwind.
    unsafe { _Unwind_Backtrace(call, (&raw mut each).cast()) };
}

/// Writes the frames of the interrupted code, as far as the user's go.
fn write_frames(area: &[AtomicU64], context: *const c_void) {
    let (code, stack) = registers(context);
    let base = BASE.load(Relaxed);
    let mut text = Text { words: &area[FRAMES.at + 1..=FRAMES.at + FRAMES.words], len: 0 };
    let (mut count, mut object) = (0, Object::default());
    let mut write = |at: usize| {
        count += 1;
        // Cut off, a frame says something wrong.
        if count > MOST_FRAMES || !text.has_room(LONGEST_NAME + 100) {
            return false;
        }
        // An address to return to may be the first one of the next function.
        let at = if count == 1 { at } else { at.wrapping_sub(1) };
        write_frame(&mut text, at, &mut object);
        text.push(b'\n');
        area[FRAMES.at].store(text.len as u64, Relaxed);
        true
    };
    let mut is_there = false;
    unwind(&mut |at, frame| {
        // What comes before is this handler.
        is_there |= at == code && at != 0;
        if !is_there {
            return true;
        }
        // Where the stack of the interrupted code is another one, it is written whole.
        if base != 0 && frame > base && stack <= base {
            return false;
        }
        at != 0 && write(at)
    });
    if !is_there {
        // A jump to nowhere: the caller has left the address to return to on the stack.
        write(code);
        if let Some(caller) = word_at(stack) {
            write(caller);
        }
    }
}

/// The interrupted code's address, and that of its stack; 0 if they are not known on this machine.
#[allow(unused_variables, reason = "other machines have other registers")]
fn registers(context: *const c_void) -> (usize, usize) {
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel gives a valid one.
        let registers = unsafe { &(*context).uc_mcontext.gregs };
        (registers[libc::REG_RIP as usize] as usize, registers[libc::REG_RSP as usize] as usize)
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: the kernel gives a valid one.
        let registers = unsafe { &(*context).uc_mcontext };
        (registers.pc as usize, registers.sp as usize)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        (0, 0)
    }
}

/// The word at the top of a stack, on machines that return by it. A fault here ends the attempt.
fn word_at(stack: usize) -> Option<usize> {
    let is_usable = cfg!(target_arch = "x86_64") && stack != 0 && stack.is_multiple_of(align_of::<usize>());
    // SAFETY: the stack of the interrupted code; if it is not, the fault is taken care of.
    is_usable.then(|| unsafe { ptr::read_volatile(stack as *const usize) })
}

fn no_names() -> libc::Dl_info {
    libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    }
}

/// The file of a loaded object, mapped: frames that follow each other mostly are of the same one.
#[derive(Default)]
struct Object {
    base: usize,
    bytes: &'static [u8],
}

/// Writes `name+0x12 (file+0x1234)`.
fn write_frame(text: &mut Text<'_>, at: usize, object: &mut Object) {
    let mut about = no_names();
    // SAFETY: `about` is writable; any address may be asked for.
    let is_known = unsafe { libc::dladdr(at as *const c_void, &raw mut about) } != 0;
    if !is_known || about.dli_fname.is_null() {
        return text.push_hex(at);
    }
    // SAFETY: the loader's, which stays as long as the object is loaded.
    let path = unsafe { CStr::from_ptr(about.dli_fname) };
    let base = about.dli_fbase as usize;
    if object.base != base {
        *object = Object { base, bytes: map(path) };
    }
    let offset = at.wrapping_sub(base);
    if let Some((name, within)) = symbol(object.bytes, base, at) {
        text.push_all(&name[..name.len().min(LONGEST_NAME)]);
        text.push(b'+');
        text.push_hex(within);
        text.push(b' ');
    } else if !about.dli_sname.is_null() {
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(about.dli_sname) }.to_bytes();
        text.push_all(&name[..name.len().min(LONGEST_NAME)]);
        text.push(b'+');
        text.push_hex(at.wrapping_sub(about.dli_saddr as usize));
        text.push(b' ');
    }
    let path = path.to_bytes();
    // The last part of it, unless it is the number of a descriptor.
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let file = if path.starts_with(b"/proc/") { path } else { &path[start..] };
    text.push(b'(');
    text.push_all(&file[file.len().saturating_sub(80)..]);
    text.push(b'+');
    text.push_hex(offset);
    text.push(b')');
}

/// Maps the file of an object; empty if it cannot be. That of the program has any name.
fn map(path: &CStr) -> &'static [u8] {
    let path =
        if path.to_bytes().contains(&b'/') && path.to_bytes()[0] == b'/' { path } else { c"/proc/self/exe" };
    // SAFETY: a C string. May be called in a signal handler (signal-safety(7)).
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) };
    if fd < 0 {
        return &[];
    }
    // SAFETY: takes no pointers. As safe as open(2).
    let len = unsafe { libc::lseek(fd, 0, libc::SEEK_END) };
    let len = usize::try_from(len).unwrap_or(0);
    // SAFETY: a new mapping at a place of the kernel's choice. As safe as open(2).
    let at = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) };
    // The process ends soon, and its descriptors and mappings with it.
    if at == libc::MAP_FAILED {
        return &[];
    }
    // SAFETY: mapped, readable, and never unmapped. If the file becomes shorter meanwhile, the fault is taken care of.
    unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) }
}

/// Finds the function at an address in the symbols of an object's file, which has more of them than the loader knows; and how far in it the
/// address is (elf(5)).
fn symbol(file: &'static [u8], base: usize, at: usize) -> Option<(&'static [u8], usize)> {
    const SYMBOLS: u32 = 2;
    const FUNCTION: u8 = 2;
    const FIXED: u16 = 2;
    let half = |at: usize| Some(u16::from_ne_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let long = |at: usize| {
        let bytes = file.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_ne_bytes(bytes)).ok()
    };
    // Only files of 64 bits, as those of the machines with known registers.
    if file.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let address = if half(16)? == FIXED { at } else { at.wrapping_sub(base) };
    let (sections, size, count) = (long(40)?, usize::from(half(58)?), usize::from(half(60)?));
    let section = |i: usize| sections.checked_add(i.checked_mul(size)?);
    let symbols = (0..count).filter_map(section).find(|&s| word(s.wrapping_add(4)) == Some(SYMBOLS))?;
    let names = section(word(symbols.checked_add(40)?)? as usize)?;
    let (start, len) = (long(symbols.checked_add(24)?)?, long(symbols.checked_add(32)?)?);
    let table = file.get(start..start.checked_add(len)?)?;
    for entry in table.chunks_exact(24) {
        let value = u64::from_ne_bytes(entry[8..16].try_into().ok()?) as usize;
        let length = u64::from_ne_bytes(entry[16..24].try_into().ok()?) as usize;
        if entry[4] & 15 == FUNCTION && address.wrapping_sub(value) < length {
            let name = u32::from_ne_bytes(entry[..4].try_into().ok()?) as usize;
            let name = file.get(long(names.checked_add(24)?)?.checked_add(name)?..)?;
            let end = name.iter().position(|byte| *byte == 0)?;
            return Some((&name[..end], address.wrapping_sub(value)));
        }
    }
    None
}

/// What was written to an area, by a process that may have written anything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The address of the fault.
    pub address: Option<u64>,
    /// How long the call had run (milliseconds).
    pub lasted: Option<u64>,
    /// The client's address, as the kernel has it.
    pub peer: Vec<u8>,
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    /// A line for each frame.
    pub frames: Vec<u8>,
}

/// Reads what a process that has ended by a signal has written, if it has.
pub fn read(area: Area, signal: c_int) -> Option<Found> {
    if area.len() < WORDS || area[SIGNAL].load(Relaxed) != signal as u64 {
        return None;
    }
    let text = |place: &Place| {
        let len = usize::try_from(area[place.at].load(Relaxed)).unwrap_or(0).min(place.words * 8);
        let words = &area[place.at + 1..=place.at + place.words];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
        bytes.truncate(len);
        bytes
    };
    let since = area[SINCE].load(Relaxed);
    Some(Found {
        address: (area[HAS_ADDRESS].load(Relaxed) != 0).then(|| area[ADDRESS].load(Relaxed)),
        lasted: (since != 0).then(|| area[AT].load(Relaxed).saturating_sub(since)),
        peer: text(&PEER),
        method: text(&METHOD),
        target: text(&TARGET),
        frames: text(&FRAMES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area() -> Area {
        Vec::leak((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }

    #[test]
    fn texts_are_read_as_they_were_written_and_cut_where_there_is_no_room() {
        let area = area();
        put(area, &METHOD, b"GET");
        put(area, &TARGET, &[b'x'; 500]);
        area[SIGNAL].store(libc::SIGSEGV as u64, Relaxed);
        let found = read(area, libc::SIGSEGV).unwrap();
        assert_eq!((&found.method[..], found.target.len()), (&b"GET"[..], 200));
        assert_eq!(found.address, None);
        assert!(read(area, libc::SIGBUS).is_none());
    }

    #[test]
    fn any_words_can_be_read() {
        let area = area();
        area.iter().for_each(|word| word.store(u64::MAX, Relaxed));
        area[SIGNAL].store(6, Relaxed);
        let found = read(area, 6).unwrap();
        assert_eq!((found.peer.len(), found.frames.len()), (PEER.words * 8, FRAMES.words * 8));
        assert_eq!(found.lasted, Some(0));
    }

    #[test]
    fn numbers_are_written_as_c_writes_them() {
        for number in [0, 1, 15, 16, 0x1234, usize::MAX] {
            let words: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
            let mut text = Text { words: &words, len: 0 };
            text.push_hex(number);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
            assert_eq!(String::from_utf8_lossy(&bytes[..text.len]), format!("{number:#x}"));
        }
    }

    #[test]
    fn functions_are_found_in_the_symbols_of_the_program_and_garbage_is_none() {
        #[inline(never)]
        fn planted_function_of_the_test() -> usize {
            std::hint::black_box(planted_function_of_the_test as fn() -> usize) as usize
        }
        let at = planted_function_of_the_test();
        let mut about = no_names();
        // SAFETY: `about` is writable; any address may be asked for.
        unsafe { libc::dladdr(at as *const c_void, &raw mut about) };
        let file = map(c"program");
        let (name, within) = symbol(file, about.dli_fbase as usize, at + 1).unwrap();
        assert!(String::from_utf8_lossy(name).contains("planted_function_of_the_test"));
        assert_eq!(within, 1);
        let cut: Vec<&'static [u8]> = (0..2000).step_by(7).map(|len| &file[..len]).collect();
        assert!(cut.iter().all(|file| symbol(file, 0, 1).is_none()));
        let mut broken = file[..4096].to_vec();
        broken[20..].iter_mut().for_each(|byte| *byte = 0xff);
        assert!(symbol(Vec::leak(broken), 0, 1).is_none());
    }
}
