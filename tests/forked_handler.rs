//! A process that a handler has forked and that returns from the callback: it ends there, and serves nobody as a second worker.

mod util;

use std::net::UdpSocket;
use util::handler::compile;
use util::{Server, Start, Style, wait_until};

/// Forks in the callback whose name is a file of the test, once; both processes return.
const SOURCE: &str = r#"
#include <prefork.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *dir;
static prefork_worker *self;

static void twin(const char *callback)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", dir, callback);
    if (unlink(path) == 0 && fork() < 0)
        _exit(1);
}

static int start(prefork_worker *worker, void **state)
{
    (void)state;
    self = worker;
    dir = prefork_worker_arg(worker, 0);
    twin("worker_start");
    return 0;
}

static void stop(prefork_worker *worker, void *state)
{
    (void)worker; (void)state;
    twin("worker_stop");
}

static void on_drain(prefork_worker *worker, void *state)
{
    (void)worker; (void)state;
    twin("on_drain");
}

static void on_message(prefork_worker *worker, uint32_t from, uint32_t type, const void *bytes, size_t size, void *state)
{
    (void)worker; (void)from; (void)type; (void)bytes; (void)size; (void)state;
    twin("on_message");
}

static void on_datagram(prefork_worker *worker, const struct sockaddr *peer, const void *data, size_t size, void *state)
{
    (void)peer; (void)state;
    twin("on_datagram");
    prefork_datagram_reply(worker, data, size);
}

#define COMMON .worker_start = start, .worker_stop = stop, .on_drain = on_drain, .on_message = on_message, .on_datagram = on_datagram

#if defined ON_REQUEST
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    prefork_slice path = prefork_request_path(req);

    (void)state;
    if (path.len == 8) /* "/message": to the other worker */
        prefork_worker_send(self, PREFORK_TO_ALL, 1, "x", 1);
    else
        twin("on_request");
    prefork_response_body(res, "served", 6);
}
PREFORK_MODULE(COMMON, .on_request = on_request)
#elif defined ON_CONNECTION
static void on_connection(prefork_conn *conn, void *state)
{
    char in[64];

    (void)state;
    if (prefork_conn_read(conn, in, sizeof in) > 0)
        prefork_conn_write(conn, "served\n", 7);
    twin("on_connection");
}
PREFORK_MODULE(COMMON, .on_connection = on_connection)
#else
static void on_open(prefork_conn *conn, void *state)
{
    (void)conn; (void)state;
    twin("on_open");
}

static void on_data(prefork_conn *conn, void *state)
{
    (void)state;
    prefork_conn_consume(conn, prefork_conn_data(conn).len);
    if (prefork_conn_at_end(conn)) {
        prefork_conn_close(conn);
        return;
    }
    prefork_conn_write(conn, "served\n", 7);
    twin("on_data");
}

static void on_close(prefork_conn *conn, void *state)
{
    (void)conn; (void)state;
    twin("on_close");
}
PREFORK_MODULE(COMMON, .on_open = on_open, .on_data = on_data, .on_close = on_close)
#endif
"#;

fn start(style: Style) -> Start {
    let define = match style {
        Style::Request => "-DON_REQUEST",
        Style::Connection => "-DON_CONNECTION",
        Style::Data | Style::Datagram => "-DON_DATA",
    };
    Start::new(style).workers(1).module(compile(SOURCE, &[define]))
}

/// The process that `callback` forks has ended and was told of, and the server is as it was.
#[track_caller]
fn ends_the_copy(server: &mut Server, callback: &str) {
    server.says("returned from it and ends here");
    server.wait_for_line(&format!("{callback}: process "));
    wait_until("the worker alone is left", || util::proc::group(server.pid).len() == 2);
}

#[test]
fn a_copy_that_returns_from_a_callback_of_a_connection_ends_there() {
    for (style, callback) in [
        (Style::Request, "on_request"),
        (Style::Connection, "on_connection"),
        (Style::Data, "on_open"),
        (Style::Data, "on_data"),
        (Style::Data, "on_close"),
    ] {
        let mut server = start(style).start();
        server.dir.make(callback);
        // Exactly one answer, then the end.
        assert_eq!(server.ask("x"), Ok("served".into()), "{callback}");
        ends_the_copy(&mut server, callback);
        for _ in 0..10 {
            assert_eq!(server.ask("x"), Ok("served".into()), "{callback}");
        }
        server.stop();
    }
}

#[test]
fn a_copy_that_returns_from_on_datagram_ends_there() {
    let mut server = start(Style::Data).listen("127.0.0.1:0").listen("udp:127.0.0.1:0").start();
    let Some(&util::client::Address::Udp(address)) = server.addresses.get(1) else { panic!() };
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(util::PATIENCE)).unwrap();
    server.dir.make("on_datagram");
    let mut answer = [0; 10];
    client.send_to(b"one", address).unwrap();
    ends_the_copy(&mut server, "on_datagram");
    for _ in 0..10 {
        client.send_to(b"two", address).unwrap();
    }
    // The forked process and the worker both run the handler's reply to the first one: that is in the handler's hands.
    let mut answers: Vec<_> = Vec::new();
    while answers.iter().filter(|a| *a == "two").count() < 10 {
        let n = client.recv(&mut answer).unwrap();
        answers.push(String::from_utf8_lossy(&answer[..n]).into_owned());
    }
    client.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    assert!(client.recv(&mut answer).is_err(), "{answers:?}, and more");
    server.stop();
}

#[test]
fn a_copy_that_returns_from_a_callback_of_the_worker_ends_there() {
    let at_start = start(Style::Request);
    at_start.dir().make("worker_start");
    let mut server = at_start.start();
    ends_the_copy(&mut server, "worker_start");
    server.stop();

    for callback in ["on_drain", "worker_stop"] {
        let mut server = start(Style::Request).start();
        server.dir.make(callback);
        let worker = server.workers()[0];
        util::proc::signal(worker, libc::SIGTERM);
        server.replaces(worker);
        ends_the_copy(&mut server, callback);
        assert_eq!(server.ask("x"), Ok("served".into()), "{callback}");
        server.stop();
    }

    let mut server = start(Style::Request).workers(2).start();
    server.dir.make("on_message");
    assert_eq!(server.ask("message"), Ok("served".into()));
    server.says("returned from it and ends here");
    server.wait_for_line("on_message: process ");
    server.stop();
}

/// A host that forks in the callback of the master that its first argument names, once, and waits for its child.
const HOST: &str = r#"#include <prefork.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static const char *where;
static void twin(const char *callback)
{
    if (strcmp(where, callback) == 0) {
        where = "";
        waitpid(fork(), NULL, 0);
    }
}
static void on_start(const prefork_started *started, void *state)
{
    (void)state;
    printf("listening on %s\n", started->addresses[0]);
    fflush(stdout);
    twin("on_start");
}
static void on_event(const prefork_event *event, void *state)
{
    (void)state;
    if (event->type == PREFORK_EVENT_READY)
        twin("on_event");
}
static void on_reply(prefork_server *server, int status, const void *data, size_t size, void *arg)
{
    (void)server, (void)status, (void)data, (void)size, (void)arg;
    twin("on_reply");
}
static void on_message(prefork_server *server, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
{
    (void)type, (void)data, (void)size, (void)state;
    prefork_server_request(server, from, 1, "x", 1, 1000, on_reply, NULL);
    twin("on_message");
}
static void on_request(prefork_request *req, prefork_response *res, void *state)
{
    (void)req, (void)state;
    prefork_worker_send(prefork_worker_self(), PREFORK_TO_MASTER, 1, "x", 1);
    prefork_response_body(res, "served", 6);
}
int main(int argc, char **argv)
{
    prefork_server *server = prefork_server_new();
    int status;
    if (argc != 3)
        return 2;
    where = argv[1];
    prefork_server_on_request(server, on_request, NULL);
    prefork_server_on_start(server, on_start, NULL);
    prefork_server_on_event(server, on_event, NULL);
    prefork_server_on_message(server, on_message, NULL);
    prefork_server_listen(server, "127.0.0.1:0");
    prefork_server_set(server, "workers", "2");
    if (strcmp(argv[2], "run") == 0) {
        status = prefork_server_run(server);
    } else {
        prefork_server_set(server, "signals", "on");
        status = prefork_server_start(server);
        while (status >= 0 && prefork_server_fd(server) >= 0)
            status = prefork_server_step(server, -1);
    }
    fprintf(stderr, "after, with status %d\n", status);
    prefork_server_free(server);
    return status < 0;
}
"#;

fn ends_the_copy_of_a_master(program: &[&str], through: &[&str], callback: &str) {
    let mut server = Start::new(Style::Request).program(program).through(through).start();
    server.says("returned from it and ends here");
    server.may_say("after, with status 0");
    for _ in 0..10 {
        assert_eq!(server.ask("x"), Ok("served".into()), "{callback}");
    }
    server.wait_for_line(&format!("{callback}: process "));
    wait_until("one master and its workers are left", || util::proc::group(server.pid).len() == 3);
    server.stop();
}

#[test]
fn a_copy_that_returns_from_a_callback_of_the_master_ends_there() {
    let host = util::handler::host(HOST);
    for callback in ["on_start", "on_event", "on_message", "on_reply"] {
        for how in ["run", "start"] {
            ends_the_copy_of_a_master(&[host.to_str().unwrap(), callback, how], &[], callback);
        }
    }
    let host = util::host::example("faults");
    for callback in ["on_start", "on_event", "on_message"] {
        let shell = ["sh", "-c", "exec \"$@\" 9>&1", "sh"];
        ends_the_copy_of_a_master(&[host.to_str().unwrap(), "twin", callback], &shell, callback);
    }
}
