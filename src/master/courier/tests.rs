//! The courier with real socket pairs, and workers that are a test's.

use super::*;
use crate::message::channel;
use proptest::collection::vec;
use proptest::prelude::*;
use std::cell::RefCell;

const MAX: usize = 100_000;

/// The workers' ends of channels, and the courier's, without a poll: every channel is looked at in every turn.
struct Town {
    courier: Courier,
    workers: BTreeMap<u32, Channel>,
    watched: BTreeMap<u32, Option<Interest>>,
    now: u64,
}

/// What a worker finds in its channel.
#[derive(PartialEq, Eq)]
enum Found {
    Verb(Verb),
    Letter(Label, Vec<u8>),
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verb(verb) => verb.fmt(f),
            Self::Letter(label, bytes) => write!(f, "{label:?} with {} bytes", bytes.len()),
        }
    }
}

impl Town {
    fn new(workers: u32) -> Self {
        let mut town =
            Self { courier: Courier::default(), workers: BTreeMap::new(), watched: BTreeMap::new(), now: 1 };
        for id in 1..=workers {
            let (master, worker) = channel(MAX).unwrap();
            town.courier.join(id, master);
            town.workers.insert(id, worker);
        }
        town
    }

    fn send(&mut self, label: Label, bytes: &[u8]) -> Result<(), Undelivered> {
        let worker = self.workers.get_mut(&label.from).unwrap();
        worker.outbox.send(worker.socket.as_fd(), &label, bytes, Room::Needed)
    }

    /// Everybody sends what waits, and the courier does what it can.
    fn turn(&mut self) -> Vec<Heard> {
        for worker in self.workers.values_mut() {
            worker.outbox.flush(worker.socket.as_fd(), usize::MAX).unwrap();
        }
        let ids: Vec<u32> = self.courier.inlets.keys().copied().collect();
        ids.into_iter().for_each(|id| self.courier.mark(id));
        let mut heard = Vec::new();
        let mut budget = Budget::new(1 << 20, 1000);
        while let Some(one) = self.courier.next(&mut budget, self.now) {
            heard.push(one);
        }
        let watched = &mut self.watched;
        self.courier.settle(|id, _, before, after| {
            assert_eq!(watched.insert(id, after).flatten(), before);
            Ok(())
        });
        heard
    }

    fn turns(&mut self, n: usize) -> Vec<Heard> {
        (0..n).flat_map(|_| self.turn()).collect()
    }

    fn read(&mut self, id: u32) -> Option<Found> {
        let worker = self.workers.get_mut(&id).unwrap();
        let mut budget = Budget::new(usize::MAX, 1);
        match worker.inbox.receive(worker.socket.as_fd(), &mut budget).unwrap() {
            Received::Verb(verb) => Some(Found::Verb(verb)),
            Received::Letter(l) => Some(Found::Letter(l.label, l.bytes.into_owned())),
            _ => None,
        }
    }

    /// A worker has ended.
    fn dies(&mut self, id: u32) -> Vec<Heard> {
        self.workers.remove(&id);
        self.courier.finish(id);
        let mut heard = self.turn();
        self.courier.leave(id, |_| {});
        heard.extend(self.turn());
        heard
    }

    fn reads(&self, id: u32) -> bool {
        self.watched[&id].is_some_and(|i| i.read)
    }
}

fn message(from: u32, to: u32, kind: u32) -> Label {
    Label { purpose: Purpose::Message, from, to, kind, request: 0 }
}

fn request(from: u32, to: u32, number: u64) -> Label {
    Label { purpose: Purpose::Request, from, to, kind: 0, request: number }
}

fn failure(from: u32, to: u32, number: u64, reason: Undelivered) -> Option<Found> {
    let label = Label { purpose: Purpose::Failure, from, to, kind: 0, request: number };
    Some(Found::Letter(label, vec![reason as u8]))
}

/// What the host's requests have come to.
type Ends = Rc<RefCell<Vec<Result<Vec<u8>, Undelivered>>>>;

fn keep(ends: &Ends) -> OnReply {
    let ends = ends.clone();
    Box::new(move |result| ends.borrow_mut().push(result.map(<[u8]>::to_vec)))
}

fn call_all(heard: Vec<Heard>) {
    for one in heard {
        if let Heard::Reply(call, result) = one {
            call(result.as_deref().map_err(|e| *e));
        }
    }
}

#[test]
fn letters_reach_whom_they_are_for() {
    let mut town = Town::new(3);
    for (kind, size) in [(0, 0), (1, 10), (2, 50_000), (3, MAX)] {
        town.send(message(1, 2, kind), &vec![kind as u8; size]).unwrap();
        town.turns(9);
        let expected = Found::Letter(message(1, 2, kind), vec![kind as u8; size]);
        assert_eq!(town.read(2), Some(expected));
    }
    assert_eq!((town.read(1), town.read(3)), (None, None));
    town.send(message(1, MASTER, 7), b"host").unwrap();
    let heard = town.turn();
    assert!(
        matches!(&heard[..], [Heard::Mail(mail)] if mail.label == message(1, MASTER, 7) && mail.bytes == b"host")
    );
    town.send(message(1, 9, 0), b"nobody").unwrap();
    assert!(town.turn().is_empty());
}

#[test]
fn a_broadcast_is_for_all_but_who_sends_it() {
    let mut town = Town::new(4);
    for size in [5, 50_000] {
        town.send(message(3, ALL, 1), &vec![9; size]).unwrap();
        town.turns(3);
        for id in [1, 2, 4] {
            assert_eq!(town.read(id), Some(Found::Letter(message(3, id, 1), vec![9; size])));
        }
        assert_eq!(town.read(3), None);
    }
    town.courier.send(ALL, 2, b"host").unwrap();
    for id in 1..=4 {
        assert_eq!(town.read(id), Some(Found::Letter(message(MASTER, id, 2), b"host".to_vec())));
    }
}

#[test]
fn requests_that_cannot_be_answered_fail_at_once() {
    let mut town = Town::new(2);
    town.send(request(1, 9, 1), b"").unwrap();
    town.turn();
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Gone(9))));
    town.send(request(1, ALL, 2), b"").unwrap();
    town.turn();
    assert_eq!(town.read(1), failure(ALL, 1, 2, Undelivered::Impossible));
}

#[test]
fn replies_go_only_to_those_who_asked() {
    let mut town = Town::new(2);
    let reply = Label { purpose: Purpose::Reply, from: 2, to: 1, kind: 0, request: 1 };
    town.send(reply, b"unasked").unwrap();
    town.turn();
    assert_eq!(town.read(1), None);
    town.send(request(1, 2, 1), b"?").unwrap();
    town.turn();
    assert_eq!(town.read(2), Some(Found::Letter(request(1, 2, 1), b"?".to_vec())));
    for _ in 0..2 {
        town.send(reply, b"!").unwrap();
    }
    town.turn();
    assert_eq!(town.read(1), Some(Found::Letter(reply, b"!".to_vec())));
    assert_eq!(town.read(1), None, "it asked once");
}

#[test]
fn those_who_wait_for_the_dead_are_told() {
    let mut town = Town::new(3);
    let ends = Ends::default();
    town.courier.request(2, 0, b"", u64::MAX, keep(&ends)).unwrap();
    town.courier.request(1, 0, b"", u64::MAX, keep(&ends)).unwrap();
    town.send(request(1, 2, 5), b"").unwrap();
    town.send(request(1, 2, 6), b"").unwrap();
    town.turn();
    // The last word of the dying is an answer to one of them.
    town.send(Label { purpose: Purpose::Reply, from: 2, to: 1, kind: 0, request: 5 }, b"late").unwrap();
    call_all(town.dies(2));
    assert_eq!(*ends.borrow(), [Err(Undelivered::Gone)]);
    assert!(matches!(town.read(1), Some(Found::Letter(l, _)) if l.purpose == Purpose::Request));
    assert!(matches!(town.read(1), Some(Found::Letter(l, _)) if l.request == 5));
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Gone(2))));
    assert_eq!((town.read(1), town.read(3)), (None, None));
    assert_eq!(town.courier.send(2, 0, b""), Err(Undelivered::Gone));
}

#[test]
fn the_hosts_requests_are_answered_or_expire() {
    let mut town = Town::new(1);
    let ends = Ends::default();
    assert_eq!(town.courier.request(ALL, 0, b"", 9, keep(&ends)), Err(Undelivered::Impossible));
    assert_eq!(town.courier.request(MASTER, 0, b"", 9, keep(&ends)), Err(Undelivered::Impossible));
    assert_eq!(town.courier.request(7, 0, b"", 9, keep(&ends)), Err(Undelivered::Gone));
    for deadline in [300, 100, 200] {
        town.courier.request(1, 0, b"", deadline, keep(&ends)).unwrap();
    }
    assert_eq!(town.courier.due(), Some(100));
    let reply = Label { purpose: Purpose::Reply, from: 1, to: MASTER, kind: 0, request: 3 };
    town.send(reply, b"third").unwrap();
    call_all(town.turn());
    town.now = 150;
    town.courier.expire(150);
    call_all(town.turn());
    assert_eq!(*ends.borrow(), [Ok(b"third".to_vec()), Err(Undelivered::TimedOut)]);
    assert_eq!(town.courier.due(), Some(300));
}

#[test]
fn what_is_not_a_workers_to_say_breaks_its_channel() {
    let forged = message(2, 3, 0);
    for say in [
        &|w: &mut Channel| w.outbox.say(w.socket.as_fd(), &Verb::Drain { hand_back: true }).unwrap() as _,
        &|w: &mut Channel| w.outbox.send(w.socket.as_fd(), &forged, b"", Room::Needed).unwrap(),
        &|w: &mut Channel| assert_eq!(crate::sys::socket::send(w.socket.as_fd(), b"no frame").unwrap(), 8),
    ] as [&dyn Fn(&mut Channel); 3]
    {
        let mut town = Town::new(3);
        town.turn();
        say(town.workers.get_mut(&1).unwrap());
        assert!(matches!(&town.turn()[..], [Heard::Broken(1, e)] if e.kind() == io::ErrorKind::InvalidData));
        assert_eq!(town.watched[&1], None);
        assert!(town.turns(3).is_empty(), "it is said once");
        assert_eq!(town.read(3), None);
    }
}

#[test]
fn the_end_of_a_channel_is_heard_once_and_not_watched() {
    let mut town = Town::new(2);
    town.turn();
    let worker = town.workers.remove(&1).unwrap();
    drop(worker);
    assert!(matches!(&town.turn()[..], [Heard::End(1)]));
    assert!(town.turns(3).is_empty());
    assert_eq!(town.watched[&1], None);
}

/// Worker 1 writes to worker 2, who does not read, until it is refused.
fn fill(town: &mut Town) -> u32 {
    for kind in 0.. {
        if town.send(message(1, 2, kind), &[7; 90_000]).is_err() {
            return kind;
        }
        town.turns(2);
    }
    unreachable!()
}

#[test]
fn a_full_queue_stops_its_sender_and_loses_nothing() {
    let mut town = Town::new(3);
    let sent = fill(&mut town);
    assert!((8..25).contains(&sent), "{sent} of 90 kB: four here, four there, and what sockets hold");
    assert!(!town.reads(1) && town.reads(2) && town.reads(3));
    // Others are not concerned, but for a request to the one who is full.
    town.send(message(3, 1, 0), b"hello").unwrap();
    town.send(request(3, 2, 1), &[0; 90_000]).unwrap();
    town.turns(3);
    assert_eq!(town.read(1), Some(Found::Letter(message(3, 1, 0), b"hello".to_vec())));
    assert_eq!(town.read(3), failure(2, 3, 1, Undelivered::Full));
    for kind in 0..sent {
        let mut found = town.read(2);
        while found.is_none() {
            town.turn();
            found = town.read(2);
        }
        assert_eq!(found, Some(Found::Letter(message(1, 2, kind), vec![7; 90_000])));
    }
    town.turn();
    assert!(town.reads(1));
    assert_eq!(town.courier.due(), None);
}

#[test]
fn who_takes_nothing_for_long_is_shut_until_it_does() {
    let mut town = Town::new(3);
    fill(&mut town);
    assert_eq!(town.courier.due(), Some(1 + PATIENCE));
    town.now = 1 + PATIENCE;
    town.courier.expire(town.now);
    let heard = town.turns(20);
    assert!(matches!(heard[..], [Heard::Shut(2)]));
    assert_eq!(town.courier.due(), None);
    assert!(town.reads(1));
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Shut(2))));
    assert_eq!(town.read(1), None, "it is told once");
    assert!(town.workers[&1].outbox.is_empty());
    // It wakes up.
    let mut taken = 0;
    for _ in 0..100 {
        taken += u32::from(town.read(2).is_some());
        town.turn();
    }
    assert!(taken >= 4);
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Open(2))));
    town.send(message(1, 2, 99), b"again").unwrap();
    town.turn();
    assert_eq!(town.read(2), Some(Found::Letter(message(1, 2, 99), b"again".to_vec())));
}

#[test]
fn who_is_told_that_one_is_shut_is_told_of_its_death() {
    let mut town = Town::new(2);
    fill(&mut town);
    town.now = 1 + PATIENCE;
    town.courier.expire(town.now);
    town.turns(20);
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Shut(2))));
    town.dies(2);
    assert_eq!(town.read(1), Some(Found::Verb(Verb::Gone(2))));
}

#[test]
fn the_last_words_of_the_dying_are_carried_to_who_is_full() {
    let mut town = Town::new(2);
    let sent = fill(&mut town);
    town.dies(1);
    let mut found = Vec::new();
    for _ in 0..10 * sent {
        town.turn();
        found.extend(town.read(2));
    }
    let kinds: Vec<u32> =
        found.iter().map(|f| if let Found::Letter(l, _) = f { l.kind } else { u32::MAX }).collect();
    assert!(kinds.len() as u32 >= sent - 6, "all but what lay in its own queue: {kinds:?} of {sent}");
    assert_eq!(kinds, (0..kinds.len() as u32).collect::<Vec<_>>());
}

#[test]
fn a_worker_that_does_not_read_is_not_read_either() {
    let mut town = Town::new(1);
    let mut number = 0;
    // Each asks nobody, and gets a verb for it that is never refused.
    while town.send(request(1, 9, number), b"").is_ok() {
        number += 1;
        if number % 1000 == 0 {
            town.turn();
        }
    }
    let waiting = town.courier.office.outlets[&1].outbox.waiting();
    let capacity = town.courier.office.outlets[&1].outbox.capacity();
    assert!(waiting > capacity && waiting < capacity + 100_000, "{waiting}, more than {capacity}");
    assert!(!town.reads(1));
}

/// Whatever is under way, wherever it stands: in sockets, half read, held, half sent.
#[test]
fn a_courier_that_takes_over_loses_nothing() {
    for extra in 0..5 {
        let mut town = Town::new(3);
        let sent = fill(&mut town);
        town.send(request(3, 1, 5), b"?").unwrap();
        town.turns(extra);
        let mut next = Courier::default();
        for id in 1..=3 {
            let state = town.courier.hand_over(id);
            let socket = town.courier.channel(id).unwrap().try_clone_to_owned().unwrap();
            next.take_over(id, socket, MAX, &state).unwrap();
        }
        town.courier = next;
        town.watched.clear();
        for kind in 0..sent {
            let mut found = town.read(2);
            for _ in 0..20 {
                town.turn();
                found = found.or_else(|| town.read(2));
            }
            assert_eq!(found, Some(Found::Letter(message(1, 2, kind), vec![7; 90_000])));
        }
        assert!(matches!(town.read(1), Some(Found::Letter(l, _)) if l.purpose == Purpose::Request));
        let reply = Label { purpose: Purpose::Reply, from: 1, to: 3, kind: 0, request: 5 };
        town.send(reply, b"!").unwrap();
        town.turn();
        assert_eq!(town.read(3), Some(Found::Letter(reply, b"!".to_vec())));
    }
}

#[test]
fn a_turn_is_bounded_and_fair() {
    let mut town = Town::new(3);
    for kind in 0..500 {
        town.send(message(1, MASTER, kind), b"many").unwrap();
    }
    town.send(message(2, MASTER, 0), b"few").unwrap();
    (1..=2).for_each(|id| town.courier.mark(id));
    let mut budget = Budget::new(1 << 20, 100);
    let mut from = Vec::new();
    while let Some(Heard::Mail(mail)) = town.courier.next(&mut budget, 1) {
        from.push(mail.label.from);
    }
    assert_eq!(from.len(), 100);
    assert!(from.contains(&2));
    assert!(town.courier.is_busy());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whoever reads whenever: what was taken from a sender arrives, once, in its order, at each who is to get it.
    #[test]
    fn nothing_is_lost_and_nothing_overtakes(
        steps in vec((1..=3u32, 0..=4u32, prop_oneof![0..300usize, 0..=MAX], any::<bool>()), 1..150),
    ) {
        let mut town = Town::new(3);
        let mut expected: BTreeMap<(u32, u32), VecDeque<(u32, usize)>> = BTreeMap::new();
        let (mut hosts, mut kind) = (VecDeque::new(), 0);
        let check = |town: &mut Town, expected: &mut BTreeMap<(u32, u32), VecDeque<(u32, usize)>>, id| {
            if let Some(found) = town.read(id) {
                let Found::Letter(l, bytes) = found else { panic!("{found:?}") };
                let next = expected.get_mut(&(l.from, id)).and_then(VecDeque::pop_front);
                assert_eq!(next, Some((l.kind, bytes.len())));
                assert!(bytes.iter().all(|b| *b == l.kind as u8));
            }
        };
        let hear = |heard: Vec<Heard>, hosts: &mut VecDeque<(u32, u32, usize)>| {
            for one in heard {
                let Heard::Mail(mail) = one else { panic!() };
                let at = hosts.iter().position(|h| h.0 == mail.label.from).unwrap();
                let (_, kind, len) = hosts.remove(at).unwrap();
                assert_eq!((kind, len), (mail.label.kind, mail.bytes.len()));
            }
        };
        for (from, to, size, reads) in steps {
            kind += 1;
            let to = if to == 4 { ALL } else { to };
            if town.send(message(from, to, kind), &vec![kind as u8; size]).is_ok() {
                match to {
                    MASTER => hosts.push_back((from, kind, size)),
                    ALL => for id in (1..=3).filter(|id| *id != from) {
                        expected.entry((from, id)).or_default().push_back((kind, size));
                    },
                    _ => expected.entry((from, to)).or_default().push_back((kind, size)),
                }
            }
            hear(town.turn(), &mut hosts);
            if reads {
                check(&mut town, &mut expected, from);
            }
            for outlet in town.courier.office.outlets.values() {
                prop_assert!(outlet.outbox.waiting() <= outlet.outbox.capacity());
            }
        }
        for _ in 0..2000 {
            hear(town.turn(), &mut hosts);
            (1..=3).for_each(|id| check(&mut town, &mut expected, id));
            if expected.values().all(VecDeque::is_empty) {
                break;
            }
        }
        prop_assert!(expected.values().all(VecDeque::is_empty) && hosts.is_empty());
    }
}
