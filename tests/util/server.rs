//! A server as the tests see it: started, watched, stopped, and at the end nothing of it left.

use super::client::{Address, Client, Fault};
use super::handler::{Mode, Style};
use super::{Dir, PATIENCE, comes_true, load, proc, wait_until};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server to be started: by default `prefork` with `tests/handler.c`, 2 workers, on a free port.
pub struct Start {
    style: Style,
    prefork: PathBuf,
    handler: PathBuf,
    workers: usize,
    listen: Vec<String>,
    options: Vec<OsString>,
    program: Option<Vec<OsString>>,
    of_programs: bool,
    through: Vec<OsString>,
    stdin: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    environment: Vec<(String, Option<OsString>)>,
    dir: Arc<Dir>,
}

/// The file [`Start::own_module`] makes.
const MODULE: &str = "module.so";
/// The descriptors of the master for each worker.
const PER_WORKER: [&str; 4] = ["anon_inode:[pidfd]", "socket", "socket", "socket"];
/// If they are programs of Node: their channel, and the pipe of their standard error.
const PER_PROGRAM: [&str; 4] = ["anon_inode:[pidfd]", "socket", "socket", "pipe"];
/// A state in /proc/net/tcp.
const ESTABLISHED: &str = "01";
/// The log line of a reload.
pub const RELOAD: &str = "reload to generation";
const COMPLETE: &str = "is complete";
const ROLLED_BACK: &str = "is rolled back";

/// Lines a process has written so far.
type Lines = Arc<Mutex<Vec<String>>>;

/// A running server, in a process group of its own.
pub struct Server {
    pub style: Style,
    pub dir: Arc<Dir>,
    /// The addresses it says it listens on.
    pub addresses: Vec<Address>,
    /// The pid of its master.
    pub pid: i32,
    child: Child,
    ended: Option<ExitStatus>,
    of_programs: bool,
    workers: usize,
    workers_at_start: usize,
    kinds_at_start: Vec<String>,
    shared_at_start: Vec<String>,
    /// It was seen to leave nothing.
    audited: bool,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
    expected: Vec<String>,
    tolerated: Vec<String>,
}

/// A server that did not come up.
#[derive(Debug)]
pub struct Refused {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Start {
    pub fn new(style: Style) -> Self {
        Self {
            style,
            prefork: env!("CARGO_BIN_EXE_prefork").into(),
            handler: style.handler(),
            workers: 2,
            listen: Vec::new(),
            options: Vec::new(),
            program: None,
            of_programs: false,
            through: Vec::new(),
            stdin: None,
            stderr: None,
            environment: Vec::new(),
            dir: Arc::new(Dir::new()),
        }
    }

    pub fn workers(mut self, n: usize) -> Self {
        self.workers = n;
        self
    }

    /// It serves in its own process, without workers.
    pub fn one_process(mut self) -> Self {
        self.options.push("--one-process".into());
        self.workers(0)
    }

    /// Adds an address; an empty one leaves the choice to the server.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// Adds an option with its value.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.options.extend([format!("--{name}").into(), value.into()]);
        self
    }

    /// Adds an option without a value.
    pub fn switch(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    /// Sets who accepts.
    pub fn accept(self, mode: Mode) -> Self {
        self.set("accept", mode.name())
    }

    /// Runs another program in place of `prefork` and its handler. It must say "listening on" and its addresses.
    pub fn program(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.program = Some(words.into_iter().map(Into::into).collect());
        self
    }

    /// Its workers are programs, whose standard error passes through it as long as they live.
    pub fn of_programs(mut self) -> Self {
        self.of_programs = true;
        self
    }

    /// Starts it through another program, which must end in an exec of its arguments.
    pub fn through(mut self, words: &[&str]) -> Self {
        self.through = words.iter().map(Into::into).collect();
        self
    }

    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(fd.into());
        self
    }

    /// Sets or removes a variable of its environment.
    pub fn env(mut self, name: &str, value: Option<&OsStr>) -> Self {
        self.environment.push((name.into(), value.map(Into::into)));
        self
    }

    /// Runs it as a user who is not root, with a soft limit of 64 descriptors and copies of its files in the test's directory.
    pub fn by_ordinary_user(mut self) -> Self {
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let copy = |from: &Path, name: &str| {
            fs::copy(from, self.dir.file(name)).unwrap();
            self.dir.path().join(name)
        };
        self.prefork = copy(env!("CARGO_BIN_EXE_prefork").as_ref(), "prefork");
        self.handler = copy(&self.handler, MODULE);
        let mut words = vec!["prlimit", "--nofile=64:2048"];
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
        }
        self.through(&words)
    }

    /// Gives it a handler's file of its own, in the test's directory, which [`Server::install`] replaces.
    pub fn own_module(mut self) -> Self {
        let own = self.dir.file(MODULE);
        fs::copy(&self.handler, &own).unwrap();
        self.handler = own;
        self
    }

    /// Serves with this module.
    pub fn module(mut self, path: PathBuf) -> Self {
        self.handler = path;
        self
    }

    /// Gives it this standard error, which is not read by the test.
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(fd.into());
        self
    }

    /// The directory of the test.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Uses a directory that others use too.
    pub fn within(mut self, dir: &Arc<Dir>) -> Self {
        self.dir = dir.clone();
        self
    }

    /// Uses the runtime directory of others.
    pub fn within_others(self, dir: &Dir) -> Self {
        let runtime = dir.runtime();
        self.env("PREFORK_RUNTIME_DIR", Some(runtime.as_ref()))
    }

    fn spawn(&mut self) -> Child {
        let mut words = self.through.clone();
        match self.program.take() {
            Some(program) => words.extend(program),
            None => {
                words.push(self.prefork.clone().into());
                if self.workers > 0 {
                    words.extend(["--workers".into(), self.workers.to_string().into()]);
                }
                if self.listen.is_empty() {
                    self.listen.push("127.0.0.1:0".into());
                }
                for address in self.listen.iter().filter(|a| !a.is_empty()) {
                    words.extend(["--listen".into(), address.into()]);
                }
                words.append(&mut self.options);
                words.extend([self.handler.clone().into(), self.dir.path().into()]);
            }
        }
        let stdin = self.stdin.take().map_or_else(Stdio::null, Stdio::from);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.dir.path()).process_group(0);
        // Variables that the machine sets for its own services.
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_PID").env("RUST_BACKTRACE", "0");
        let stderr = self.stderr.take().map_or_else(Stdio::piped, Stdio::from);
        // Masters of other tests are not to be found here.
        command.env("PREFORK_RUNTIME_DIR", self.dir.runtime());
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(stdin).stdout(Stdio::piped()).stderr(stderr).spawn().expect("start")
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.launch();
        server.comes_up();
        server
    }

    /// Starts it and does not wait; see [`Server::comes_up`].
    pub fn launch(mut self) -> Server {
        let mut child = self.spawn();
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let mut readers = vec![collect(child.stdout.take().unwrap(), stdout.clone())];
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, stderr.clone())));
        Server {
            style: self.style,
            dir: self.dir,
            addresses: Vec::new(),
            pid: child.id() as i32,
            child,
            ended: None,
            of_programs: self.of_programs,
            workers: self.workers,
            workers_at_start: self.workers,
            kinds_at_start: Vec::new(),
            shared_at_start: Vec::new(),
            audited: false,
            stdout,
            stderr,
            readers,
            expected: Vec::new(),
            // How much of what had stayed with old workers has ended; what one that died was doing.
            tolerated: vec!["has gone: ".into(), " was in ".into(), ": #".into()],
        }
    }

    /// Starts a server that cannot start.
    #[track_caller]
    pub fn refused(mut self) -> Refused {
        let mut child = self.spawn();
        let (pid, mut exit) = (child.id() as i32, None);
        wait_until("the server gives up", || {
            exit = child.try_wait().unwrap();
            exit.is_some()
        });
        let (mut stdout, mut stderr) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(proc::group(pid), [0; 0], "still running; it said {stderr}");
        assert_eq!(leftovers_of(pid, &self.dir), [""; 0]);
        if Arc::strong_count(&self.dir) == 1 {
            assert_eq!(self.dir.leftovers(), [""; 0]);
        }
        Refused { code: exit.unwrap().code(), stdout, stderr }
    }
}

fn collect(from: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            lines.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}

/// The addresses in the line with "listening".
fn addresses(line: &str) -> Option<Vec<Address>> {
    let (_, list) = line.split_once("listening on ")?;
    let one = |text: &str| match (text.strip_prefix("unix:"), text.split_once("://")) {
        (Some(path), _) => Address::Unix(path.into()),
        (None, Some(("udp", address))) => Address::Udp(address.parse().unwrap()),
        (None, Some((_, address))) => Address::Tcp(address.parse().unwrap()),
        (None, None) => Address::Tcp(text.parse().unwrap()),
    };
    Some(list.split(", ").map(one).collect())
}

impl Server {
    /// Waits until it listens.
    #[track_caller]
    pub fn comes_up(&mut self) {
        let stdout = self.stdout.clone();
        let listening = || stdout.lock().unwrap().iter().find_map(|l| addresses(l));
        let came = comes_true(PATIENCE, || listening().is_some() || self.has_exited());
        let Some(found) = listening().filter(|_| came) else {
            panic!("no server: {:?}, it said {:?}", self.ended, self.stderr());
        };
        self.addresses = found;
        // Standard error of workers that have just started comes through pipes for a moment yet.
        comes_true(PATIENCE, || {
            // In this order, read twice, and only while it sleeps: a busy machine may have it wait for a CPU in the middle of
            // closing one.
            let gone = self.of_programs || proc::pipes(self.pid).is_empty();
            let before = std::mem::replace(&mut self.kinds_at_start, proc::kinds(self.pid));
            gone && self.kinds_at_start == before && proc::state(self.pid) == Some('S')
        });
        self.shared_at_start = proc::shared_memory(self.pid);
    }

    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    pub fn port(&self) -> u16 {
        self.tcp().port()
    }

    pub fn tcp(&self) -> std::net::SocketAddr {
        match self.address() {
            Address::Tcp(a) => *a,
            Address::Unix(_) | Address::Udp(_) => panic!("no TCP address"),
        }
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address(), self.style).expect("connect")
    }

    /// True if new clients are refused.
    pub fn refuses(&self) -> bool {
        match self.address() {
            // A stop lets new clients hang for a moment, and they would try again only after a second.
            Address::Tcp(a) => std::net::TcpStream::connect_timeout(a, Duration::from_millis(100))
                .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused),
            _ => matches!(Client::connect(self.address(), self.style), Err(Fault::Refused)),
        }
    }

    /// One connection, one command.
    pub fn ask(&self, command: &str) -> Result<String, Fault> {
        Client::connect(self.address(), self.style)?.ask_last(command)
    }

    /// `n` clients at once, each with one connection and one command.
    pub fn ask_at_once(&self, n: usize, command: &str) -> load::Tally {
        let mut tally = load::Tally::default();
        load::at_once(n, |_| self.ask(command)).into_iter().for_each(|r| tally.add(r));
        tally
    }

    pub fn load(&self, clients: usize, command: &str) -> super::Load {
        super::Load::start(self.address(), self.style, clients, command)
    }

    /// The workers that have not ended, oldest first.
    pub fn workers(&self) -> Vec<i32> {
        let alive = |pid: &i32| !matches!(proc::state(*pid), None | Some('Z' | 'X'));
        proc::children(self.pid).into_iter().filter(alive).collect()
    }

    /// True if a worker has ended and every slot has a worker again.
    pub fn has_replaced(&self, pid: i32) -> bool {
        let workers = self.workers();
        workers.len() == self.workers && !workers.contains(&pid)
    }

    /// Waits until a killed worker has ended and its slot has a worker again.
    #[track_caller]
    pub fn replaces(&self, pid: i32) {
        wait_until("a successor", || self.has_replaced(pid));
    }

    /// The worker in a slot, by its process name; the newest if one is being replaced.
    #[track_caller]
    pub fn worker_in(&self, slot: u32) -> i32 {
        let mut found = None;
        // One that has just been forked has no name yet.
        wait_until("a worker in the slot", || {
            found = self.workers().into_iter().rfind(|&pid| slot_of(pid) == Some(slot));
            found.is_some()
        });
        found.unwrap()
    }

    /// The slots of all workers, by their process names.
    pub fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.workers().into_iter().filter_map(slot_of).collect();
        slots.sort_unstable();
        slots
    }

    pub fn signal(&self, number: i32) {
        proc::signal(self.pid, number);
    }

    /// The expected descriptors of the master for its present number of workers.
    fn kinds_due(&self) -> Vec<String> {
        let (mut kinds, n) = (self.kinds_at_start.clone(), self.workers_at_start);
        for kind in if self.of_programs { PER_PROGRAM } else { PER_WORKER } {
            for _ in n..self.workers {
                kinds.push(kind.into());
            }
            for _ in self.workers..n {
                let at = kinds.iter().position(|k| k == kind).expect("a descriptor of a worker");
                kinds.remove(at);
            }
        }
        kinds.sort();
        kinds
    }

    /// Sets the expected number of workers.
    pub fn scaled_to(&mut self, n: usize) {
        self.workers = n;
    }

    /// Replaces the handler's file by another one, by rename.
    pub fn install(&self, from: &Path) {
        self.install_bytes(&fs::read(from).unwrap());
    }

    /// Replaces the handler's file by one with these contents, by rename.
    pub fn install_bytes(&self, bytes: &[u8]) {
        let new = self.dir.file("module.new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.module()).unwrap();
    }

    /// The handler's own file.
    pub fn module(&self) -> PathBuf {
        self.dir.path().join(MODULE)
    }

    /// Waits until no reload is in progress.
    #[track_caller]
    pub fn rests(&self) {
        wait_until("the reloads have ended", || {
            self.lines_with("begins") == self.lines_with(COMPLETE) + self.lines_with(ROLLED_BACK)
                && proc::children(self.pid).len() == self.workers
        });
    }

    /// Lines with this text so far.
    pub fn lines_with(&self, text: &str) -> usize {
        self.stderr().iter().filter(|l| l.contains(text)).count()
    }

    /// Reloads, and waits until all workers are new.
    #[track_caller]
    pub fn reload(&mut self) {
        self.may_say(RELOAD);
        let (done, failed) = (self.lines_with(COMPLETE), self.lines_with(ROLLED_BACK));
        self.signal(libc::SIGHUP);
        wait_until("the reload is complete", || {
            assert_eq!(self.lines_with(ROLLED_BACK), failed, "{:#?}", self.stderr());
            self.lines_with(COMPLETE) > done
        });
    }

    /// Reloads, which must fail, and returns the reason from the log.
    #[track_caller]
    pub fn reload_fails(&mut self) -> String {
        self.may_say(RELOAD);
        let done = self.lines_with(ROLLED_BACK);
        self.signal(libc::SIGHUP);
        wait_until("the reload is rolled back", || self.lines_with(ROLLED_BACK) > done);
        self.stderr().into_iter().rfind(|l| l.contains(ROLLED_BACK)).unwrap()
    }

    pub fn stdout(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// Expects a line with this text on stderr, at least once.
    pub fn says(&mut self, text: &str) {
        self.expected.push(text.into());
    }

    /// Lines with this text may be on stderr.
    pub fn may_say(&mut self, text: &str) {
        self.tolerated.push(text.into());
    }

    #[track_caller]
    pub fn wait_for_line(&self, text: &str) {
        wait_until(&format!("a line with {text:?}"), || self.stderr().iter().any(|l| l.contains(text)));
    }

    /// True if the master has ended.
    pub fn has_exited(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended.is_some()
    }

    /// A client whose command is in progress until the test makes the file `g`.
    #[track_caller]
    pub fn client_at_gate(&self) -> Client {
        let mut client = self.connect();
        client.send_command("gate g").unwrap();
        wait_until("the handler runs", || self.dir.at_gate("g") == 1);
        client
    }

    /// Asks for a stop, and a second later for an immediate one: a signal before that would be the same.
    pub fn interrupt_twice(&self, signal: i32) {
        let first = Instant::now();
        self.signal(signal);
        wait_until("a second is over", || first.elapsed() > Duration::from_millis(1100));
        self.signal(signal);
    }

    /// Waits until the workers have read what their clients have sent over TCP.
    #[track_caller]
    pub fn has_read(&self) {
        let port = format!(":{:04X}", self.port());
        let is_unread = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&port) && fields[3] == ESTABLISHED && !fields[4].ends_with(":00000000")
        };
        wait_until("nothing is left to read", || proc::tcp_sockets().lines().filter(is_unread).count() == 0);
        // What was read last is being handled yet.
        let sleeps = |&pid: &i32| proc::state(pid) == Some('S');
        wait_until("the workers sleep", || self.workers().iter().all(sleeps));
    }

    /// The number of connections over TCP, on the server's side.
    pub fn connections(&self) -> usize {
        let port = format!(":{:04X}", self.port());
        let is_ours = |line: &&str| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields[1].ends_with(&port) && fields[3] == ESTABLISHED
        };
        proc::tcp_sockets().lines().filter(is_ours).count()
    }

    /// Waits until all is as at the start: every worker runs, no zombie, the master has the same descriptors.
    #[track_caller]
    pub fn settles(&self) {
        let whole = || {
            let children = proc::children(self.pid);
            children.len() == self.workers && self.workers().len() == self.workers
        };
        if !comes_true(PATIENCE, whole) {
            panic!("{} workers expected: {:?}; it said {:#?}", self.workers, self.states(), self.stderr());
        }
        if !comes_true(PATIENCE, || proc::shared_memory(self.pid) == self.shared_at_start) {
            let now = proc::shared_memory(self.pid);
            panic!("the master's shared memory: {:#?} expected, now {now:#?}", self.shared_at_start);
        }
        if !comes_true(PATIENCE, || proc::kinds(self.pid) == self.kinds_due()) {
            panic!(
                "the master's descriptors: {:#?} expected, now {:#?}",
                self.kinds_due(),
                proc::descriptors(self.pid)
            );
        }
    }

    fn states(&self) -> Vec<(i32, Option<char>)> {
        proc::children(self.pid).into_iter().map(|p| (p, proc::state(p))).collect()
    }

    /// Ends a test: all is as at the start, the server stops on SIGTERM, and nothing of it is left.
    #[track_caller]
    pub fn stop(self) {
        self.settles();
        self.signal(libc::SIGTERM);
        self.ends();
    }

    /// The server ends with exit code 0, by itself or after a signal, and nothing of it is left.
    #[track_caller]
    pub fn ends(self) {
        self.ends_with(0);
    }

    /// As [`Server::ends`], with another exit code.
    #[track_caller]
    pub fn ends_with(mut self, expected: i32) {
        if !comes_true(PATIENCE, || self.has_exited()) {
            panic!("still running: {:?}; it said {:#?}", self.states(), self.stderr());
        }
        let code = self.ended.and_then(|e| e.code());
        assert_eq!(code, Some(expected), "{:?}; it said {:#?}", self.ended, self.stderr());
        assert_eq!(proc::group(self.pid), [0; 0], "workers outlived the master");
        self.leaves_nothing();
    }

    /// Ends a test whose worker is in a call that takes long.
    #[track_caller]
    pub fn ends_in_a_call(mut self) {
        self.may_say("died while draining");
        self.may_say("stop");
        self.interrupt_twice(libc::SIGTERM);
        self.ends();
    }

    /// After the master was killed: the workers end by themselves.
    #[track_caller]
    pub fn dies_out(mut self) {
        wait_until("the master is gone", || self.has_exited());
        // The master could not do it.
        self.control_files().iter().chain(&self.copies_of_module()).for_each(|f| fs::remove_file(f).unwrap());
        wait_until("every process is gone", || proc::group(self.pid).is_empty());
        self.leaves_nothing();
    }

    /// The files of its control socket.
    pub fn control_files(&self) -> Vec<PathBuf> {
        let end = format!(".{}.sock", self.pid);
        self.runtime_files().into_iter().filter(|path| path.to_str().unwrap().ends_with(&end)).collect()
    }

    /// The copies of its module, by their generations.
    pub fn copies_of_module(&self) -> Vec<PathBuf> {
        let own = |path: &PathBuf| {
            let path = path.to_str().unwrap();
            proc::is_copy_of_module(path) && path.contains(&format!(".{}.", self.pid))
        };
        self.runtime_files().into_iter().filter(own).collect()
    }

    fn runtime_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.dir.runtime()) else { return Vec::new() };
        let mut files: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
        files.sort();
        files
    }

    #[track_caller]
    fn leaves_nothing(&mut self) {
        self.audited = true;
        assert_eq!(leftovers_of(self.pid, &self.dir), [""; 0]);
        self.readers.drain(..).for_each(|r| r.join().unwrap());
        let lines = self.stderr();
        let known = |l: &&String| self.expected.iter().chain(&self.tolerated).any(|e| l.contains(e.as_str()));
        let strange: Vec<_> = lines.iter().filter(|l| !l.is_empty() && !known(l)).collect();
        assert!(strange.is_empty(), "unexpected: {strange:#?}");
        for expected in &self.expected {
            assert!(lines.iter().any(|l| l.contains(expected)), "{expected:?} is missing: {lines:#?}");
        }
        assert_eq!(self.dir.leftovers(), [""; 0]);
    }
}

/// The files that a former master has left in its runtime directory and in the machine's shared memory.
fn leftovers_of(master: i32, dir: &Dir) -> Vec<String> {
    let mut left = Vec::new();
    for place in [dir.runtime().as_path(), "/dev/shm".as_ref()] {
        let Ok(entries) = fs::read_dir(place) else { continue };
        let names = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned());
        let pid = master.to_string();
        let is_its = |name: &String| name.split(|c: char| !c.is_ascii_digit()).any(|number| number == pid);
        left.extend(names.filter(is_its));
    }
    left
}

/// The slot in a worker's name.
fn slot_of(pid: i32) -> Option<u32> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.trim().strip_prefix("prefork/")?.parse().ok()
}

impl Drop for Server {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        if !proc::group(self.pid).is_empty() {
            // SAFETY: takes no pointers. The group is ours: its leader was our child, and its number is not used again while
            // a member of it lives.
            unsafe { libc::kill(-self.pid, libc::SIGKILL) };
        }
        let _ = self.child.wait();
        assert!(self.audited || std::thread::panicking(), "this server was not checked for leftovers");
    }
}
