//! Threads that a worker's handler has started: what they may not call is refused there, and changes nothing.
#![allow(clippy::unwrap_used)]

mod util;

use util::handler::compile;
use util::host::example;
use util::{Start, Style};

/// Runs `elsewhere()` in a second thread during each callback, and answers with what its calls returned.
const MODULE: &str = r#"
    #include <prefork.h>
    #include <pthread.h>
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>

    static prefork_worker *worker;
    static prefork_request *req;
    static prefork_response *res;
    static prefork_conn *conn;
    static char text[4000];
    static int released;

    static void add(const char *name, long value)
    {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s=%ld ", name, value);
    }
    #define ADD(call) add(#call, (long)prefork_##call)

    static void never(prefork_worker *w, int status, const void *data, size_t size, void *arg)
    {
        (void)w, (void)status, (void)data, (void)size, (void)arg;
        __builtin_trap();
    }

    static void fired(prefork_worker *w, void *arg)
    {
        (void)w, (void)arg;
        __builtin_trap();
    }

    static void ready(prefork_worker *w, int fd, int events, void *arg)
    {
        (void)fd, (void)events;
        fired(w, arg);
    }

    static int more(prefork_response *r, void *arg)
    {
        (void)r;
        fired(NULL, arg);
        return 0;
    }

    static void release(void *owner)
    {
        (void)owner;
        released++;
    }

    static void *elsewhere(void *arg)
    {
        struct prefork_worker_status info = {sizeof info};
        char buf[10];

        if (arg)
            ADD(datagram_reply(worker, "x", 1));
        ADD(worker_send(worker, PREFORK_TO_MASTER, 1, "x", 1));
        ADD(worker_request(worker, PREFORK_TO_MASTER, 1, "x", 1, 0, never, NULL));
        ADD(worker_reply(worker, "x", 1));
        ADD(worker_leave(worker));
        add("timer_start", (long)prefork_timer_start(worker, 0, 0, fired, NULL));
        ADD(timer_stop(worker, 1));
        ADD(watch(worker, 0, PREFORK_READ, ready, NULL));
        ADD(unwatch(worker, 0));
        ADD(worker_info(worker, &info));
        add("self", prefork_worker_self() != NULL);
        if (res) {
            ADD(response_status(res, 404));
            ADD(response_header(res, "A", "b"));
            ADD(response_body(res, "x", 1));
            ADD(response_body_static(res, "x", 1));
            ADD(response_body_owned(res, "x", 1, release, NULL));
            ADD(response_write(res, "x", 1));
            ADD(response_file(res, dup(0), 0, 0));
            ADD(response_upgrade(res, "x"));
            ADD(response_close(res));
            ADD(response_flush(res));
            ADD(response_end(res));
            ADD(response_stream(res, more, release, NULL));
            ADD(response_on_gone(res, release, NULL));
            add("later", prefork_response_later(res) != NULL);
            ADD(response_fail(res));
            add("body", prefork_request_body(req).data != NULL);
            add("peer", prefork_request_peer(req).data != NULL);
        }
        if (conn) {
            ADD(conn_read(conn, buf, sizeof buf));
            ADD(conn_write(conn, "x", 1));
            ADD(conn_consume(conn, 1));
            ADD(conn_at_end(conn));
            ADD(conn_set_user(conn, buf));
            ADD(conn_fd(conn));
            ADD(conn_close(conn));
            add("data", prefork_conn_data(conn).data != NULL);
        }
        /* What may be called in any thread. */
        add("\nid", prefork_worker_id(worker)), add("slot", prefork_worker_slot(worker));
        add("generation", prefork_worker_generation(worker)), add("overdue", prefork_worker_overdue(worker));
        add("args", prefork_worker_arg_count(worker)), add("role", prefork_role(NULL, NULL, NULL));
        return NULL;
    }

    static void run(void *arg)
    {
        pthread_t thread;

        worker = prefork_worker_self();
        text[0] = 0;
        pthread_create(&thread, NULL, elsewhere, arg);
        pthread_join(thread, NULL);
        add("released", released), released = 0;
    }

    static void on_request(prefork_request *request, prefork_response *response, void *state)
    {
        (void)state;
        req = request, res = response;
        run(NULL);
        prefork_response_body(res, text, strlen(text));
        res = NULL;
    }

    static void on_conn(prefork_conn *c, void *state)
    {
        char *end, line[10];
        (void)state;
        conn = c;
        run(NULL);
        while ((end = strchr(text, '\n')))
            *end = '|';
        if (prefork_conn_read(c, line, sizeof line) > 0 && prefork_conn_user(c) == NULL) {
            prefork_conn_write(c, text, strlen(text));
            prefork_conn_write(c, "\n", 1);
        }
        conn = NULL;
    }

    static void on_datagram(prefork_worker *w, const struct sockaddr *peer, const void *data, size_t size, void *state)
    {
        (void)peer, (void)data, (void)size, (void)state;
        run(w);
        prefork_datagram_reply(w, text, strlen(text));
    }

    /* A request to itself, answered by the first thread only. */
    static void on_message(prefork_worker *w, uint32_t from, uint32_t type, const void *data, size_t size, void *state)
    {
        (void)from, (void)type, (void)data, (void)size, (void)state;
        run(NULL);
        prefork_worker_reply(w, text, strlen(text));
    }

    static void replied(prefork_worker *w, int status, const void *data, size_t size, void *arg)
    {
        (void)w, (void)arg;
        fprintf(stderr, "reply %d %.*s\n", status, (int)(strcspn(data, "\n") < size ? strcspn(data, "\n") : size), (char *)data);
    }

    static int worker_start(prefork_worker *w, void **state)
    {
        (void)state;
        return prefork_worker_slot(w) == 0 ? prefork_worker_request(w, prefork_worker_id(w), 1, "", 0, 0, replied, NULL) : 0;
    }

    PREFORK_MODULE(.worker_start = worker_start, .on_message = on_message, .on_datagram = on_datagram, CALLBACK)
"#;

fn start(style: Style) -> Start {
    let callback = match style {
        Style::Request => "-DCALLBACK=.on_request=on_request",
        Style::Connection => "-DCALLBACK=.on_connection=on_conn",
        Style::Data => "-DCALLBACK=.on_data=on_conn",
        Style::Datagram => "-DCALLBACK=.on_drain=0",
    };
    Start::new(style).module(compile(MODULE, &[callback, "-Wno-unused-function", "-pthread"]))
}

const STATE: &str = "-4";

/// Checks what the second thread got: every call was refused, and those that are allowed were not.
#[track_caller]
fn are_refused(text: &str, calls: usize, released: u32) {
    let (refused, allowed) = text.split_once(['\n', '|']).unwrap();
    let results: Vec<_> = refused.split_terminator(' ').collect();
    // The spaces in the text of a call are between its arguments.
    let statuses: Vec<_> = results.iter().filter_map(|word| word.rsplit_once('=')).collect();
    assert_eq!(statuses.iter().filter(|(_, value)| *value == STATE).count(), calls, "{text}");
    assert!(statuses.iter().all(|(_, value)| [STATE, "0"].contains(value)), "{text}");
    let none = ["timer_start", "self", "body", "peer", "data", "later"];
    assert!(statuses.iter().all(|(name, value)| *value == STATE || none.contains(name)), "{text}");
    assert!(allowed.contains("generation=1 overdue=0 args=1 role=2"), "{text}");
    assert!(!allowed.contains("id=0"), "{text}");
    assert!(allowed.ends_with(&format!("released={released} ")), "{text}");
}

#[test]
fn calls_from_a_second_thread_are_refused() {
    for (style, calls, released) in
        [(Style::Request, 22, 1), (Style::Connection, 15, 0), (Style::Data, 15, 0)]
    {
        let mut server = start(style).start();
        server.says(&format!("reply 0 worker_send(worker, PREFORK_TO_MASTER, 1, \"x\", 1)={STATE}"));
        for _ in 0..3 {
            are_refused(&server.ask("x").unwrap(), calls, released);
        }
        server.wait_for_line("reply 0");
        server.stop();
    }
}

#[test]
fn a_reply_to_a_datagram_from_a_second_thread_is_refused() {
    let mut server = start(Style::Datagram).listen("udp:127.0.0.1:0").start();
    server.may_say("reply 0");
    let util::client::Address::Udp(address) = *server.address() else { panic!("{:?}", server.address()) };
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(util::PATIENCE)).unwrap();
    client.send_to(b"x", address).unwrap();
    let mut buf = [0; 4000];
    let n = client.recv(&mut buf).unwrap();
    are_refused(str::from_utf8(&buf[..n]).unwrap(), 9, 0);
    server.stop();
}

#[test]
fn a_worker_that_rust_code_smuggles_into_a_second_thread_sends_nothing() {
    let program = [example("faults").to_str().unwrap().to_owned(), "thread".into(), "request".into()];
    let shell = ["sh", "-c", "exec \"$@\" 9>&1", "sh"];
    let server = Start::new(Style::Request).program(program).through(&shell).start();
    assert_eq!(server.ask("x").unwrap(), "Err(Impossible) Err(Impossible) Err(Impossible) None");
    server.stop();
}
