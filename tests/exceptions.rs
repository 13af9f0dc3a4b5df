//! C++ exceptions that leave a callback: the log says which callback, and the worker is replaced.
#![allow(clippy::unwrap_used)]

mod util;

use std::io;
use std::net::{TcpStream, UdpSocket};
use util::client::Address;
use util::handler::{compile, host_with};
use util::{Start, Style, wait_until};

/// Throws in the callback that is its second argument.
const MODULE: &str = r#"
    #include <prefork.h>
    #include <exception>
    #include <stdexcept>
    #include <string>
    #include <unistd.h>

    static std::string where;

    struct Other { virtual ~Other() {} int n; };
    struct Own : Other, std::exception { const char *what() const noexcept override { return "two\nlines"; } };
    namespace shop { struct Fault { int n; }; }

    static void maybe(const char *callback)
    {
        if (where == callback)
            throw std::runtime_error(callback);
    }

    /* Of other types, and again. */
    static void other()
    {
        if (where == "int")
            throw 7;
        if (where == "fault")
            throw shop::Fault();
        if (where == "own")
            throw Own();
        if (where == "pointer")
            throw new std::runtime_error("x");
        try {
            if (where.find("again") == 0)
                throw std::out_of_range("no such place");
            if (where == "inside")
                throw std::runtime_error("caught");
        } catch (const std::exception &) {
            if (where == "again")
                throw;
            if (where == "again later")
                std::rethrow_exception(std::current_exception());
        }
    }

    static void linger()
    {
        for (int i = 0; where == "on_hang" && i < 100; i++)
            usleep(100000);
    }

    static void replied(prefork_worker *, int, const void *, size_t, void *) { maybe("on_reply"); }

    static int start(prefork_worker *worker, void **)
    {
        where = THROW;
        maybe("worker_start");
        return worker == NULL;
    }

    static void stop(prefork_worker *, void *) { maybe("worker_stop"); }
    static void drain(prefork_worker *, void *) { maybe("on_drain"); }

    static void message(prefork_worker *worker, uint32_t, uint32_t, const void *, size_t, void *)
    {
        maybe("on_message");
        prefork_worker_reply(worker, "", 0);
    }

    static void released(void *)
    {
        if (where.find("release") == 0)
            maybe(where.c_str());
    }

    static void fired(prefork_worker *, void *) { maybe("timer"); }
    static void woken(prefork_worker *, void *) { maybe("wake"); }

    static int more(prefork_response *, void *) { maybe("more"); return 0; }
    static void done(void *) { maybe("done"); }
    static void gone(void *) { maybe("on_gone"); }

    static void ready(prefork_worker *worker, int fd, int, void *)
    {
        maybe("watch");
        prefork_unwatch(worker, fd);
    }

    static void request(prefork_request *req, prefork_response *res, void *)
    {
        maybe("on_request");
        other();
        linger();
        prefork_worker *self = prefork_worker_self();
        prefork_worker_request(self, prefork_worker_id(self), 1, "", 0, 0, replied, NULL);
        prefork_timer_start(self, 0, 0, fired, NULL);
        prefork_worker_wake(self, woken, NULL);
        int pair[2];
        if (pipe(pair) == 0)
            prefork_watch(self, pair[1], PREFORK_WRITE, ready, NULL);
        if (where == "more" || where == "done")
            prefork_response_stream(res, more, done, NULL);
        else if (where == "on_gone")
            prefork_response_on_gone(prefork_response_later(res), gone, NULL);
        else
            prefork_response_body_owned(res, "x", 1, released, NULL);
        (void)req;
    }

    static int head(prefork_request *req, prefork_response *, void *)
    {
        maybe("on_head");
        if (where == "release of a request's value" || where == "release of a value that is replaced")
            prefork_request_set_user(req, &where, released);
        if (where == "release of a value that is replaced")
            prefork_request_set_user(req, NULL, NULL);
        return 1;
    }

    static void body(prefork_request *, const void *, size_t, int, void *) { maybe("on_body"); }

    /* Until a write is refused. */
    static void fill(prefork_conn *conn)
    {
        static char bytes[1 << 20];
        while (where == "on_writable" && prefork_conn_write(conn, bytes, sizeof bytes) > 0)
            continue;
    }

    static void writable(prefork_conn *, void *) { maybe("on_writable"); }
    static int each(prefork_conn *, void *) { maybe("each"); return 0; }

    static ptrdiff_t handover(prefork_conn *, void *, size_t, void *) { maybe("on_handover"); return 0; }
    static int takeover(prefork_conn *, uint32_t, const void *, size_t, void *) { maybe("on_takeover"); return 0; }

    static void open(prefork_conn *conn, void *) { maybe("on_open"); fill(conn); }
    static void data(prefork_conn *conn, void *)
    {
        maybe("on_data");
        maybe("on_connection");
        prefork_worker_each_conn(prefork_worker_self(), each, NULL);
        if (where == "on_handover" || where == "on_takeover")
            prefork_conn_transfer(conn, 0);
        else if (where != "on_writable")
            prefork_conn_close(conn);
    }

    static void close(prefork_conn *, void *) { maybe("on_close"); }
    /* In a signal handler, where nobody should throw either. */
    static void hang(prefork_worker *, void *) { maybe("on_hang"); }

    static void datagram(prefork_worker *, const struct sockaddr *, const void *, size_t, void *) { maybe("on_datagram"); }

    PREFORK_MODULE(.worker_start = start, .worker_stop = stop, .on_drain = drain, .on_message = message, CALLBACKS,
                   .on_hang = hang)
"#;

/// A host that throws in the callback of the master that is its first argument.
const HOST: &str = r#"
    #include <prefork.h>
    #include <csignal>
    #include <cstdio>
    #include <cstring>
    #include <stdexcept>
    #include <unistd.h>

    static const char *where;

    static void maybe(const char *callback)
    {
        if (strcmp(where, callback) == 0)
            throw std::runtime_error(callback);
    }

    static void request(prefork_request *, prefork_response *res, void *) { prefork_response_body(res, "x", 1); }
    static void event(const prefork_event *, void *) { maybe("on_event"); }
    static const char *reload(uint32_t, void *) { maybe("on_reload"); return NULL; }
    static void each(const prefork_worker_status *, void *) { maybe("each"); }
    static void replied(prefork_server *, int, const void *, size_t, void *) { maybe("on_reply"); }

    static void message(prefork_server *server, uint32_t from, uint32_t, const void *, size_t, void *)
    {
        maybe("on_message");
        prefork_server_each_worker(server, each, NULL);
        prefork_server_request(server, from, 1, "", 0, 0, replied, NULL);
    }

    static void started(const prefork_started *what, void *)
    {
        maybe("on_start");
        printf("listening on %s\n", what->addresses[0]);
        fflush(stdout);
        if (strcmp(where, "on_reload") == 0)
            raise(SIGHUP);
    }

    static int begin(prefork_worker *worker, void **)
    {
        return prefork_worker_send(worker, PREFORK_TO_MASTER, 1, "", 0);
    }

    int main(int, char **argv)
    {
        struct prefork_module module = prefork_module_init();
        prefork_server *server = prefork_server_new();
        where = argv[1];
        module.on_request = request;
        module.worker_start = begin;
        prefork_server_module(server, &module, NULL);
        prefork_server_on_start(server, started, NULL);
        prefork_server_on_event(server, event, NULL);
        prefork_server_on_reload(server, reload, NULL);
        prefork_server_on_message(server, message, NULL);
        prefork_server_listen(server, "127.0.0.1:0");
        prefork_server_workers(server, 2);
        return prefork_server_run(server);
    }
"#;

fn start(style: Style, throw: &str) -> Start {
    let callbacks = match style {
        Style::Request => "-DCALLBACKS=.on_head=head, .on_body=body, .on_request=request",
        Style::Connection => "-DCALLBACKS=.on_connection=data",
        Style::Data => {
            "-DCALLBACKS=.on_open=open, .on_data=data, .on_writable=writable, .on_close=close, \
         .state_version=1, .on_handover=handover, .on_takeover=takeover"
        }
        Style::Datagram => "-DCALLBACKS=.on_datagram=datagram",
    };
    let throw = format!("-DTHROW=\"{throw}\"");
    let cpp = ["-x", "c++", "-Wl,--no-as-needed,-lstdc++", "-Wno-unused-function", callbacks, &throw];
    Start::new(style).module(compile(MODULE, &cpp))
}

fn message(callback: &str) -> String {
    let name = callback.split([' ', '!']).next().unwrap();
    let what = if cfg!(target_arch = "x86_64") {
        format!(": std::runtime_error: {callback}")
    } else {
        String::new()
    };
    format!("{name}: a C++ exception left the callback{what}")
}

#[test]
fn an_exception_is_logged_with_the_callback_that_it_left() {
    for (style, callback) in [
        (Style::Request, "on_request"),
        (Style::Request, "on_head"),
        (Style::Request, "on_body"),
        (Style::Request, "on_message"),
        (Style::Request, "on_reply"),
        (Style::Request, "timer"),
        (Style::Request, "wake"),
        (Style::Request, "watch"),
        (Style::Request, "release"),
        (Style::Request, "release of a request's value"),
        (Style::Request, "release of a value that is replaced"),
        (Style::Request, "more"),
        (Style::Request, "done"),
        (Style::Request, "on_gone"),
        (Style::Connection, "on_connection"),
        (Style::Data, "on_open"),
        (Style::Data, "on_data"),
        (Style::Data, "on_writable"),
        (Style::Data, "on_close"),
        (Style::Data, "each"),
        (Style::Data, "on_handover"),
        (Style::Data, "on_takeover"),
        (Style::Datagram, "on_datagram"),
    ] {
        let listen = if style == Style::Datagram { "udp:127.0.0.1:0" } else { "127.0.0.1:0" };
        let mut server = start(style, callback).set("response-timeout", "100ms").listen(listen).start();
        server.says(&message(callback));
        server.says("died: SIGABRT");
        let before = server.workers();
        match *server.address() {
            Address::Udp(address) => {
                UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", address).unwrap();
            }
            // Megabytes, in which a client of commands would look for an answer.
            _ if callback == "on_writable" => {
                let _ = io::copy(&mut TcpStream::connect(server.tcp()).unwrap(), &mut io::sink());
            }
            _ => {
                let _ = server.ask("x");
            }
        }
        server.wait_for_line(&message(callback));
        wait_until("a successor", || {
            let now = server.workers();
            now.len() == 2 && now.iter().any(|pid| !before.contains(pid))
        });
        let lines = server.stderr();
        // But for the names of functions on its stack.
        let has = |line: &String| !line.contains(": #") && line.contains("Rust");
        assert!(!lines.iter().any(has), "{callback}: {lines:#?}");
        server.stop();
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_exception_of_any_type_is_logged_with_what_is_known_of_it() {
    for (throw, what) in [
        ("int", "int"),
        ("fault", "shop::Fault"),
        ("own", "Own: two lines"),
        ("pointer", "std::runtime_error*"),
        ("again", "std::out_of_range: no such place"),
        ("again later", "std::out_of_range: no such place"),
    ] {
        let mut server = start(Style::Request, throw).workers(1).start();
        let line = format!("on_request: a C++ exception left the callback: {what}");
        server.says(&line);
        server.says("died: SIGABRT");
        let before = server.workers()[0];
        let _ = server.ask("x");
        wait_until("its line", || server.stderr().iter().any(|l| l.ends_with(&line)));
        server.replaces(before);
        server.stop();
    }
    // One that is caught in the callback is nobody's affair.
    let server = start(Style::Request, "inside").workers(1).start();
    let before = server.workers();
    let mut client = server.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    assert_eq!(client.http_answer().unwrap().body, "x");
    assert_eq!(server.workers(), before);
    drop(client);
    server.stop();
}

#[test]
fn an_exception_while_the_handler_hangs_is_logged_too() {
    let mut server = start(Style::Request, "on_hang").workers(1).set("timeout", "200ms").start();
    for line in [&message("on_hang"), "hangs in its handler", "died: SIGABRT"] {
        server.says(line);
    }
    let before = server.workers();
    assert!(server.ask("x").is_err());
    wait_until("a successor", || server.workers().len() == 1 && server.workers() != before);
    let lines = server.stderr();
    // But for the names of functions on its stack.
    assert!(lines.iter().all(|line| line.contains(": #") || !line.contains("unwind")), "{lines:#?}");
    server.stop();
}

#[test]
fn an_exception_at_the_start_or_the_end_of_a_worker_is_logged_too() {
    for callback in ["worker_stop", "on_drain"] {
        let mut server = start(Style::Request, callback).workers(1).start();
        server.says(&message(callback));
        server.may_say("SIGABRT");
        server.may_say("killed");
        server.signal(libc::SIGTERM);
        server.ends();
    }
    let refused = start(Style::Request, "worker_start").workers(1).refused();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains(&message("worker_start")), "{refused:?}");
}

#[test]
fn an_exception_in_a_callback_of_the_master_is_logged_and_leaves_no_worker() {
    let host = host_with(HOST, &["-x", "c++", "-Wl,--no-as-needed,-lstdc++"]);
    for callback in ["on_start", "on_event", "on_message", "on_reply", "each", "on_reload"] {
        let words = [host.to_str().unwrap(), callback];
        let mut server = Start::new(Style::Request).program(words).launch();
        let line = message(callback);
        server.says(&line);
        server.may_say("reload to generation 2 begins");
        server.wait_for_line(&line);
        wait_until("it has ended", || server.has_exited());
        server.dies_out();
    }
}
