//! A host in Rust that serves in one process: `one_process`. It says what runs at its end.

use prefork::{Handler, Kind, Request, Response, Role, Server, Worker};

struct Host(Vec<u8>);

impl Handler for Host {
    fn kind(&self) -> Kind {
        Kind::Request
    }

    fn on_request(&mut self, req: &Request<'_>, res: &mut Response) {
        if req.path() == "/leave"
            && let Some(worker) = Worker::current()
        {
            worker.leave();
        }
        let _ = res.body(format!("{:?} {}", prefork::role(), self.0.len()));
    }

    fn stop(&mut self, _: &Worker) {
        eprintln!("stop");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        eprintln!("drop");
    }
}

fn main() {
    // One process may have threads.
    std::thread::spawn(std::thread::park);
    for run in 1..=2 {
        let server = Server::factory(|_| Host(vec![0; 7])).listen("127.0.0.1:0").set("one-process", "on");
        let server = server.on_event(|_| ()).on_start(|started| {
            println!("listening on http://{}", started.addresses[0]);
        });
        match server.run() {
            Ok(stopped) => eprintln!("run {run}: {stopped:?}, {}", prefork::role() == Role::None),
            Err(e) => eprintln!("run {run}: {e}"),
        }
    }
}
