//! The control server with clients that the test plays, and a lifecycle without processes.

use super::*;
use crate::event::{Exit, WorkerInfo};
use crate::master::lifecycle::{Ended, Input, Rules};
use crate::sys::fdpass;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// A server with two workers that are ready.
struct Fixture {
    control: ControlServer,
    life: Lifecycle,
    poll: Poll,
    peers: Vec<BufReader<UnixStream>>,
    directory: std::path::PathBuf,
}

impl Fixture {
    fn new(name: &str, clients: usize) -> Self {
        let directory = std::env::temp_dir().join(format!("prefork-{name}-{}", process::own_pid()));
        let (place, socket) = Place::make_in(&directory, "test").unwrap();
        let hello = Hello { prefork: "0".into(), protocol: VERSION, name: "test".into(), pid: 1 };
        let mut control = ControlServer {
            socket: Some((place, socket)),
            hello,
            clients: Default::default(),
            next_look: Time::NEVER,
            paused_until: Time::NEVER,
            reserve: FdReserve::new(0),
            is_short: false,
            pending: 0,
        };
        let poll = Poll::new().unwrap();
        let peers = (0..clients).map(|_| {
            let (ours, theirs) = fdpass::stream_pair().unwrap();
            control.add(ours, Peer { pid: 7, uid: 0 }, &poll, Time::default());
            let stream = UnixStream::from(theirs);
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            BufReader::new(stream)
        });
        let peers = peers.collect();
        let never = std::time::Duration::ZERO;
        let rules = Rules {
            boot_timeout: never,
            drain_timeout: never,
            hang_timeout: never,
            max_age: never,
            surge: 1,
            max_draining: 4,
            room: 100,
        };
        let mut f = Self { control, life: Lifecycle::new(rules, 2), poll, peers, directory };
        [Input::Tick, Input::Ready(WorkerId(1)), Input::Ready(WorkerId(2))]
            .into_iter()
            .for_each(|input| f.step(input));
        (0..clients).for_each(|client| assert!(f.reply(client).contains("hello")));
        f
    }

    fn step(&mut self, input: Input) {
        self.life.step(Time::from_millis(1), input, &mut Vec::new());
    }

    /// A client sends a request; returns the command that the master gets, which is still to be answered.
    fn send(&mut self, client: usize, request: &str) -> Option<Command> {
        self.peers[client].get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
        self.control.receive(client, false);
        let (from, command) = self.control.next_command(&self.life, &self.poll, Time::default())?;
        assert_eq!(from, client);
        Some(command)
    }

    fn answer(&mut self, client: usize, answer: Answer) {
        self.control.answer(client, answer, &self.life, Time::default());
        assert!(self.control.next_command(&self.life, &self.poll, Time::default()).is_none());
    }

    fn publish(&mut self, event: &Event) {
        self.control.publish(event, &self.life, Time::default());
    }

    fn reply(&mut self, client: usize) -> String {
        let mut line = String::new();
        self.peers[client].read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.control.socket = None;
        std::fs::remove_dir(&self.directory).unwrap();
    }
}

fn reload(state: ReloadState, generation: u32) -> Event {
    Event::Reload { state, generation, failure: None, code: None, connections: None }
}

fn worker(id: u32, slot: u32) -> WorkerInfo {
    WorkerInfo { id, slot, generation: 1, pid: 99 }
}

fn exit(id: u32, slot: u32, reason: Reason) -> Event {
    Event::Exit {
        worker: worker(id, slot),
        exit: Exit::Code(1),
        reason,
        intended: reason.is_intended(),
        stderr: Vec::new(),
        connections: None,
        crash: None,
    }
}

#[test]
fn a_scale_ends_when_all_workers_are_ready_or_another_is_asked_for() {
    let mut f = Fixture::new("scale", 2);
    assert!(matches!(f.send(0, r#"{"verb":"scale","by":1}"#), Some(Command::Scale(3))));
    assert!(f.reply(0).contains("accepted"));
    f.step(Input::Scale(3));
    f.answer(0, Answer::Accepted);
    f.publish(&Event::Fork { worker: worker(3, 2) });
    assert!(matches!(f.send(1, r#"{"verb":"scale","to":4}"#), Some(Command::Scale(4))));
    assert!(f.reply(1).contains("accepted"));
    f.step(Input::Scale(4));
    f.answer(1, Answer::Accepted);
    assert!(f.reply(0).contains("superseded by a scale to 4 workers"));
    for id in [3, 4] {
        f.step(Input::Ready(WorkerId(id)));
        f.publish(&Event::Ready { worker: worker(id, id - 1) });
    }
    assert_eq!(f.reply(1), "{\"reply\":\"scaled\",\"workers\":4}\n");
    assert_eq!(f.control.due(), Time::default(), "the clients may have sent more");
}

#[test]
fn a_new_worker_that_fails_ends_the_scale_and_an_exit_the_drain() {
    let mut f = Fixture::new("drain", 2);
    assert!(f.send(1, r#"{"verb":"drain","worker":9}"#).is_none());
    assert!(f.reply(1).contains("no such worker"));
    assert!(matches!(f.send(1, r#"{"verb":"drain","worker":2}"#), Some(Command::Drain(WorkerId(2)))));
    f.answer(1, Answer::Accepted);
    assert!(f.reply(1).contains("accepted"));
    assert!(f.send(0, r#"{"verb":"scale","to":3}"#).is_some());
    f.step(Input::Scale(3));
    f.answer(0, Answer::Accepted);
    assert!(f.reply(0).contains("accepted"));
    f.step(Input::Died(Ended {
        id: WorkerId(3),
        pid: 99,
        exit: Exit::Code(1),
        failure: None,
        stderr: Vec::new(),
        was_ready: false,
        queued: 0,
        lost: 0,
        cut: 0,
    }));
    f.publish(&exit(3, 2, Reason::BootFailure));
    assert!(f.reply(0).contains("worker 3 (slot 2) died before it was ready: exit code 1"));
    f.publish(&exit(2, 1, Reason::DrainTimeout));
    assert!(f.reply(1).contains(r#""worker":2,"exit":{"code":1},"killed":true"#));
}

#[test]
fn a_reload_ends_with_the_verdict_on_its_own_generation() {
    let mut f = Fixture::new("reload", 1);
    assert!(matches!(f.send(0, r#"{"verb":"reload"}"#), Some(Command::Reload)));
    f.answer(0, Answer::Accepted);
    assert!(f.reply(0).contains(r#""queued":false"#));
    for event in [
        reload(ReloadState::Committed, 2),
        reload(ReloadState::Started, 3),
        reload(ReloadState::Committed, 2),
    ] {
        f.publish(&event);
    }
    f.publish(&reload(ReloadState::Committed, 3));
    assert_eq!(f.reply(0), "{\"reply\":\"reload\",\"outcome\":\"committed\",\"generation\":3}\n");
}

#[test]
fn a_stop_refuses_what_comes_later_and_ends_with_the_run() {
    let mut f = Fixture::new("stop", 3);
    assert!(f.send(2, r#"{"verb":"reload"}"#).is_some());
    assert!(f.reply(2).contains("accepted"));
    assert!(matches!(f.send(0, r#"{"verb":"stop","now":true}"#), Some(Command::Stop { now: true })));
    f.step(Input::Stop);
    f.answer(0, Answer::Accepted);
    assert!(f.reply(0).contains("accepted"));
    assert!(f.reply(2).contains("the server is stopping"));
    assert!(f.send(1, r#"{"verb":"scale","to":1}"#).is_none());
    assert!(f.reply(1).contains("the server is stopping"));
    f.control.close(Stopped { killed: 5, cut: 2 }, Time::default());
    assert_eq!(f.reply(0), "{\"reply\":\"stopped\",\"killed\":5,\"cut\":2}\n");
}

#[test]
fn a_line_that_is_no_request_ends_the_connection_and_a_refused_command_does_not() {
    let mut f = Fixture::new("usage", 1);
    assert!(f.send(0, r#"{"verb":"scale","to":0}"#).is_none());
    assert!(f.reply(0).contains("expected 1 to 1024 workers, found 0 (2 run now)"));
    assert!(f.send(0, r#"{"verb":"reload"}"#).is_some());
    f.answer(0, Answer::Refused("not now".into()));
    assert!(f.reply(0).contains("accepted") && f.reply(0).contains("not now"));
    assert!(f.send(0, "reload").is_none());
    assert!(f.reply(0).contains(r#""kind":"usage""#));
    assert_eq!(f.reply(0), "", "closed");
}
