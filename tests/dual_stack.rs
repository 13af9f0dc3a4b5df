//! Listeners on `[::]`, which take IPv4 too: an IPv4 client has its IPv4 address everywhere, and datagrams sent to many are answered.
#![allow(clippy::unwrap_used)]

mod util;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use util::client::Address;
use util::handler::compile;
use util::{Client, Mode, Server, Start, Style, wait_until};

/// Answers with the client's address, in every style.
const PEER: &str = r#"
    #include <prefork.h>
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <stdio.h>
    #include <string.h>

    static void answer(prefork_conn *conn)
    {
        prefork_slice peer = prefork_conn_peer(conn);
        prefork_conn_write(conn, peer.data, peer.len);
        prefork_conn_write(conn, "\n", 1);
        prefork_conn_close(conn);
    }

    static void on_conn(prefork_conn *conn, void *state)
    {
        char line[100];
        (void)state;
        prefork_conn_read(conn, line, sizeof line);
        answer(conn);
    }

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        prefork_slice peer = prefork_request_peer(req);
        (void)state;
        prefork_response_body(res, peer.data, peer.len);
    }

    static void on_datagram(prefork_worker *w, const struct sockaddr *peer, const void *data, size_t size, void *state)
    {
        char text[100], full[120];
        const struct sockaddr_in *v4 = (const void *)peer;
        const struct sockaddr_in6 *v6 = (const void *)peer;
        (void)data, (void)size, (void)state;
        if (peer->sa_family == AF_INET)
            snprintf(full, sizeof full, "%s:%d", inet_ntop(AF_INET, &v4->sin_addr, text, 100), ntohs(v4->sin_port));
        else
            snprintf(full, sizeof full, "[%s]:%d", inet_ntop(AF_INET6, &v6->sin6_addr, text, 100), ntohs(v6->sin6_port));
        prefork_datagram_reply(w, full, strlen(full));
    }

    PREFORK_MODULE(CALLBACK, .on_datagram = on_datagram)
"#;

fn start(style: Style, mode: Mode) -> Start {
    let callback = match style {
        Style::Request => "-DCALLBACK=.on_request=on_request",
        Style::Connection => "-DCALLBACK=.on_connection=on_conn",
        Style::Data => "-DCALLBACK=.on_data=on_conn",
        Style::Datagram => "-DCALLBACK=.on_drain=0",
    };
    Start::new(style).module(compile(PEER, &[callback, "-Wno-unused-function"])).accept(mode)
}

/// The port of the first address.
fn port(server: &Server) -> u16 {
    match server.address() {
        Address::Tcp(address) | Address::Udp(address) => address.port(),
        Address::Unix(_) => panic!("no port"),
    }
}

/// Sends a datagram to an address and returns the answer.
fn ask(from: &UdpSocket, to: SocketAddr) -> (String, SocketAddr) {
    from.set_read_timeout(Some(util::PATIENCE)).unwrap();
    from.send_to(b"who", to).unwrap();
    let mut buf = [0; 200];
    let (n, address) = from.recv_from(&mut buf).unwrap();
    (String::from_utf8_lossy(&buf[..n]).into_owned(), address)
}

#[test]
fn a_client_has_its_own_address_in_every_style() {
    for mode in Mode::ALL {
        for style in Style::ALL {
            for listen in ["[::]:0", ":0"] {
                let server = start(style, mode).listen(listen).start();
                for host in ["127.0.0.1", "::1"] {
                    let source: IpAddr = host.parse().unwrap();
                    let to = SocketAddr::new(source, port(&server));
                    let peer = Client::connect_from(source, to, style).unwrap().ask_last("who").unwrap();
                    let peer: SocketAddr = peer.parse().unwrap();
                    assert_eq!(peer.ip(), source, "{style:?} {mode:?} {listen}");
                }
                server.stop();
            }
        }
    }
}

#[test]
fn the_sender_of_a_datagram_has_its_own_address() {
    for mode in [Mode::Master, Mode::ReusePort] {
        for listen in ["udp:[::]:0", "udp::0"] {
            let server = start(Style::Datagram, mode).listen(listen).start();
            for host in ["127.0.0.1", "::1"] {
                let ip: IpAddr = host.parse().unwrap();
                let client = UdpSocket::bind((ip, 0)).unwrap();
                let to = SocketAddr::new(ip, port(&server));
                let (peer, from) = ask(&client, to);
                assert_eq!(peer, client.local_addr().unwrap().to_string(), "{mode:?} {listen}");
                assert_eq!(from, to, "{mode:?} {listen}");
            }
            server.stop();
        }
    }
}

#[test]
fn a_broadcast_is_answered_from_an_address_of_this_machine() {
    for mode in [Mode::Master, Mode::ReusePort] {
        for listen in ["udp:[::]:0", "udp:0.0.0.0:0"] {
            let server = start(Style::Datagram, mode).listen(listen).start();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_broadcast(true).unwrap();
            let port = port(&server);
            let (peer, from) = ask(&client, ([127, 255, 255, 255], port).into());
            assert_eq!(peer, client.local_addr().unwrap().to_string(), "{mode:?} {listen}");
            assert_eq!(from, ([127, 0, 0, 1], port).into(), "{mode:?} {listen}");
            server.stop();
        }
    }
}

/// The index of an interface with a link-local address, on which IPv6 multicast works.
fn interface() -> Option<u32> {
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let fields = addresses.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let local = fields.filter(|f| f[0].starts_with("fe80")).map(|f| u32::from_str_radix(f[1], 16).unwrap());
    local.into_iter().next()
}

#[test]
fn an_ipv6_multicast_is_answered_from_an_address_of_this_machine() {
    let Some(scope) = interface() else {
        println!("not tested: this machine has no interface with an IPv6 link-local address");
        return;
    };
    let server = start(Style::Datagram, Mode::Master).listen("udp:[::]:0").start();
    let client = UdpSocket::bind("[::]:0").unwrap();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (peer, from) = ask(&client, SocketAddrV6::new(all_nodes, port(&server), 0, scope).into());
    assert!(peer.starts_with("[fe80::"), "{peer}");
    assert!(!from.ip().is_multicast() && from.port() == port(&server), "{from}");
    server.stop();
}

#[test]
fn a_client_is_dispatched_by_its_own_address() {
    let server = Start::new(Style::Request)
        .workers(4)
        .set("dispatch", "source-hash")
        .listen("[::]:0")
        .listen("127.0.0.1:0")
        .start();
    for last in 1..=12 {
        let source: IpAddr = [127, 0, 0, last].into();
        let slot = |at: &Address| {
            let Address::Tcp(address) = at else { panic!("{at:?}") };
            let to = ([127, 0, 0, 1], address.port()).into();
            Client::connect_from(source, to, Style::Request).unwrap().ask_last("slot").unwrap()
        };
        // On a busy machine a worker may count as stuck for a moment, and the next in the client's order gets the connection.
        wait_until(&format!("one worker for {source}"), || {
            slot(&server.addresses[0]) == slot(&server.addresses[1])
        });
    }
    server.stop();
}
