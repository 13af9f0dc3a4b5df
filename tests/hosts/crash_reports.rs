//! A host in Rust whose handler crashes as the path says, and that prints what its events say of that.

use prefork::{Event, Server};

#[inline(never)]
fn planted_abort() {
    std::process::abort();
}

fn main() {
    let server = Server::http(|req, res| {
        if req.path() == "/abort" {
            planted_abort();
        }
        res.body("ok")
    });
    let server = server.listen("127.0.0.1:0").workers(1).on_event(|event| {
        if let Event::Exit { exit, crash: Some(crash), .. } = event {
            let is_named = crash.backtrace.iter().any(|frame| frame.contains("planted_abort"));
            let lasted = crash.lasted.is_some_and(|lasted| lasted.as_secs() < 60);
            println!("exit: {exit} {} {:?} {lasted} {is_named}", crash.callback, crash.request);
        }
    });
    let ran = server.on_start(|started| println!("listening on http://{}", started.addresses[0])).run();
    if let Err(e) = ran {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
