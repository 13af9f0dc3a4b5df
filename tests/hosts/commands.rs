//! A server in Rust whose callbacks give commands: `commands ADDRESS`. Workers send the master a word, and it does what that says.
#![allow(clippy::unwrap_used)]

use prefork::{Commands, ErrorKind, Event, MASTER, MessageKind, ReloadState, Server, Started, Worker};

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let server = Server::factory(|_| {
        prefork::http(|req, res| {
            let done = Worker::current().unwrap().send(MASTER, MessageKind(1), req.path().as_bytes());
            res.body(format!("{done:?}"))
        })
    });
    let commands = server.commands();
    refused(&commands, "the server does not run");
    let (at_start, at_event, at_message) = (commands.clone(), commands.clone(), commands.clone());
    let in_worker = commands.clone();
    let server = server.listen(&args[1]).workers(2).on_start(move |started| {
        println!("listening on {}", started.addresses[0]);
        grow(&at_start, started);
    });
    let server = server.on_event(move |event| match event {
        Event::Reload { state: ReloadState::Committed, generation: 2, .. } => at_event.reload().unwrap(),
        Event::Reload { state: ReloadState::Committed, generation, .. } => {
            println!("generation {generation}")
        }
        _ => {}
    });
    let server = server.on_message(move |_, message| match message.bytes() {
        b"/reload" => at_message.reload().unwrap(),
        b"/fork" => println!("slot {}", at_message.fork(&[("NAME", "value")]).unwrap()),
        b"/drain" => at_message.drain(1, None).unwrap(),
        b"/kill" => {
            let id = at_message.status().unwrap().workers[0].worker.id;
            at_message.kill(id, libc::SIGKILL).unwrap();
            println!("killed");
        }
        b"/none" => {
            let done = [at_message.drain(99, None), at_message.kill(99, 0)];
            assert!(done.iter().all(|done| done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Gone)));
            assert_eq!(at_message.scale(0).unwrap_err().kind(), ErrorKind::Config);
            println!("none");
        }
        b"/stop" => at_message.stop().unwrap(),
        other => panic!("{other:?}"),
    });
    let server = server.on_reload(move |generation| {
        println!("reload to {generation}");
        // In a process that this forks, or in a worker, it is refused.
        drop(in_worker.status().unwrap());
        Ok(())
    });
    server.run().unwrap();
    refused(&commands, "the server does not run");
}

fn grow(commands: &Commands, started: &Started) {
    commands.scale(started.workers + 1).unwrap();
    println!("{commands:?}");
}

fn refused(commands: &Commands, why: &str) {
    let done =
        [commands.reload(), commands.scale(1), commands.stop(), commands.drain(1, None), commands.kill(1, 0)];
    for error in done.into_iter().map(Result::unwrap_err) {
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::State, why));
    }
}
