//! The router with real socket pairs, and workers that the test plays.

use super::*;
use crate::message::{ALL_NUMBER as ALL, MASTER_NUMBER as MASTER, channel};
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;
use std::rc::Rc;

const MAX: usize = 100_000;

/// A router and the workers' results of its channels. Every channel is marked in every turn, whatever the poll would report.
struct Hub {
    router: Router,
    workers: BTreeMap<u32, Channel>,
    poll: Poll,
    now: u64,
}

/// A frame that a worker finds in its channel.
#[derive(PartialEq, Eq)]
enum Found {
    Notice(Notice),
    Message(Envelope, Vec<u8>),
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Notice(notice) => notice.fmt(f),
            Self::Message(envelope, bytes) => write!(f, "{envelope:?} with {} bytes", bytes.len()),
        }
    }
}

impl Hub {
    fn new(workers: u32) -> Self {
        let (router, poll) = (Router::default(), Poll::new().unwrap());
        let mut hub = Self { router, workers: BTreeMap::new(), poll, now: 1 };
        for id in 1..=workers {
            let (master, worker) = channel(MAX).unwrap();
            hub.router.add(WorkerId(id), Page(id), master);
            hub.workers.insert(id, worker);
        }
        hub
    }

    fn send(&mut self, envelope: Envelope, bytes: &[u8]) -> Result<(), Undelivered> {
        let worker = self.workers.get_mut(&envelope.from.into()).unwrap();
        worker.outbox.send(worker.socket.as_fd(), &envelope, bytes, Room::Needed)
    }

    /// Each worker sends what waits, then the router does what it can.
    fn turn(&mut self) -> Vec<RouterEvent> {
        for worker in self.workers.values_mut() {
            worker.outbox.flush(worker.socket.as_fd(), usize::MAX).unwrap();
        }
        let ids: Vec<WorkerId> = self.router.channels.keys().copied().collect();
        ids.into_iter().for_each(|id| self.router.mark(id));
        self.carry()
    }

    fn carry(&mut self) -> Vec<RouterEvent> {
        let mut budget = Budget::new(1 << 20, 1000);
        let now = Time::from_millis(self.now);
        let events = std::iter::from_fn(|| self.router.carry(&mut budget, now)).collect();
        self.router.update_poll(&self.poll);
        events
    }

    fn turns(&mut self, n: usize) -> Vec<RouterEvent> {
        (0..n).flat_map(|_| self.turn()).collect()
    }

    fn read(&mut self, id: u32) -> Option<Found> {
        let worker = self.workers.get_mut(&id).unwrap();
        let mut budget = Budget::new(usize::MAX, 1);
        match worker.inbox.receive(worker.socket.as_fd(), &mut budget).unwrap() {
            Received::Notice(notice) => Some(Found::Notice(notice)),
            Received::Message(envelope, bytes) => Some(Found::Message(envelope, bytes.into_owned())),
            _ => None,
        }
    }

    /// A worker results.
    fn dies(&mut self, id: u32) -> Vec<RouterEvent> {
        self.workers.remove(&id);
        self.router.read_rest(WorkerId(id));
        let mut events = self.turn();
        self.router.remove(WorkerId(id), &self.poll);
        events.extend(self.turn());
        events
    }

    fn watched(&self, id: u32) -> Option<Interest> {
        self.router.channels[&WorkerId(id)].watched
    }

    /// True if the router reads from a worker.
    fn reads(&self, id: u32) -> bool {
        self.watched(id).is_some_and(|i| i.read)
    }
}

fn message(from: u32, to: u32, kind: u32) -> Envelope {
    Envelope { purpose: Purpose::Message, from: from.into(), to: to.into(), kind, request: 0 }
}

fn request(from: u32, to: u32, number: u64) -> Envelope {
    Envelope { purpose: Purpose::Request, from: from.into(), to: to.into(), kind: 0, request: number }
}

fn failure(from: u32, to: u32, number: u64, reason: Undelivered) -> Option<Found> {
    let envelope =
        Envelope { purpose: Purpose::Failure, from: from.into(), to: to.into(), kind: 0, request: number };
    Some(Found::Message(envelope, vec![reason as u8]))
}

/// The results of the host's requests.
type Results = Rc<RefCell<Vec<Result<Vec<u8>, Undelivered>>>>;

fn keep(results: &Results) -> OnReply {
    let results = results.clone();
    Box::new(move |result| results.borrow_mut().push(result.map(<[u8]>::to_vec)))
}

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

fn call_all(events: Vec<RouterEvent>) {
    for event in events {
        if let RouterEvent::Reply(call, result) = event {
            call(result.as_deref().map_err(|e| *e));
        }
    }
}

#[test]
fn a_message_reaches_its_receiver_and_no_other() {
    let mut hub = Hub::new(3);
    for (kind, size) in [(0, 0), (1, 10), (2, 50_000), (3, MAX)] {
        hub.send(message(1, 2, kind), &vec![kind as u8; size]).unwrap();
        hub.turns(9);
        let expected = Found::Message(message(1, 2, kind), vec![kind as u8; size]);
        assert_eq!(hub.read(2), Some(expected));
    }
    assert_eq!((hub.read(1), hub.read(3)), (None, None));
    hub.send(message(1, MASTER, 7), b"host").unwrap();
    let events = hub.turn();
    assert!(
        matches!(&events[..], [RouterEvent::Message(envelope, bytes)] if *envelope == message(1, MASTER, 7) && bytes == b"host")
    );
    hub.send(message(1, 9, 0), b"nobody").unwrap();
    assert!(hub.turn().is_empty());
}

#[test]
fn a_broadcast_reaches_all_workers_except_its_sender() {
    let mut hub = Hub::new(4);
    for size in [5, 50_000] {
        hub.send(message(3, ALL, 1), &vec![9; size]).unwrap();
        hub.turns(3);
        for id in [1, 2, 4] {
            assert_eq!(hub.read(id), Some(Found::Message(message(3, id, 1), vec![9; size])));
        }
        assert_eq!(hub.read(3), None);
    }
    hub.router.send(ALL.into(), 2, b"host").unwrap();
    for id in 1..=4 {
        assert_eq!(hub.read(id), Some(Found::Message(message(MASTER, id, 2), b"host".to_vec())));
    }
}

#[test]
fn requests_that_cannot_be_answered_fail_at_once() {
    let mut hub = Hub::new(2);
    hub.send(request(1, 9, 1), b"").unwrap();
    hub.turn();
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::Gone(WorkerId(9)))));
    hub.send(request(1, ALL, 2), b"").unwrap();
    hub.turn();
    assert_eq!(hub.read(1), failure(ALL, 1, 2, Undelivered::Impossible));
}

#[test]
fn a_reply_without_a_request_is_dropped() {
    let mut hub = Hub::new(2);
    let reply = Envelope { purpose: Purpose::Reply, from: 2.into(), to: 1.into(), kind: 0, request: 1 };
    hub.send(reply, b"unasked").unwrap();
    hub.turn();
    assert_eq!(hub.read(1), None);
    hub.send(request(1, 2, 1), b"?").unwrap();
    hub.turn();
    assert_eq!(hub.read(2), Some(Found::Message(request(1, 2, 1), b"?".to_vec())));
    for _ in 0..2 {
        hub.send(reply, b"!").unwrap();
    }
    hub.turn();
    assert_eq!(hub.read(1), Some(Found::Message(reply, b"!".to_vec())));
    assert_eq!(hub.read(1), None, "it asked once");
}

#[test]
fn senders_that_await_replies_of_a_dead_worker_are_notified() {
    let mut hub = Hub::new(3);
    let results = Results::default();
    hub.router.request(2.into(), 0, b"", Time::NEVER, keep(&results)).unwrap();
    hub.router.request(1.into(), 0, b"", Time::NEVER, keep(&results)).unwrap();
    hub.send(request(1, 2, 5), b"").unwrap();
    hub.send(request(1, 2, 6), b"").unwrap();
    hub.turn();
    // The last message of the dying worker answers one of them.
    hub.send(
        Envelope { purpose: Purpose::Reply, from: 2.into(), to: 1.into(), kind: 0, request: 5 },
        b"late",
    )
    .unwrap();
    call_all(hub.dies(2));
    assert_eq!(*results.borrow(), [Err(Undelivered::Gone)]);
    assert!(matches!(hub.read(1), Some(Found::Message(l, _)) if l.purpose == Purpose::Request));
    assert!(matches!(hub.read(1), Some(Found::Message(l, _)) if l.request == 5));
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::Gone(WorkerId(2)))));
    assert_eq!((hub.read(1), hub.read(3)), (None, None));
    assert_eq!(hub.router.send(2.into(), 0, b""), Err(Undelivered::Gone));
}

#[test]
fn the_hosts_requests_are_answered_or_expire() {
    let mut hub = Hub::new(1);
    let results = Results::default();
    assert_eq!(hub.router.request(ALL.into(), 0, b"", at(9), keep(&results)), Err(Undelivered::Impossible));
    assert_eq!(
        hub.router.request(MASTER.into(), 0, b"", at(9), keep(&results)),
        Err(Undelivered::Impossible)
    );
    assert_eq!(hub.router.request(7.into(), 0, b"", at(9), keep(&results)), Err(Undelivered::Gone));
    for deadline in [300, 100, 200] {
        hub.router.request(1.into(), 0, b"", at(deadline), keep(&results)).unwrap();
    }
    assert_eq!(hub.router.due(), at(100));
    let reply = Envelope { purpose: Purpose::Reply, from: 1.into(), to: MASTER.into(), kind: 0, request: 3 };
    hub.send(reply, b"third").unwrap();
    call_all(hub.turn());
    hub.now = 150;
    call_all(hub.turn());
    assert_eq!(*results.borrow(), [Ok(b"third".to_vec()), Err(Undelivered::TimedOut)]);
    assert_eq!(hub.router.due(), at(300));
}

/// A turn in which the poll has reported no channel, with a budget that is soon spent.
fn short_turn(hub: &mut Hub) -> Vec<RouterEvent> {
    let mut budget = Budget::new(1 << 20, 10);
    let now = Time::from_millis(hub.now);
    std::iter::from_fn(|| hub.router.carry(&mut budget, now)).collect()
}

#[test]
fn a_reply_that_came_before_the_deadline_counts_however_late_it_is_read() {
    let mut hub = Hub::new(2);
    let results = Results::default();
    hub.router.request(1.into(), 0, b"", at(300), keep(&results)).unwrap();
    hub.router.request(2.into(), 0, b"", at(300), keep(&results)).unwrap();
    for kind in 0..100 {
        hub.send(message(1, MASTER, kind), b"before it").unwrap();
    }
    let reply = Envelope { purpose: Purpose::Reply, from: 1.into(), to: MASTER.into(), kind: 0, request: 1 };
    hub.send(reply, b"in time").unwrap();
    // A callback of the host takes so long.
    hub.now = 900;
    let mut turns = 0;
    while results.borrow().len() < 2 {
        assert_eq!(hub.router.due(), if turns == 0 { at(300) } else { Time::default() });
        call_all(short_turn(&mut hub));
        turns += 1;
        hub.now += 1;
    }
    assert_eq!(*results.borrow(), [Err(Undelivered::TimedOut), Ok(b"in time".to_vec())]);
    assert!((10..20).contains(&turns), "{turns} turns, each bounded as ever");
    assert_eq!(hub.router.due(), Time::NEVER);
}

#[test]
fn a_deadline_comes_whatever_the_worker_sends_or_begins_to_send() {
    let mut hub = Hub::new(2);
    let results = Results::default();
    hub.router.request(1.into(), 0, b"", at(300), keep(&results)).unwrap();
    hub.router.request(2.into(), 0, b"", at(300), keep(&results)).unwrap();
    // The first part of a frame, whose rest does not come.
    let part = &encode_message(&message(1, MASTER, 0), &[7; 50_000])[..30_000];
    assert_eq!(crate::sys::socket::send(hub.workers[&1].socket.as_fd(), part).unwrap(), part.len());
    hub.now = 300;
    for _ in 0..20 {
        // More than a turn reads.
        for kind in 0..30 {
            hub.send(message(2, MASTER, kind), b"on and on").unwrap();
        }
        hub.router.mark(WorkerId(2));
        call_all(short_turn(&mut hub));
        hub.now += 1;
    }
    assert_eq!(*results.borrow(), [Err(Undelivered::TimedOut), Err(Undelivered::TimedOut)]);
}

#[test]
fn a_queue_is_not_overflowing_if_its_worker_has_taken_all_that_the_socket_held() {
    let mut hub = Hub::new(2);
    fill(&mut hub);
    while hub.read(2).is_some() {}
    // A callback of the host takes so long.
    hub.now = (at(1) + PATIENCE).as_millis();
    assert!(hub.turn().is_empty());
}

#[test]
fn a_frame_that_workers_may_not_send_breaks_the_channel() {
    let forged = message(2, 3, 0);
    for say in [
        &|w: &mut Channel| {
            w.outbox.notify(w.socket.as_fd(), &Notice::Drain { hand_back: true, patience: 1 }).unwrap() as _
        },
        &|w: &mut Channel| w.outbox.send(w.socket.as_fd(), &forged, b"", Room::Needed).unwrap(),
        &|w: &mut Channel| assert_eq!(crate::sys::socket::send(w.socket.as_fd(), b"no frame").unwrap(), 8),
    ] as [&dyn Fn(&mut Channel); 3]
    {
        let mut hub = Hub::new(3);
        hub.turn();
        say(hub.workers.get_mut(&1).unwrap());
        assert!(
            matches!(&hub.turn()[..], [RouterEvent::Broken(WorkerId(1), e)] if e.kind() == io::ErrorKind::InvalidData)
        );
        assert_eq!(hub.watched(1), None);
        assert!(hub.turns(3).is_empty(), "it is reported once");
        assert_eq!(hub.read(3), None);
    }
}

#[test]
fn a_closed_channel_is_reported_once_and_not_watched() {
    let mut hub = Hub::new(2);
    hub.turn();
    let worker = hub.workers.remove(&1).unwrap();
    drop(worker);
    assert!(matches!(&hub.turn()[..], [RouterEvent::Closed(WorkerId(1))]));
    assert!(hub.turns(3).is_empty());
    assert_eq!(hub.watched(1), None);
}

/// Worker 1 sends to worker 2, which does not read, until it is refused.
fn fill(hub: &mut Hub) -> u32 {
    for kind in 0.. {
        if hub.send(message(1, 2, kind), &[7; 90_000]).is_err() {
            return kind;
        }
        hub.turns(2);
    }
    unreachable!()
}

/// Here channels are marked as the poll would report them.
#[test]
fn a_parked_message_is_not_forgotten_when_its_sender_takes_something() {
    let mut hub = Hub::new(2);
    fill(&mut hub);
    while hub.router.send(1.into(), 0, &[9; 90_000]).is_ok() {}
    assert!(hub.read(1).is_some());
    let parked = |hub: &Hub| hub.router.channels[&WorkerId(1)].parked.is_some();
    hub.router.mark(WorkerId(1));
    hub.carry();
    assert!(parked(&hub));
    for _ in 0..20 {
        hub.read(2);
        hub.router.mark(WorkerId(2));
        hub.carry();
    }
    assert!(!parked(&hub));
}

#[test]
fn a_full_queue_stops_its_sender_and_loses_nothing() {
    let mut hub = Hub::new(3);
    let sent = fill(&mut hub);
    assert!((8..25).contains(&sent), "{sent} of 90 kB: four here, four there, and what sockets hold");
    assert!(!hub.reads(1) && hub.reads(2) && hub.reads(3));
    // Other workers are not affected, except that a request to the full one fails.
    hub.send(message(3, 1, 0), b"hello").unwrap();
    hub.send(request(3, 2, 1), &[0; 90_000]).unwrap();
    hub.turns(3);
    assert_eq!(hub.read(1), Some(Found::Message(message(3, 1, 0), b"hello".to_vec())));
    assert_eq!(hub.read(3), failure(2, 3, 1, Undelivered::Full));
    for kind in 0..sent {
        let mut found = hub.read(2);
        while found.is_none() {
            hub.turn();
            found = hub.read(2);
        }
        assert_eq!(found, Some(Found::Message(message(1, 2, kind), vec![7; 90_000])));
    }
    hub.turn();
    assert!(hub.reads(1));
    assert_eq!(hub.router.due(), Time::NEVER);
}

#[test]
fn a_worker_that_takes_nothing_for_long_is_overflowing_until_it_does() {
    let mut hub = Hub::new(3);
    fill(&mut hub);
    assert_eq!(hub.router.due(), at(1) + PATIENCE);
    hub.now = (at(1) + PATIENCE).as_millis();
    let events = hub.turns(20);
    assert!(matches!(events[..], [RouterEvent::Overflowing(WorkerId(2))]));
    assert_eq!(hub.router.due(), Time::NEVER);
    assert!(hub.reads(1));
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::Overflowing(WorkerId(2)))));
    assert_eq!(hub.read(1), None, "it is notified once");
    assert!(hub.workers[&1].outbox.is_empty());
    // Worker 2 reads again.
    let mut taken = 0;
    for _ in 0..100 {
        taken += u32::from(hub.read(2).is_some());
        hub.turn();
    }
    assert!(taken >= 4);
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::HasRoom(WorkerId(2)))));
    hub.send(message(1, 2, 99), b"again").unwrap();
    hub.turn();
    assert_eq!(hub.read(2), Some(Found::Message(message(1, 2, 99), b"again".to_vec())));
}

#[test]
fn a_sender_notified_of_an_overflow_is_notified_of_the_death_too() {
    let mut hub = Hub::new(2);
    fill(&mut hub);
    hub.now = (at(1) + PATIENCE).as_millis();
    hub.turns(20);
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::Overflowing(WorkerId(2)))));
    hub.dies(2);
    assert_eq!(hub.read(1), Some(Found::Notice(Notice::Gone(WorkerId(2)))));
}

#[test]
fn the_last_messages_of_a_dying_worker_bypass_a_full_queue() {
    let mut hub = Hub::new(2);
    let sent = fill(&mut hub);
    hub.dies(1);
    let mut found = Vec::new();
    for _ in 0..10 * sent {
        hub.turn();
        found.extend(hub.read(2));
    }
    let kinds: Vec<u32> =
        found.iter().map(|f| if let Found::Message(l, _) = f { l.kind } else { u32::MAX }).collect();
    assert!(kinds.len() as u32 >= sent - 6, "all except those in its own queue: {kinds:?} of {sent}");
    assert_eq!(kinds, (0..kinds.len() as u32).collect::<Vec<_>>());
}

#[test]
fn a_worker_that_does_not_read_is_not_read_either() {
    let mut hub = Hub::new(1);
    let mut number = 0;
    // Each request goes to no worker, and the notice of that bypasses the limit.
    while hub.send(request(1, 9, number), b"").is_ok() {
        number += 1;
        if number % 1000 == 0 {
            hub.turn();
        }
    }
    let waiting = hub.router.channels[&WorkerId(1)].outbox.waiting();
    let capacity = hub.router.channels[&WorkerId(1)].outbox.capacity();
    assert!(waiting > capacity && waiting < capacity + 100_000, "{waiting}, more than {capacity}");
    assert!(!hub.reads(1));
}

/// Messages in sockets, partly read, parked and partly sent.
#[test]
fn a_router_that_is_saved_and_restored_loses_nothing() {
    for extra in 0..5 {
        let mut hub = Hub::new(3);
        let sent = fill(&mut hub);
        hub.send(request(3, 1, 5), b"?").unwrap();
        hub.turns(extra);
        let mut next = Router::default();
        for id in 1..=3 {
            let (id, page) = (WorkerId(id), Page(id));
            let state = hub.router.save(id).unwrap();
            let socket = hub.router.channel(id).unwrap().try_clone_to_owned().unwrap();
            next.restore(id, page, socket, MAX, state);
        }
        hub.router = next;
        for kind in 0..sent {
            let mut found = hub.read(2);
            for _ in 0..20 {
                hub.turn();
                found = found.or_else(|| hub.read(2));
            }
            assert_eq!(found, Some(Found::Message(message(1, 2, kind), vec![7; 90_000])));
        }
        assert!(matches!(hub.read(1), Some(Found::Message(l, _)) if l.purpose == Purpose::Request));
        let reply = Envelope { purpose: Purpose::Reply, from: 1.into(), to: 3.into(), kind: 0, request: 5 };
        hub.send(reply, b"!").unwrap();
        hub.turn();
        assert_eq!(hub.read(3), Some(Found::Message(reply, b"!".to_vec())));
    }
}

#[test]
fn a_turn_is_bounded_and_fair() {
    let mut hub = Hub::new(3);
    for kind in 0..500 {
        hub.send(message(1, MASTER, kind), b"many").unwrap();
    }
    hub.send(message(2, MASTER, 0), b"few").unwrap();
    (1..=2).for_each(|id| hub.router.mark(WorkerId(id)));
    let mut budget = Budget::new(1 << 20, 100);
    let mut from = Vec::new();
    while let Some(RouterEvent::Message(envelope, _)) = hub.router.carry(&mut budget, at(1)) {
        from.push(u32::from(envelope.from));
    }
    assert_eq!(from.len(), 100);
    assert!(from.contains(&2));
    assert_eq!(hub.router.due(), Time::default());
}

/// What the router reads, and what it sends of long messages, in one turn.
#[test]
fn a_turn_moves_no_more_bytes_than_its_budget() {
    let mut hub = Hub::new(4);
    let unread = |fd: BorrowedFd<'_>| crate::sys::socket::unread(fd).unwrap();
    let mut moved_at_all = 0;
    for kind in 0..300 {
        let _ = hub.send(message(1, 2, kind), &[1; 90_000]);
        let _ = hub.send(message(3, 4, kind), &[3; 90_000]);
        hub.workers.values_mut().for_each(|w| drop(w.outbox.flush(w.socket.as_fd(), usize::MAX)));
        let to_read =
            |hub: &Hub| -> usize { hub.router.channels.values().map(|c| unread(c.socket.as_fd())).sum() };
        let sent = |hub: &Hub| -> usize { hub.workers.values().map(|w| unread(w.socket.as_fd())).sum() };
        let before = (to_read(&hub), sent(&hub));
        (1..=4).for_each(|id| hub.router.mark(WorkerId(id)));
        let mut budget = Budget::new(8 * 1024, 4);
        assert!(hub.router.carry(&mut budget, at(1)).is_none());
        let moved = before.0 - to_read(&hub) + sent(&hub) - before.1;
        assert!(moved <= 8 * 1024, "{moved} bytes in turn {kind}");
        moved_at_all += moved;
        hub.router.update_poll(&hub.poll);
        if kind % 3 == 0 {
            for id in [2, 4] {
                hub.read(id);
            }
        }
    }
    assert!(moved_at_all > 200 * 8 * 1024, "{moved_at_all}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whichever worker reads when: each message that a sender could send arrives at each receiver, once and in order.
    #[test]
    fn nothing_is_lost_and_nothing_overtakes(
        steps in vec((1..=3u32, 0..=4u32, prop_oneof![0..300usize, 0..=MAX], any::<bool>()), 1..150),
    ) {
        let mut hub = Hub::new(3);
        let mut expected: BTreeMap<(u32, u32), VecDeque<(u32, usize)>> = BTreeMap::new();
        let (mut hosts, mut kind) = (VecDeque::new(), 0);
        let check = |hub: &mut Hub, expected: &mut BTreeMap<(u32, u32), VecDeque<(u32, usize)>>, id| {
            if let Some(found) = hub.read(id) {
                let Found::Message(l, bytes) = found else { panic!("{found:?}") };
                let next = expected.get_mut(&(l.from.into(), id)).and_then(VecDeque::pop_front);
                assert_eq!(next, Some((l.kind, bytes.len())));
                assert!(bytes.iter().all(|b| *b == l.kind as u8));
            }
        };
        let receive = |events: Vec<RouterEvent>, hosts: &mut VecDeque<(u32, u32, usize)>| {
            for event in events {
                let RouterEvent::Message(envelope, bytes) = event else { panic!() };
                let at = hosts.iter().position(|h| envelope.from == h.0.into()).unwrap();
                let (_, kind, len) = hosts.remove(at).unwrap();
                assert_eq!((kind, len), (envelope.kind, bytes.len()));
            }
        };
        for (from, to, size, reads) in steps {
            kind += 1;
            let to = if to == 4 { ALL } else { to };
            if hub.send(message(from, to, kind), &vec![kind as u8; size]).is_ok() {
                match to {
                    MASTER => hosts.push_back((from, kind, size)),
                    ALL => for id in (1..=3).filter(|id| *id != from) {
                        expected.entry((from, id)).or_default().push_back((kind, size));
                    },
                    _ => expected.entry((from, to)).or_default().push_back((kind, size)),
                }
            }
            receive(hub.turn(), &mut hosts);
            if reads {
                check(&mut hub, &mut expected, from);
            }
            for channel in hub.router.channels.values() {
                prop_assert!(channel.outbox.waiting() <= channel.outbox.capacity());
            }
        }
        for _ in 0..2000 {
            receive(hub.turn(), &mut hosts);
            (1..=3).for_each(|id| check(&mut hub, &mut expected, id));
            if expected.values().all(VecDeque::is_empty) {
                break;
            }
        }
        prop_assert!(expected.values().all(VecDeque::is_empty) && hosts.is_empty());
    }
}
