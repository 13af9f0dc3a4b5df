//! A host in Rust with a file of its process id, which it removes after the run; for the tests: as `tests/pidfile.c`.
#![allow(clippy::unwrap_used)]

use prefork::{Result, Server, Stopped};
use std::io::Write;
use std::path::Path;
use std::{env, fs, thread};

fn main() {
    let args: Vec<String> = env::args().collect();
    let [_, how, dir, listen] = args.as_slice() else { panic!("pidfile run|start DIR ADDRESS") };
    let dir = Path::new(dir);
    let has = |name: &str| dir.join(name).exists();
    if has("leaves") {
        env::set_current_dir("/").unwrap();
    }
    if env::var_os("PREFORK_UPGRADE").is_none() {
        fs::write(dir.join("pid"), std::process::id().to_string()).unwrap();
    } else if has("guarded") {
        return;
    }
    if has("threads") {
        thread::spawn(thread::park);
    }
    let mut server = match has("missing") {
        true => Server::module("/nowhere.so"),
        false => Server::http(|_req, res| res.body("hello\n")),
    };
    if has("wrong") {
        server = server.set("workers", "many");
    }
    let server = server.workers(2).listen(listen).on_start(|started| {
        println!("listening on http://{}", started.addresses[0]);
        std::io::stdout().flush().unwrap();
    });
    let ended = if how == "run" { server.run() } else { step(server) };
    fs::remove_file(dir.join("pid")).unwrap();
    match ended {
        Ok(_) => println!("after"),
        Err(e) => println!("refused: {e}"),
    }
}

fn step(server: Server) -> Result<Stopped> {
    let mut running = server.set("signals", "on").start()?;
    loop {
        if let Some(stopped) = running.step(None)? {
            return Ok(stopped);
        }
    }
}
