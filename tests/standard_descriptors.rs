//! Programs started without standard input, output or error: what their handlers print never reaches a client.
#![allow(clippy::unwrap_used)]

mod util;

use std::path::{Path, PathBuf};
use util::handler::{compile, host};
use util::host::example;
use util::{Mode, Server, Start, Style, proc};

/// Prints to standard output and error for each request, and reads standard input.
const HOST: &str = r#"
    #include <prefork.h>
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>

    static void on_request(prefork_request *req, prefork_response *res, void *state)
    {
        char byte;
        (void)req, (void)state;
        printf("printed\n"), fflush(stdout);
        fprintf(stderr, "printed\n");
        prefork_response_body(res, read(0, &byte, 1) == 0 ? "end" : "bad", 3);
    }

    static void on_data(prefork_conn *conn, void *state)
    {
        char line[100];
        (void)state;
        printf("printed\n"), fflush(stdout);
        fprintf(stderr, "printed\n");
        prefork_conn_read(conn, line, sizeof line);
        prefork_conn_write(conn, "end\n", 4);
    }

    /* Where the test reads, whatever the standard descriptors are. */
    static void tell(const prefork_started *started, void *state)
    {
        (void)state;
        dprintf(9, "listening on http://%s\n", started->addresses[0]);
    }

    int main(int argc, char **argv)
    {
        prefork_server *server = prefork_server_new();
        if (strcmp(argv[1], "data") == 0)
            prefork_server_on_data(server, NULL, on_data, NULL, NULL);
        else
            prefork_server_on_request(server, on_request, NULL);
        prefork_server_set(server, "accept", argv[2]);
        prefork_server_listen(server, "127.0.0.1:0");
        prefork_server_workers(server, 2);
        prefork_server_on_start(server, tell, NULL);
        if (argc > 3) {
            int status;
            prefork_server_set(server, "signals", "on");
            for (status = prefork_server_start(server); status >= 0; status = prefork_server_step(server, -1))
                if (prefork_server_fd(server) < 0)
                    return 0;
            return 1;
        }
        return prefork_server_run(server);
    }
"#;

/// A shell that starts its arguments with these redirections, and standard output also as descriptor 9.
fn without(closed: &str) -> [String; 4] {
    ["sh".into(), "-c".into(), format!("exec \"$@\" 9>&1 {closed}"), "sh".into()]
}

const ALL: &str = "0<&- 1>&- 2>&-";

fn start(style: Style, program: PathBuf, words: &[&str], closed: &str) -> Server {
    let program = [program.to_str().unwrap()].into_iter().chain(words.iter().copied());
    let shell = without(closed);
    Start::new(style).program(program).through(&shell.each_ref().map(String::as_str)).start()
}

/// Each has what it was given, or /dev/null.
fn has_no_socket_in_place(pid: i32) {
    for n in 0..3 {
        let file = std::fs::read_link(format!("/proc/{pid}/fd/{n}"));
        let name = file.as_deref().unwrap_or(Path::new("none")).to_str().unwrap().to_owned();
        assert!(name == "/dev/null" || name.starts_with("pipe:"), "descriptor {n} of {pid}: {name}");
    }
}

fn answers_are_whole(server: &Server) {
    let mut clients: Vec<_> = (0..12).map(|_| server.connect()).collect();
    for _ in 0..2 {
        for client in &mut clients {
            assert_eq!(client.ask("x").unwrap(), "end");
        }
    }
    let family = server.workers().into_iter().chain([server.pid]);
    family.for_each(has_no_socket_in_place);
    assert_eq!(proc::children(server.pid).len(), 2);
}

#[test]
fn what_a_handler_in_c_prints_never_reaches_a_client() {
    let program = host(HOST);
    for closed in [ALL, "0<&-", "1>&-", "2>&-"] {
        let mut server = start(Style::Request, program.clone(), &["request", "master"], closed);
        server.may_say("printed");
        answers_are_whole(&server);
        server.stop();
    }
    let server = start(Style::Request, program.clone(), &["request", "master", "start"], ALL);
    answers_are_whole(&server);
    server.stop();
    for mode in Mode::ALL {
        for style in [Style::Request, Style::Data] {
            let name = if style == Style::Data { "data" } else { "request" };
            let server = start(style, program.clone(), &[name, mode.name()], ALL);
            answers_are_whole(&server);
            server.stop();
        }
    }
}

#[test]
fn what_a_handler_in_rust_prints_never_reaches_a_client() {
    // It closes them itself: Rust opens what is missing when a program begins.
    let server = start(Style::Request, example("faults"), &["closed", "request"], "");
    answers_are_whole(&server);
    server.stop();
}

#[test]
fn descriptors_that_a_module_closes_at_its_start_are_no_connections() {
    let module = compile(&HOST.replace("int main", MODULE), &[]);
    for closed in ["", ALL] {
        let words = ["--workers", "2", "--listen", "127.0.0.1:0", module.to_str().unwrap()];
        // The program prints its addresses to standard output.
        let closed = closed.replace("1>&-", "");
        let server = start(Style::Request, env!("CARGO_BIN_EXE_prefork").into(), &words, &closed);
        answers_are_whole(&server);
        server.stop();
    }
}

/// Makes the host a module.
const MODULE: &str = r#"
    static int worker_start(prefork_worker *worker, void **state)
    {
        (void)worker, (void)state;
        return close(0) + close(1) + close(2);
    }

    PREFORK_MODULE(.worker_start = worker_start, .on_request = on_request)

    int main"#;
