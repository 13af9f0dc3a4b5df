//! Stream handlers: bytes as they arrive, many connections in one worker, and a client that does not read.
#![allow(clippy::unwrap_used)]

mod util;

use util::handler::compile;
use util::{Server, Start, Style};

const ECHO: &str = "
#include <prefork.h>
static void on_data(prefork_conn *conn, void *state)
{
    prefork_slice in = prefork_conn_data(conn);
    (void)state;
    if (prefork_conn_write(conn, in.data, in.len) < 0)
        prefork_conn_close(conn);
    prefork_conn_consume(conn, in.len);
    if (prefork_conn_at_end(conn))
        prefork_conn_close(conn);
}
PREFORK_MODULE(.on_data = on_data)
";

fn echo(options: &[&str]) -> Server {
    let program = [env!("CARGO_BIN_EXE_prefork"), "--workers", "1", "--listen", "127.0.0.1:0"];
    let module = compile(ECHO, &[]);
    let words = program.iter().chain(options).map(std::ffi::OsString::from);
    Start::new(Style::Data).workers(1).program(words.chain([module.into_os_string()])).start()
}

#[test]
fn a_command_may_arrive_in_any_pieces() {
    let server = Start::new(Style::Data).start();
    let mut client = server.connect();
    for piece in ["li", "sten", "er", "\nlist", "ener\nlistener\nlistener"] {
        client.send(piece.as_bytes()).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(client.answer(), Ok("0".into()));
    }
    client.send(b"\n").unwrap();
    assert_eq!(client.answer(), Ok("0".into()));
    drop(client);
    server.stop();
}

#[test]
fn many_connections_of_one_worker_take_turns() {
    let server = Start::new(Style::Data).workers(1).start();
    let mut clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|c| c.send_command("slot").unwrap());
        for client in clients.iter_mut().rev() {
            assert_eq!(client.answer(), Ok("0".into()));
        }
    }
    drop(clients);
    server.stop();
}

#[test]
fn input_sent_before_end_of_file_is_answered_after_it() {
    let server = echo(&[]);
    let sent: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut client = server.connect();
    std::thread::scope(|scope| {
        let mut half = client.half();
        scope.spawn({
            let sent = &sent;
            move || {
                half.send(sent).unwrap();
                half.end().unwrap();
            }
        });
        assert!(client.rest().unwrap() == sent, "the same bytes");
    });
    drop(client);
    server.stop();
}

#[test]
fn a_client_that_does_not_read_delays_no_other() {
    let server = echo(&["--max-pending", "1M", "--write-timeout", "500ms"]);
    let mut deaf: Vec<_> = (0..5).map(|_| server.connect()).collect();
    for client in &mut deaf {
        client.patience(std::time::Duration::from_millis(200));
        // Until nothing more is taken, or the server closes.
        while client.send(&[b'x'; 65536]).is_ok() {}
    }
    let mut client = server.connect();
    for _ in 0..50 {
        assert_eq!(client.ask("hello"), Ok("hello".into()));
    }
    drop((client, deaf));
    server.stop();
}
