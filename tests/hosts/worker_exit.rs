//! A host in Rust that says what runs at the end of its worker. `WORKER_EXIT` is the setting.
#![allow(unsafe_code)]

use prefork::{Handler, Kind, Request, Response, Server, Worker};

struct Host;

impl Handler for Host {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, _: &Request<'_>, res: &mut Response) {
        print!("buffered");
        let _ = res.body("ok");
    }

    fn stop(&mut self, _: &Worker) {
        eprintln!("worker_stop");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        eprintln!("drop");
    }
}

extern "C" fn at_exit() {
    eprintln!("exit handler");
}

fn main() {
    let how = std::env::var("WORKER_EXIT").unwrap_or_default();
    let server = Server::factory(|_| {
        // SAFETY: the function does what an exit handler may, and lives as long as the process.
        unsafe { libc::atexit(at_exit) };
        Host
    });
    let server = server.listen("127.0.0.1:0").workers(1).set("worker-exit", &how);
    let ran = server.on_start(|started| println!("listening on http://{}", started.addresses[0])).run();
    if let Err(e) = ran {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
