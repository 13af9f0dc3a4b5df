//! The workers and the clients of a thread, and the turns that they take until none has anything to do. It is the workers' master: it
//! carries their messages and the connections that go from one to another.

use super::{Board, TestMessage};
use crate::handoff::{Given, HandoffEnd, Origin, Passed, Taken};
use crate::ids::WorkerId;
use crate::message::{Address, Budget, Channel, Envelope, Notice, Purpose, Received, Room, Undelivered};
use crate::sys::test_thread;
use crate::sys::time::Time;
use crate::worker::stepped::Stepped;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// What one turn carries of a worker's messages.
const MESSAGES: Budget = Budget::new(1 << 20, 1024);
/// The time for which a worker waits for its threads and descriptors before others have their turn.
const WAIT: Duration = Duration::from_millis(5);

/// The reply to a request of this number.
pub type Reply = (u64, Result<Vec<u8>, Undelivered>);

/// A worker of this thread.
pub struct Place {
    pub id: u32,
    pub stepped: RefCell<Stepped>,
    pub queue: HandoffEnd,
    pub channel: RefCell<Channel>,
    /// The other ends of the sockets for datagrams, by listener.
    pub datagrams: Vec<Option<OwnedFd>>,
    /// The worker that goes on with what this one gives back.
    pub successor: Cell<Option<u32>>,
    /// What it has sent to nobody here.
    pub sent: RefCell<Vec<TestMessage>>,
    /// Replies to requests of the test, by their numbers.
    pub replies: RefCell<Vec<Reply>>,
    /// The longest time for everything to come to rest.
    pub patience: Duration,
    /// The most that it may take to finish; zero is no limit.
    pub drain_timeout: Duration,
    pub catches_panics: bool,
    pub max_message: usize,
    /// Its worker has the pages as long as it runs.
    pub _board: Board,
}

/// A client, as the stage moves it.
pub trait Actor {
    /// Sends and receives what is possible now. True if anything was.
    fn pump(&self) -> bool;
}

#[derive(Default)]
struct Stage {
    workers: Vec<Weak<Place>>,
    clients: Vec<Weak<dyn Actor>>,
}

thread_local! {
    static STAGE: RefCell<Stage> = RefCell::default();
}

/// Nothing more happens by itself, and what was waited for has not.
#[derive(Debug)]
pub struct Stuck {
    /// What would go on later.
    pub why: String,
}

fn workers() -> Vec<Rc<Place>> {
    STAGE.with_borrow_mut(|stage| {
        stage.workers.retain(|worker| worker.strong_count() > 0);
        stage.workers.iter().filter_map(Weak::upgrade).collect()
    })
}

fn clients() -> Vec<Rc<dyn Actor>> {
    STAGE.with_borrow_mut(|stage| {
        stage.clients.retain(|client| client.strong_count() > 0);
        stage.clients.iter().filter_map(Weak::upgrade).collect()
    })
}

/// Adds a worker to those of this thread.
pub fn add_worker(worker: &Rc<Place>) {
    STAGE.with_borrow_mut(|stage| stage.workers.push(Rc::downgrade(worker)));
}

/// Adds a client to those of this thread.
pub fn add_client(client: Weak<dyn Actor>) {
    STAGE.with_borrow_mut(|stage| stage.clients.push(client));
}

/// The first number that no worker of this thread has.
pub fn free_id() -> u32 {
    workers().iter().map(|worker| worker.id).max().unwrap_or(0) + 1
}

pub fn is_taken(id: u32) -> bool {
    find(id).is_some()
}

fn find(id: u32) -> Option<Rc<Place>> {
    workers().into_iter().find(|worker| worker.id == id)
}

/// Lets all workers and clients of this thread do what they have to do now. Returns when the next of them has something to do.
#[track_caller]
pub fn settle() -> Time {
    let due = settle_quietly();
    raise();
    due
}

/// As [`settle`], and leaves panics of callbacks for later.
#[track_caller]
pub fn settle_quietly() -> Time {
    let begun = Instant::now();
    loop {
        let (mut is_busy, mut next, now) = (false, Time::NEVER, Time::now());
        let workers = workers();
        for worker in &workers {
            let due = worker.turn(Duration::ZERO);
            is_busy |= due <= now;
            next = next.min(due);
            is_busy |= worker.carry();
        }
        for client in clients() {
            is_busy |= client.pump();
        }
        if !is_busy {
            return next;
        }
        let patience = workers.iter().map(|worker| worker.patience).max().unwrap_or_default();
        assert!(
            begun.elapsed() < patience,
            "the workers of this test do not come to rest within {patience:?}: a callback may cause the next one for ever"
        );
    }
}

/// Raises the first panic of a callback in the test, unless a worker keeps them.
fn raise() {
    if workers().iter().any(|worker| worker.catches_panics) {
        return;
    }
    if let Some(panic) = test_thread::take_panics().into_iter().next() {
        resume_unwind(panic);
    }
}

/// As [`settle`], until a condition holds. While threads or watched descriptors of handlers may do something, that takes real time.
///
/// # Errors
/// Why it never will.
#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool) -> Result<(), Stuck> {
    let begun = Instant::now();
    loop {
        let next = settle();
        if condition() {
            return Ok(());
        }
        let workers = workers();
        let awake = workers.iter().filter(|worker| worker.stepped().may_be_woken()).collect::<Vec<_>>();
        let patience = workers.iter().map(|worker| worker.patience).max().unwrap_or_default();
        if awake.is_empty() || begun.elapsed() >= patience {
            let waited = match awake.is_empty() {
                true => "the worker has nothing to do".to_owned(),
                false => format!("nothing has come from its threads and descriptors for {patience:?}"),
            };
            let later = match next {
                Time::NEVER => String::new(),
                next => format!(
                    " before its next timer or deadline, in {:?}: TestWorker::advance",
                    next - Time::now()
                ),
            };
            return Err(Stuck { why: waited + &later });
        }
        for worker in awake {
            worker.turn(WAIT);
        }
    }
}

/// Advances the clock of this thread, and has everything happen on its way that is due, in order.
#[track_caller]
pub fn advance(by: Duration) {
    let until = Time::now() + by;
    loop {
        let next = settle();
        if next > until {
            break;
        }
        test_thread::advance_to(next);
    }
    test_thread::advance_to(until);
    settle();
}

impl Place {
    /// The worker.
    ///
    /// # Panics
    /// In one of its callbacks.
    #[track_caller]
    pub fn stepped(&self) -> RefMut<'_, Stepped> {
        match self.stepped.try_borrow_mut() {
            Ok(stepped) => stepped,
            Err(_) => panic!("a callback of a worker uses the test that runs it"),
        }
    }

    #[track_caller]
    fn turn(&self, longest: Duration) -> Time {
        match self.stepped().turn(longest) {
            Ok(due) => due,
            Err(e) => panic!("epoll_wait: {e}"),
        }
    }

    /// Orders the worker to drain; if `hands_back` is set, others stay, and get what it gives back.
    pub fn order_drain(&self, hands_back: bool) {
        let patience = u32::try_from(self.drain_timeout.as_millis()).unwrap_or(u32::MAX);
        self.notify(&Notice::Drain { hand_back: hands_back, patience });
    }

    pub fn notify(&self, notice: &Notice) {
        let Channel { socket, outbox, .. } = &mut *self.channel.borrow_mut();
        // Fails if the worker has ended.
        let _ = outbox.notify(socket.as_fd(), notice);
    }

    /// Sends the worker a message.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Gone`].
    pub fn send(&self, envelope: &Envelope, bytes: &[u8]) -> Result<(), Undelivered> {
        let Channel { socket, outbox, .. } = &mut *self.channel.borrow_mut();
        if bytes.len() > self.max_message {
            return Err(Undelivered::TooLarge);
        }
        outbox.send(socket.as_fd(), envelope, bytes, Room::Ignored)
    }

    /// Gives the worker a connection. False if it has ended.
    #[track_caller]
    pub fn give(&self, passed: &Passed, origin: Origin) -> bool {
        loop {
            let state = passed.state.as_ref().map(AsFd::as_fd);
            match self.queue.give(std::iter::once((passed.fd.as_fd(), state, origin))) {
                Ok(Given::Done) => return true,
                Ok(Given::Full) => drop(self.turn(Duration::ZERO)),
                Ok(Given::Gone) | Err(_) => return false,
            }
        }
    }

    /// Carries what the worker has sent. True if that was anything.
    #[track_caller]
    fn carry(&self) -> bool {
        let (mut messages, mut notices) = (VecDeque::new(), VecDeque::new());
        {
            let Channel { socket, inbox, outbox } = &mut *self.channel.borrow_mut();
            let _ = outbox.flush(socket.as_fd(), usize::MAX);
            let mut budget = MESSAGES;
            loop {
                match inbox.receive(socket.as_fd(), &mut budget) {
                    Ok(Received::Message(envelope, bytes)) => {
                        messages.push_back((envelope, bytes.into_owned()))
                    }
                    Ok(Received::Notice(notice)) => notices.push_back(notice),
                    _ => break,
                }
            }
        }
        let mut is_busy = !messages.is_empty() || !notices.is_empty();
        for (envelope, bytes) in messages {
            self.route(envelope, bytes);
        }
        for notice in notices {
            match notice {
                Notice::Leaving => self.order_drain(self.successor.get().is_some()),
                Notice::TookOver { giver, count } => {
                    if let Some(giver) = find(giver.0) {
                        giver.notify(&Notice::Settled(count));
                    }
                }
                _ => {}
            }
        }
        while let Ok(Taken::Connections(message)) = self.queue.take() {
            is_busy = true;
            for (passed, origin) in message {
                self.pass_on(&passed, origin);
            }
        }
        is_busy
    }

    /// Gives a connection that has come from this worker to the one that is to have it.
    #[track_caller]
    fn pass_on(&self, passed: &Passed, mut origin: Origin) {
        let successor = self.successor.get();
        let Some(stream) = &mut origin.stream else {
            // An idle connection, which is closed if there is no other worker.
            if let Some(other) = successor.and_then(find) {
                other.give(passed, origin);
            }
            return;
        };
        if stream.is_refused {
            if let Some(giver) = stream.giver.and_then(|giver| find(giver.0)) {
                giver.give(passed, origin);
            }
            return;
        }
        stream.giver = Some(WorkerId(self.id));
        let taker = stream.taker.filter(|taker| taker.0 != 0).map(|taker| taker.0).or(successor);
        let taker = taker.filter(|taker| *taker != self.id).and_then(find);
        if taker.is_some_and(|taker| taker.give(passed, origin)) {
            return;
        }
        // There is no such worker, so it comes back.
        if let Some(stream) = &mut origin.stream {
            stream.is_refused = true;
        }
        self.give(passed, origin);
    }

    /// Takes a message to the workers of this thread that it is for; if there is none, to the test.
    fn route(&self, envelope: Envelope, bytes: Vec<u8>) {
        match envelope.to {
            Address::Worker(WorkerId(id)) if id == self.id => {
                let _ = self.send(&envelope, &bytes);
            }
            Address::All => {
                for other in workers().iter().filter(|other| other.id != self.id) {
                    let _ = other.send(&envelope, &bytes);
                }
                self.record(envelope, bytes);
            }
            Address::Worker(WorkerId(id)) => match find(id) {
                Some(other) => drop(other.send(&envelope, &bytes)),
                None => self.record(envelope, bytes),
            },
            Address::Master => self.record(envelope, bytes),
        }
    }

    fn record(&self, envelope: Envelope, bytes: Vec<u8>) {
        let result = match envelope.purpose {
            Purpose::Reply => Ok(bytes),
            Purpose::Failure => Err(Undelivered::from_bytes(&bytes)),
            _ => return self.sent.borrow_mut().push(TestMessage::new(envelope, bytes)),
        };
        self.replies.borrow_mut().push((envelope.request, result));
    }
}
