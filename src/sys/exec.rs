//! Children that execute another program: a fork after which nothing but system calls happens until the exec, so that it is safe in a
//! process with threads too.
//!
//! Everything the child needs is made before the fork. What fails in the child, the exec above all, comes back as an error number
//! through a pipe that the exec closes.

use super::process::{self, Process};
use super::{check, retry, signal};
use libc::c_int;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A program to be executed, and what its process is to have.
#[derive(Debug)]
pub struct Command {
    /// The file.
    pub file: CString,
    /// The arguments, the name of the program first.
    pub args: Vec<CString>,
    /// The environment, each `NAME=VALUE`.
    pub environment: Vec<CString>,
    /// The working directory; `None` for that of this process.
    pub directory: Option<CString>,
    /// The signal that the child gets when this process ends (prctl(2), `PR_SET_PDEATHSIG`).
    pub on_parent_death: i32,
}

/// A variable of the environment whose value is to be the process id of the child: the child writes that over these digits.
pub const OWN_PID: &str = "0000000000";

/// The steps of the child that may fail. The numbers go through the pipe.
const STEPS: [&str; 4] = ["", "descriptors", "chdir", "exec"];

/// A child that was forked, and the pipe that says why it could not execute its program.
#[derive(Debug)]
pub struct Started {
    /// The child, the first of a process group of its own.
    pub process: Process,
    /// Empty, and at its end, once the program runs.
    pub failure: Failure,
}

/// The pipe for what fails in the child.
#[derive(Debug)]
pub struct Failure(OwnedFd);

impl Failure {
    /// The step that failed in a child that has ended, and why; `None` if its program ran.
    pub fn take(&self) -> Option<(&'static str, io::Error)> {
        let mut bytes = [0u8; 5];
        // SAFETY: the buffer is writable and as long as is said.
        let len = unsafe { libc::read(self.0.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) };
        if len != bytes.len() as isize {
            return None;
        }
        let [step, code @ ..] = bytes;
        let step = STEPS.get(usize::from(step)).copied().unwrap_or_default();
        Some((step, io::Error::from_raw_os_error(i32::from_ne_bytes(code))))
    }
}

impl Command {
    /// Forks a child that executes the program. It leads a process group of its own, has no signal blocked and all at their defaults; of
    /// the descriptors it has /dev/null as standard input, this process's standard output, `stderr` or else this process's as standard
    /// error, and `passed` from number 3 on.
    ///
    /// # Errors
    /// Of open(2), pipe2(2), fork(2) and pidfd_open(2). What fails in the child is in [`Started::failure`].
    pub fn start(&self, stderr: Option<BorrowedFd<'_>>, passed: &[BorrowedFd<'_>]) -> io::Result<Started> {
        let (failure, end) = pipe()?;
        // Not the terminal, which would stop a group in the background that reads from it.
        let stdin = std::fs::File::open("/dev/null")?;
        let mut environment: Vec<_> = self.environment.iter().map(|text| text.as_ptr()).collect();
        environment.push(std::ptr::null());
        let mut args: Vec<_> = self.args.iter().map(|text| text.as_ptr()).collect();
        args.push(std::ptr::null());
        let digits = self.environment.iter().map(digits_of).collect::<Vec<_>>();
        let numbers: Vec<RawFd> = passed.iter().map(AsRawFd::as_raw_fd).collect();
        // Room for the numbers that the child gives them on the way.
        let mut moved = vec![-1; numbers.len() + 1];
        let directory = self.directory.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
        let parent = process::own_pid();
        let child = |step: u8, code: c_int| -> ! {
            let mut bytes = [step, 0, 0, 0, 0];
            bytes[1..].copy_from_slice(&code.to_ne_bytes());
            // SAFETY: the bytes live through the call; the child has a copy of the descriptor.
            unsafe { libc::write(end.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
            // SAFETY: ends the process.
            unsafe { libc::_exit(127) }
        };
        let forked = process::fork_to_exec(|| {
            // From here on nothing is allocated, locked or dropped (signal-safety(7)).
            signal::reset_all();
            // SAFETY: takes no pointers; it makes this process the first of its own group, which cannot fail.
            unsafe { libc::setpgid(0, 0) };
            if self.on_parent_death != 0 {
                // SAFETY: takes no pointers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, self.on_parent_death) };
                // SAFETY: takes no pointers.
                if unsafe { libc::getppid() } != parent {
                    // The parent has ended before it was watched.
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(127) };
                }
            }
            write_own_pid(&digits);
            if let Err(code) = place(stdin.as_raw_fd(), stderr.map(|fd| fd.as_raw_fd()), &numbers, &mut moved)
            {
                child(1, code);
            }
            // SAFETY: a string that ends with NUL.
            if !directory.is_null() && unsafe { libc::chdir(directory) } != 0 {
                child(2, errno());
            }
            // SAFETY: a path, and two arrays of strings that end with NULL, all of which live through the call.
            unsafe { libc::execve(self.file.as_ptr(), args.as_ptr(), environment.as_ptr()) };
            child(3, errno())
        });
        drop(end);
        Ok(Started { process: forked?, failure: Failure(failure) })
    }
}

/// Gives the descriptors of a child that is about to execute a program their numbers: `stdin` 0, `stderr` 2, and `passed` from 3 on. All others but
/// the standard ones are closed by the exec.
fn place(stdin: RawFd, stderr: Option<RawFd>, passed: &[RawFd], moved: &mut [RawFd]) -> Result<(), c_int> {
    let first = 3;
    let end = first + passed.len() as c_int;
    // SAFETY: takes no pointers; every descriptor of this process but the standard ones, also that of the pipe, is closed by an exec.
    // A kernel before 5.11 does not know the flag: those that were made here have it already.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    duplicate(stdin, 0)?;
    if let Some(fd) = stderr {
        duplicate(fd, 2)?;
    }
    // First out of the way of those numbers, each of which may be another one's.
    for (place, fd) in moved.iter_mut().zip(passed) {
        // SAFETY: takes no pointers.
        *place = unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, end) };
        if *place < 0 {
            return Err(errno());
        }
    }
    for (number, fd) in (first..end).zip(moved.iter()) {
        duplicate(*fd, number)?;
    }
    Ok(())
}

/// The descriptor of this number becomes a copy of `fd` that an exec keeps.
fn duplicate(fd: RawFd, number: RawFd) -> Result<(), c_int> {
    // SAFETY: takes no pointers. What had the number is this child's copy, which nothing uses any more.
    if unsafe { libc::dup2(fd, number) } < 0 { Err(errno()) } else { Ok(()) }
}

/// The digits of [`OWN_PID`] at the end of a variable, if it has them.
fn digits_of(variable: &CString) -> *mut u8 {
    let bytes = variable.as_bytes();
    if bytes.ends_with(OWN_PID.as_bytes()) && bytes.get(bytes.len() - OWN_PID.len() - 1) == Some(&b'=') {
        variable.as_ptr().wrapping_add(bytes.len() - OWN_PID.len()).cast_mut().cast()
    } else {
        std::ptr::null_mut()
    }
}

/// In the child: writes its process id over the digits that are to have it.
fn write_own_pid(places: &[*mut u8]) {
    // SAFETY: takes no pointers. Not `own_pid`, which may have to look up its page.
    let mut rest = unsafe { libc::getpid() };
    // From the left, with NUL behind them: some readers take a number that begins with 0 as octal.
    let mut digits = [0; OWN_PID.len()];
    let mut count = 0;
    while rest > 0 && count < digits.len() {
        digits.rotate_right(1);
        digits[0] = b'0' + (rest % 10) as u8;
        (rest, count) = (rest / 10, count + 1);
    }
    for place in places.iter().filter(|place| !place.is_null()) {
        // SAFETY: as many bytes of a string that is this process's own copy; nobody else reads it before the exec.
        unsafe { std::ptr::copy_nonoverlapping(digits.as_ptr(), *place, digits.len()) };
    }
}

fn errno() -> c_int {
    // SAFETY: the calling thread's own `errno`.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: points to a c_int of this thread.
    unsafe { place.read() }
}

/// A pipe whose reading end never waits; both ends are closed by an exec.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for two numbers.
    retry(|| check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) }))?;
    // SAFETY: a new descriptor, without another owner.
    let read = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: as above.
    let write = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((read, write))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Exit;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn command(file: &str, args: &[&str], environment: &[&str]) -> Command {
        let text = |text: &str| CString::new(text).unwrap();
        Command {
            file: text(file),
            args: args.iter().map(|arg| text(arg)).collect(),
            environment: environment.iter().map(|variable| text(variable)).collect(),
            directory: Some(text("/")),
            on_parent_death: libc::SIGTERM,
        }
    }

    fn exit_of(process: &Process) -> Exit {
        crate::sys::socket::wait_ready(process.as_fd(), false, None).unwrap();
        process.reap().unwrap().unwrap()
    }

    #[test]
    fn a_program_gets_its_descriptors_its_directory_and_its_own_pid() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let (mut second, other) = UnixStream::pair().unwrap();
        second.write_all(b"second\n").unwrap();
        let script = "read word <&4; echo \"$word $PWD $VALUE $((LISTEN_PID - $$)) $(ls /proc/$$/fd | tr '\\n' ' ')\" >&3";
        let pid = format!("LISTEN_PID={OWN_PID}");
        let started = command("/bin/sh", &["sh", "-c", script], &["VALUE=7", &pid])
            .start(None, &[theirs.as_fd(), other.as_fd()])
            .unwrap();
        drop((theirs, other));
        let mut said = String::new();
        ours.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("second / 7 0 0 1 2 3 4 "), "{said}");
        assert_eq!(exit_of(&started.process), Exit::Code(0));
        assert!(started.failure.take().is_none());
    }

    #[test]
    fn what_fails_in_the_child_is_told() {
        let started = command("/no/such/program", &["x"], &[]).start(None, &[]).unwrap();
        assert_eq!(exit_of(&started.process), Exit::Code(127));
        let (step, why) = started.failure.take().unwrap();
        assert_eq!((step, why.raw_os_error()), ("exec", Some(libc::ENOENT)));
        let mut elsewhere = command("/bin/true", &["x"], &[]);
        elsewhere.directory = Some(c"/no/such/directory".into());
        let started = elsewhere.start(None, &[]).unwrap();
        exit_of(&started.process);
        assert_eq!(started.failure.take().unwrap().0, "chdir");
    }
}
