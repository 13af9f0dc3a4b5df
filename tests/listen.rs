//! Listening: addresses of each kind, inherited sockets, and addresses in use.
#![allow(clippy::unwrap_used)]

mod util;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use util::client::Address;
use util::{Client, Dir, Mode, Start, Style, handler};

#[test]
fn several_addresses_at_once_and_the_handler_sees_which() {
    for style in Style::ALL {
        let dir = Arc::new(Dir::new());
        let path = dir.path().join("socket");
        let server = Start::new(style)
            .within(&dir)
            .listen("127.0.0.1:0")
            .listen("[::1]:0")
            .listen(format!("unix:{}", path.display()))
            .start();
        assert!(matches!(&server.addresses[1], Address::Tcp(a) if a.is_ipv6()));
        assert_eq!(server.addresses[2], Address::Unix(path));
        for _ in 0..3 {
            for (index, address) in server.addresses.iter().enumerate() {
                let client = Client::connect(address, style).unwrap();
                assert_eq!(client.ask_last("listener"), Ok(index.to_string()), "{style:?}");
            }
        }
        server.stop();
    }
}

#[test]
fn all_addresses_of_the_machine() {
    let server = Start::new(Style::Request).listen(":0").start();
    let port = server.port();
    for host in ["127.0.0.1", "[::1]"] {
        let address = Address::Tcp(format!("{host}:{port}").parse().unwrap());
        assert!(Client::connect(&address, Style::Request).unwrap().ask_last("pid").is_ok(), "{host}");
    }
    server.stop();
}

#[test]
fn a_unix_socket_has_the_given_mode_and_is_removed_at_the_end() {
    for (mode, option) in [(0o660, None), (0o600, Some("600")), (0o777, Some("0777"))] {
        let dir = Arc::new(Dir::new());
        let path = dir.path().join("socket");
        let start = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display()));
        let server = option.into_iter().fold(start, |s, mode| s.set("unix-mode", mode)).start();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, mode);
        assert!(server.ask("pid").is_ok());
        server.stop(); // finds no file left
    }
}

#[test]
fn a_stale_unix_socket_is_replaced() {
    let dir = Arc::new(Dir::new());
    let path = dir.path().join("socket");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display())).start();
    assert!(server.ask("pid").is_ok());
    server.stop();
}

#[test]
fn a_live_unix_socket_is_left_to_its_owner() {
    let dir = Arc::new(Dir::new());
    let address = format!("unix:{}", dir.path().join("socket").display());
    let server = Start::new(Style::Data).within(&dir).listen(&address).start();
    let refused = Start::new(Style::Data).within(&dir).listen(&address).refused();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
    assert!(refused.stderr.contains(&address) && refused.stderr.contains("in use"), "{refused:?}");
    assert!(server.ask("pid").is_ok());
    server.stop();
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = Arc::new(Dir::new());
    std::fs::write(dir.file("notes"), "mine").unwrap();
    let path = dir.path().join("notes");
    let refused = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display())).refused();
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
}

#[test]
fn a_unix_socket_that_another_program_has_replaced_is_not_removed() {
    let dir = Arc::new(Dir::new());
    let path = dir.file("socket");
    let server = Start::new(Style::Data).within(&dir).listen(format!("unix:{}", path.display())).start();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.stop();
    assert!(path.exists());
}

#[test]
fn a_port_in_use_is_refused_with_the_pid_of_its_owner() {
    let server = Start::new(Style::Request).start();
    let refused = Start::new(Style::Request).listen(format!("127.0.0.1:{}", server.port())).refused();
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(refused.stdout.is_empty(), "{refused:?}");
    let owner = format!("process {} (prefork)", server.pid);
    assert!(refused.stderr.contains(&owner) && refused.stderr.contains("in use"), "{refused:?}");
    assert!(server.ask("pid").is_ok());
    server.stop();
}

#[test]
fn a_port_that_this_process_has_itself_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let start = Start::new(Style::Request).listen("fd:3").listen(&address);
    let refused = start.through(&PASS_ON).stdin(listener).refused();
    assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
    assert!(
        refused.stderr.contains(&format!("bind {address}: in use by this process itself")),
        "{refused:?}"
    );
}

#[test]
fn if_one_of_several_addresses_is_refused_none_is_bound() {
    let dir = Arc::new(Dir::new());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = dir.path().join("socket");
    let refused = Start::new(Style::Request)
        .within(&dir)
        .listen(format!("unix:{}", path.display()))
        .listen(taken.local_addr().unwrap().to_string())
        .refused();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(!path.exists());
}

/// Moves the listening socket from descriptor 0 to 3, where it is expected.
const PASS_ON: [&str; 4] =
    ["sh", "-c", "LISTEN_PID=$$; export LISTEN_PID; exec \"$@\" 3<&0 </dev/null", "sh"];

#[test]
fn an_inherited_listener_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let server = Start::new(Style::Request).listen("fd:3").through(&PASS_ON).stdin(listener).start();
    assert_eq!(server.addresses, [address]);
    for _ in 0..4 {
        assert_eq!(server.ask("listener"), Ok("0".into()));
    }
    server.stop();
}

#[test]
fn an_inherited_unix_socket_is_used_and_its_file_left_to_its_owner() {
    let dir = Arc::new(Dir::new());
    let path = dir.file("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let start = Start::new(Style::Data).within(&dir).listen("fd:3").through(&PASS_ON).stdin(listener);
    let server = start.start();
    assert_eq!(server.addresses, [Address::Unix(path.clone())]);
    assert!(server.ask("pid").is_ok());
    server.stop();
    assert!(path.exists());
}

#[test]
fn listeners_passed_by_systemd_are_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    let mut pass_on = vec!["env", "LISTEN_FDS=1", "LISTEN_FDNAMES=web"];
    pass_on.extend(PASS_ON);
    let server = Start::new(Style::Request).listen("").through(&pass_on).stdin(listener).start();
    assert_eq!(server.addresses, [address]);
    assert_eq!(server.ask("listener"), Ok("0".into()));
    server.stop();
}

#[test]
fn datagram_sockets_passed_by_systemd_are_used() {
    for mode in Mode::ALL {
        for listen in ["", "fd:3"] {
            for host in ["127.0.0.1", "[::]"] {
                let socket = UdpSocket::bind(format!("{host}:0")).unwrap();
                let address = socket.local_addr().unwrap();
                let mut pass_on = vec!["env", "LISTEN_FDS=1"];
                pass_on.extend(PASS_ON);
                let start = Start::new(Style::Datagram).accept(mode).listen(listen);
                let server = start.through(&pass_on).stdin(socket).start();
                assert_eq!(server.addresses, [Address::Udp(address)]);
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.set_read_timeout(Some(util::PATIENCE)).unwrap();
                client.connect(("127.0.0.1", address.port())).unwrap();
                for _ in 0..4 {
                    client.send(b"listener").unwrap();
                    let mut answer = [0; 64];
                    let n = client.recv(&mut answer).unwrap();
                    assert!(answer[..n].starts_with(b"0 "), "{:?}", String::from_utf8_lossy(&answer[..n]));
                }
                server.stop();
            }
        }
    }
}

#[test]
fn a_datagram_socket_needs_a_handler_for_datagrams() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let module = handler::compile(
        "#include <prefork.h>\n\
         static void on_data(prefork_conn *c, void *s) { (void)c; (void)s; }\n\
         PREFORK_MODULE(.on_data = on_data)\n",
        &[],
    );
    let start = Start::new(Style::Data).module(module).listen("fd:3");
    let refused = start.through(&PASS_ON).stdin(socket).refused();
    assert!(refused.code == Some(1) && refused.stderr.contains("on_datagram"), "{refused:?}");
}

#[test]
fn sockets_passed_by_systemd_that_are_not_used_are_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut pass_on = vec!["env", "LISTEN_FDS=1"];
    pass_on.extend(PASS_ON);
    let start = |listen: &str| {
        let own = listener.try_clone().unwrap();
        Start::new(Style::Request).listen(listen).through(&pass_on).stdin(own).start()
    };
    let mut server = start("127.0.0.1:0");
    server
        .says("LISTEN_FDS: 1 socket is not used, since addresses are given; to use it, add `--listen fd:3`");
    server.stop();
    // Named, it is.
    start("fd:3").stop();
}

#[test]
fn an_inherited_socket_that_cannot_be_served_is_told_by_its_kind() {
    let (a, b) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    a.connect(b.local_addr().unwrap()).unwrap();
    let unix = UnixDatagram::unbound().unwrap();
    for (socket, why) in
        [(std::os::fd::OwnedFd::from(a), "a connected UDP socket"), (unix.into(), "a Unix datagram socket")]
    {
        let refused = Start::new(Style::Datagram).listen("fd:3").through(&PASS_ON).stdin(socket).refused();
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
        assert!(refused.stderr.contains("fd:3") && refused.stderr.contains(why), "{refused:?}");
    }
}

#[test]
fn an_inherited_descriptor_that_does_not_listen_is_refused() {
    for (fd, why) in [("fd:3", "not a listening"), ("fd:77", "Bad file descriptor")] {
        let file = std::fs::File::open("/dev/null").unwrap();
        let refused = Start::new(Style::Request).listen(fd).through(&PASS_ON).stdin(file).refused();
        assert_eq!((refused.code, refused.stderr.lines().count()), (Some(1), 1), "{refused:?}");
        assert!(refused.stderr.contains(fd) && refused.stderr.contains(why), "{refused:?}");
    }
}
