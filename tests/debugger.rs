//! What debuggers, profilers and sanitizers find of a module in an ordinary worker: its functions' names, in a copy that has a path.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod util;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use util::handler::compile;
use util::{Client, Dir, Server, Start, Style, proc, wait_until};

const SOURCE: &str = include_str!("debugger.c");

/// `tests/debugger.c` under a name of its own, `web.so`.
fn start(flags: &[&str]) -> Start {
    let start = Start::new(Style::Request).workers(1);
    let module = start.dir().file("web.so");
    fs::copy(compile(SOURCE, flags), &module).unwrap();
    start.module(module)
}

/// Runs a tool, which must end by itself within a minute.
#[track_caller]
fn run(command: &mut Command) -> String {
    let text = |output: Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start");
    let pid = child.id() as i32;
    let reader = {
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let read = |from: &mut dyn std::io::Read| {
                let mut bytes = Vec::new();
                let _ = from.read_to_end(&mut bytes);
                bytes
            };
            let stderr = std::thread::spawn(move || read(&mut err));
            (read(&mut out), stderr.join().unwrap())
        })
    };
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let (stdout, stderr) = reader.join().unwrap();
    let hangs = status.is_none();
    let text = text(Output { status: status.unwrap_or_default(), stdout, stderr });
    assert!(!hangs, "{command:?} ({pid}) hangs: {text}");
    text
}

/// A client whose request is in the function that waits.
fn waits(server: &Server) -> Client {
    let mut client = server.connect();
    client.send_command("wait").unwrap();
    let worker = server.workers()[0];
    wait_until("the handler sleeps in its call", || {
        fs::read_to_string(format!("/proc/{worker}/syscall")).is_ok_and(|call| {
            let number = call.split_whitespace().next().and_then(|n| n.parse::<i64>().ok());
            number == Some(libc::SYS_clock_nanosleep) || number == Some(libc::SYS_nanosleep)
        })
    });
    client
}

fn gdb(args: &[&str]) -> String {
    // Without what asks a server on the network for files of distributions.
    run(Command::new("gdb").args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]).args(args))
}

#[test]
fn gdb_attached_to_a_worker_shows_the_names_of_functions() {
    let server = start(&[]).start();
    let _client = waits(&server);
    let text = gdb(&["-p", &server.workers()[0].to_string(), "-ex", "bt"]);
    assert!(text.contains("planted_wait") && text.contains("on_request"), "{text}");
    // Where it is in the source, too.
    assert!(text.contains("debugger.c") || text.contains(".c:"), "{text}");
    server.ends_in_a_call();
}

#[test]
fn gdb_shows_them_in_a_core_whose_worker_has_ended() {
    let server = start(&[]).start();
    let _client = waits(&server);
    let (worker, core) = (server.workers()[0].to_string(), server.dir.file("core"));
    let text = run(Command::new("gcore").arg("-o").arg(&core).arg(&worker));
    let core = server.dir.file(&format!("core.{worker}"));
    assert!(core.exists(), "{text}");
    let text = gdb(&[env!("CARGO_BIN_EXE_prefork"), core.to_str().unwrap(), "-ex", "bt"]);
    assert!(text.contains("planted_wait") && text.contains("on_request"), "{text}");
    server.ends_in_a_call();
}

#[test]
fn a_copy_in_memory_has_a_name_that_gdb_opens_without_waiting() {
    for runtime in ["/proc/none", "/dev/full"] {
        let server =
            start(&[]).set("control", "off").env("PREFORK_RUNTIME_DIR", Some(runtime.as_ref())).start();
        let worker = server.workers()[0];
        let maps = fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
        assert!(maps.contains("/memfd:web.so"), "{maps}");
        let _client = waits(&server);
        let text = gdb(&["-p", &worker.to_string(), "-ex", "bt"]);
        assert!(text.contains("planted_wait") && text.contains("on_request"), "{text}");
        server.ends_in_a_call();
    }
}

#[test]
fn perf_shows_the_names_of_functions() {
    let server = start(&["-fno-omit-frame-pointer"]).start();
    let data = server.dir.file("perf.data");
    let mut client = server.connect();
    client.send_command("work").unwrap();
    let worker = server.workers()[0].to_string();
    let mut record = Command::new("perf");
    record.args(["record", "-e", "cpu-clock", "-F", "199", "-p", &worker, "-o"]).arg(&data);
    let text = run(record.args(["--", "sleep", "0.5"]));
    if ["not permitted", "Permission denied", "not supported", "No permission"]
        .iter()
        .any(|no| text.contains(no))
    {
        eprintln!("not tested: perf says {text}");
    } else {
        let text = run(Command::new("perf").args(["script", "-F", "ip,sym,dso", "-i"]).arg(&data));
        assert!(text.contains("planted_work"), "{text}");
    }
    client.answer().unwrap();
    drop(client);
    server.stop();
}

#[test]
fn address_sanitizer_in_a_worker_shows_the_names_of_functions() {
    let Output { stdout, .. } = Command::new("cc").arg("-print-file-name=libasan.so").output().unwrap();
    let library = String::from_utf8(stdout).unwrap();
    let mut server = start(&["-fsanitize=address", "-fno-omit-frame-pointer"])
        .env("LD_PRELOAD", Some(library.trim().as_ref()))
        .env("ASAN_OPTIONS", Some("detect_leaks=0".as_ref()))
        .start();
    server.may_say("");
    assert_eq!(server.ask("helper").unwrap(), "0");
    let _ = server.ask("freed");
    server.wait_for_line("heap-use-after-free");
    server.wait_for_line("planted_use_after_free");
    wait_until("a successor", || server.ask("helper").is_ok());
    server.signal(libc::SIGTERM);
    server.ends();
}

/// The names of the copies in the runtime directory.
fn copies(server: &Server) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    server.copies_of_module().into_iter().map(name).collect()
}

#[test]
fn a_copy_is_named_after_the_module_and_goes_with_the_last_worker_of_its_generation() {
    let mut server = Start::new(Style::Data).workers(1).own_module().set("drain-timeout", "20s").start();
    server.may_say("reload");
    let name = |generation: u32| format!("module.{}.{generation}.so", server.pid);
    assert_eq!(copies(&server), [name(1)]);
    let about = fs::metadata(&server.copies_of_module()[0]).unwrap();
    assert_eq!(about.mode() & 0o777, 0o400);
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).unwrap();
    assert!(maps.contains(&name(1)), "{maps}");
    // It stays as long as a worker has a stream.
    let mut open = server.connect();
    open.ask("pid").unwrap();
    server.signal(libc::SIGHUP);
    server.wait_for_line("reload to generation 2 is complete");
    assert_eq!(copies(&server), [name(1), name(2)]);
    assert!(open.ask_last("pid").is_ok());
    wait_until("the copy is gone", || copies(&server) == [name(2)]);
    server.signal(libc::SIGTERM);
    server.ends();
}

#[test]
fn a_copy_that_is_rolled_back_goes() {
    let mut server = Start::new(Style::Request).workers(1).own_module().start();
    server.says("is rolled back");
    fs::copy(compile("int x;", &[]), server.dir.file("module.so.new")).unwrap();
    fs::rename(server.dir.file("module.so.new"), server.dir.file("module.so")).unwrap();
    server.signal(libc::SIGHUP);
    server.wait_for_line("is rolled back");
    let first = format!("module.{}.1.so", server.pid);
    wait_until("the new copy is gone", || copies(&server) == [first.clone()]);
    server.may_say("");
    server.stop();
}

#[test]
fn copies_of_a_dead_master_are_removed_at_a_start_and_those_of_a_live_one_stay() {
    let dir = Arc::new(Dir::new());
    let start = |dir: &Arc<Dir>| Start::new(Style::Request).workers(1).within(dir).start();
    let (live, mut dead) = (start(&dir), start(&dir));
    // Not copies, or not ours to judge.
    for other in ["a.so", "a.1.so", "a.x.1.so", "a.1.2.so.txt"] {
        fs::write(dir.runtime().join(other), "").unwrap();
    }
    symlink("/dev/null", dir.runtime().join("link.1.2.so")).unwrap();
    let left = dead.copies_of_module();
    assert_eq!(left.len(), 1);
    dead.signal(libc::SIGKILL);
    wait_until("the processes are gone", || dead.has_exited() && proc::group(dead.pid).is_empty());
    assert!(left[0].exists());
    let third = start(&dir);
    assert!(!left[0].exists());
    assert_eq!((live.copies_of_module().len(), third.copies_of_module().len()), (1, 1));
    for other in ["a.so", "a.1.so", "a.x.1.so", "a.1.2.so.txt", "link.1.2.so"] {
        let path = dir.runtime().join(other);
        assert!(path.symlink_metadata().is_ok(), "{other}");
        fs::remove_file(path).unwrap();
    }
    dead.control_files().iter().for_each(|file| fs::remove_file(file).unwrap());
    dead.dies_out();
    third.stop();
    live.stop();
}

#[test]
fn an_upgrade_takes_the_copies_over_and_removes_them() {
    let mut server = Start::new(Style::Request).workers(1).own_module().start();
    server.may_say("upgrade: ");
    server.may_say("reload to generation");
    server.may_say("control: ");
    let name = |generation: u32| format!("module.{}.{generation}.so", server.pid);
    let worker = server.workers()[0];
    server.signal(libc::SIGUSR2);
    server.wait_for_line("reload to generation 2 is complete");
    wait_until("the worker has ended", || server.workers().first().is_some_and(|pid| *pid != worker));
    wait_until("its copy is gone", || copies(&server) == [name(2)]);
    assert!(server.ask("pid").is_ok());
    server.stop();
}

#[test]
fn a_directory_that_is_mounted_noexec_or_full_is_not_used() {
    let mounted = |options: &str| {
        let dir = Dir::new();
        let at = dir.runtime();
        fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(&at).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(dir)
    };
    for options in ["mode=700,noexec", "mode=700,size=8k"] {
        let Some(dir) = mounted(options) else {
            eprintln!("not tested: this user may not mount");
            return;
        };
        let dir = Arc::new(dir);
        let server = start(&[]).within_others(&dir).start();
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.workers()[0])).unwrap();
        assert!(maps.contains("/memfd:web.so"), "{options}: {maps}");
        assert!(server.copies_of_module().is_empty());
        assert_eq!(server.ask("helper").unwrap(), "0");
        server.stop();
        assert!(Command::new("umount").arg(dir.runtime()).status().unwrap().success());
    }
}

/// `releases/N` with a module and the library that it needs, which says `N`; `current` leads to one.
struct Site(Arc<Dir>);

impl Site {
    fn release(&self, n: u32, soname: &[&str]) {
        let folder = self.0.path().join("releases").join(n.to_string());
        fs::create_dir_all(folder.join("lib")).unwrap();
        let helper = compile(&format!("int helper(void) {{ return {n}; }}"), soname);
        fs::copy(helper, folder.join("lib/libhelper.so")).unwrap();
        let search = format!("-L{}", folder.join("lib").display());
        let flags =
            ["-DHELPER", "-Wl,--no-as-needed", &search, "-lhelper", "-Wl,-rpath,${ORIGIN}/none:$ORIGIN/lib"];
        // Libraries come behind what needs them.
        let module = folder.join("web.so");
        let mut cc = Command::new("cc");
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("include");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/debugger.c");
        cc.args(["-shared", "-fPIC", "-I"]).arg(include).arg(source).args(flags).arg("-o").arg(module);
        assert!(cc.status().unwrap().success(), "{cc:?}");
        let (new, current) = (self.0.file("current.new"), self.0.file("current"));
        symlink(&folder, &new).unwrap();
        fs::rename(new, current).unwrap();
    }

    fn start(&self) -> Start {
        let module = self.0.path().join("current/web.so");
        Start::new(Style::Request).workers(1).within(&self.0).module(module)
    }
}

fn site() -> Site {
    let site = Site(Arc::new(Dir::new()));
    site.0.file("releases");
    site
}

const SONAME: &[&str] = &["-Wl,-soname,libhelper.so"];

#[test]
fn libraries_beside_the_module_are_found_by_its_origin_in_each_release_and_after_an_upgrade() {
    let site = site();
    site.release(1, SONAME);
    let mut server = site.start().start();
    for line in ["reload to generation", "upgrade: ", "control: ", "died: SIGKILL"] {
        server.may_say(line);
    }
    assert_eq!(server.ask("helper").unwrap(), "1");
    site.release(2, SONAME);
    // A successor of the first generation belongs to its release.
    let worker = server.workers()[0];
    proc::signal(worker, libc::SIGKILL);
    server.replaces(worker);
    assert_eq!(server.ask("helper").unwrap(), "1");
    server.signal(libc::SIGHUP);
    wait_until("the second release", || server.ask("helper") == Ok("2".into()));
    server.wait_for_line("reload to generation 2 is complete");
    site.release(3, SONAME);
    server.signal(libc::SIGUSR2);
    wait_until("the third release", || server.ask("helper") == Ok("3".into()));
    server.wait_for_line("reload to generation 3 is complete");
    server.stop();
}

#[test]
fn a_library_beside_the_module_without_a_name_is_refused_with_what_to_do() {
    let site = site();
    site.release(1, &[]);
    let refused = site.start().refused();
    let text = refused.stderr;
    assert!(text.contains("lib/libhelper.so lies beside it, but has no name"), "{text}");
    assert!(text.contains("link it with -Wl,-soname,libhelper.so"), "{text}");
}
