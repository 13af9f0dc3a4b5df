//! What was published last, for streams that were on their way between two workers meanwhile.
//!
//! A worker numbers what it publishes, and that arrives everywhere in its order. So how far a worker has come is one number for each
//! publisher. A stream carries those of the worker that it leaves. The next one writes what it has had already and the other had not;
//! and what the other had had first, it leaves out when it comes. Nothing is kept if the handler hands over no streams.

use super::conn::Conn;
use super::conns::ById;
use super::handover::Seen;
use crate::ids::WorkerId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of publications that a worker keeps, and what each counts beside its own.
const MOST: usize = 2 << 20;
const OVERHEAD: usize = 128;

/// Publishers that are remembered at most; most of them have ended.
const MOST_PUBLISHERS: usize = 512;

/// The last publications of all workers, as one worker has had them.
#[derive(Default)]
pub struct Recent {
    keeps: Cell<bool>,
    /// The number of the last publication of this worker.
    last: Cell<u64>,
    /// By publisher: the number of its last one, and how many there had been of all.
    seen: RefCell<BTreeMap<u32, (u64, u64)>>,
    count: Cell<u64>,
    kept: RefCell<VecDeque<Kept>>,
    size: Cell<usize>,
    /// By stream: what it has had before this worker.
    ahead: RefCell<ById<Seen>>,
}

struct Kept {
    publisher: u32,
    number: u64,
    topic: Box<str>,
    bytes: Box<[u8]>,
}

impl Kept {
    fn size(&self) -> usize {
        OVERHEAD + self.topic.len() + self.bytes.len()
    }
}

impl Recent {
    /// Says whether streams may come from other workers.
    pub fn set_keeps(&self, keeps: bool) {
        self.keeps.set(keeps);
    }

    /// The number for the next publication of this worker.
    pub fn next_number(&self) -> u64 {
        self.last.get() + 1
    }

    /// Notes a publication of this worker.
    pub fn note_own(&self, own: WorkerId, topic: &str, bytes: &[u8]) {
        self.last.set(self.next_number());
        self.note(own.0, self.last.get(), topic, bytes);
    }

    /// Notes a publication that is about to be written to all subscribers here. Programs that numbered none give 0.
    pub fn note(&self, publisher: u32, number: u64, topic: &str, bytes: &[u8]) {
        if number == 0 || !self.keeps.get() {
            return;
        }
        self.note_seen(publisher, number);
        let new = Kept { publisher, number, topic: topic.into(), bytes: bytes.into() };
        let mut kept = self.kept.borrow_mut();
        let mut size = self.size.get() + new.size();
        kept.push_back(new);
        while size > MOST
            && let Some(oldest) = kept.pop_front()
        {
            size -= oldest.size();
        }
        self.size.set(size);
    }

    fn note_seen(&self, publisher: u32, number: u64) {
        self.count.set(self.count.get() + 1);
        let mut seen = self.seen.borrow_mut();
        seen.insert(publisher, (number, self.count.get()));
        if seen.len() > 2 * MOST_PUBLISHERS {
            let mut by_age: Vec<u64> = seen.values().map(|(_, count)| *count).collect();
            by_age.sort_unstable();
            seen.retain(|_, (_, count)| *count >= by_age[MOST_PUBLISHERS]);
        }
    }

    /// What a stream has had that leaves this worker.
    pub fn seen_by(&self, own: WorkerId, stream: u64) -> Seen {
        let mut seen: BTreeMap<u32, u64> = self.seen.borrow().iter().map(|(id, (n, _))| (*id, *n)).collect();
        for (publisher, number) in self.ahead.borrow().get(&stream).into_iter().flatten() {
            let last = seen.entry(*publisher).or_default();
            *last = (*last).max(*number);
        }
        let mine = (own.0, seen.remove(&own.0).unwrap_or_default());
        std::iter::once(mine).chain(seen).collect()
    }

    /// Writes to a stream that has come what it has missed on its way. True if that is not known to be all.
    pub fn catch_up(&self, conn: &Conn, topics: &[String], seen: &[(u32, u64)]) -> bool {
        let Some(&(giver, _)) = seen.first().filter(|_| !topics.is_empty()) else { return false };
        let had = |publisher: u32| match seen.iter().find(|(id, _)| *id == publisher) {
            Some((_, number)) => *number,
            // One that began after the giver; of an earlier one it is not known since when the giver had had none.
            None => {
                if publisher > giver {
                    0
                } else {
                    u64::MAX
                }
            }
        };
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut has_missed = false;
        for Kept { publisher, number, topic, bytes } in &*self.kept.borrow() {
            let had = had(*publisher);
            if *number <= had {
                continue;
            }
            // The first one that is kept is the first that it lacks, unless others were dropped.
            has_missed |= next.insert(*publisher, *number).is_none() && *number > had + 1;
            if topics.iter().any(|name| **name == **topic) {
                has_missed |= !conn.offer(bytes);
            }
        }
        let mine = self.seen.borrow();
        let is_ahead = |(id, number): &&(u32, u64)| mine.get(id).is_none_or(|(mine, _)| mine < number);
        let ahead: Seen = seen.iter().filter(is_ahead).copied().collect();
        if !ahead.is_empty() {
            self.ahead.borrow_mut().insert(conn.id(), ahead);
        }
        has_missed
    }

    /// True if a publication is new to a stream.
    pub fn is_new_to(&self, stream: u64, publisher: u32, number: u64) -> bool {
        let ahead = self.ahead.borrow();
        let had = ahead.get(&stream).and_then(|seen| seen.iter().find(|(id, _)| *id == publisher));
        had.is_none_or(|(_, had)| number > *had)
    }

    /// True if there may be streams to which a publication is not new. Forgets those to which all will be.
    pub fn has_ahead(&self) -> bool {
        let mut ahead = self.ahead.borrow_mut();
        if ahead.is_empty() {
            return false;
        }
        let mine = self.seen.borrow();
        ahead.retain(|_, seen| {
            seen.retain(|(publisher, number)| mine.get(publisher).is_none_or(|(mine, _)| mine <= number));
            !seen.is_empty()
        });
        true
    }

    /// A stream has ended here.
    pub fn forget(&self, stream: u64) {
        if !self.ahead.borrow().is_empty() {
            self.ahead.borrow_mut().remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::Kind;
    use crate::ids::{ListenerId, Page};
    use crate::scoreboard::Scoreboard;
    use crate::worker::conn::Style;
    use crate::worker::topics::Topics;
    use crate::worker::touched::Touched;
    use proptest::prelude::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    /// A worker: what it has received, and what is on its way to it.
    #[derive(Default)]
    struct One {
        recent: Recent,
        topics: Topics,
        coming: VecDeque<(u32, u64)>,
    }

    fn text(publisher: u32, number: u64) -> String {
        format!("{publisher}:{number} ")
    }

    impl One {
        fn receive(&mut self) {
            let Some((publisher, number)) = self.coming.pop_front() else { return };
            let bytes = text(publisher, number);
            self.recent.note(publisher, number, "t", bytes.as_bytes());
            let is_new = |stream| self.recent.is_new_to(stream, publisher, number);
            if self.recent.has_ahead() {
                self.topics.publish_to("t", bytes.as_bytes(), is_new);
            } else {
                self.topics.publish("t", bytes.as_bytes());
            }
        }
    }

    fn conn(id: u64) -> (Rc<Conn>, UnixStream) {
        let page = Scoreboard::new(1).unwrap().page(Page(0));
        let conn = Conn::new(Style::of(Kind::Stream, &Config::default()), page, Touched::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        conn.begin(ours.into(), id, ListenerId(0));
        (Rc::new(conn), theirs)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Publish(usize),
        Receive(usize),
        Leave,
        Arrive(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..3_usize).prop_map(Step::Publish),
            6 => (0..3_usize).prop_map(Step::Receive),
            1 => Just(Step::Leave),
            1 => (0..3_usize).prop_map(Step::Arrive),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Three workers, one stream that goes between them at any time: of each publisher it gets everything, once and in order.
        #[test]
        fn a_stream_that_moves_gets_all_once_and_in_order(steps in steps()) {
            let mut workers: Vec<One> = (0..3).map(|_| One::default()).collect();
            workers.iter().for_each(|one| one.recent.set_keeps(true));
            let mut published = [0_u64; 3];
            let mut heard = String::new();
            let mut id = 1;
            let (mut stream, mut client) = conn(id);
            workers[0].topics.subscribe(&stream, "t");
            let mut at = Ok(0);
            // The stream is there before the first of each is published.
            for step in steps.into_iter().chain([Step::Arrive(2)]).chain((0..3).flat_map(|w| vec![Step::Receive(w); 200])) {
                match step {
                    Step::Publish(w) => {
                        let number = workers[w].recent.next_number();
                        published[w] = number;
                        let bytes = text(w as u32, number);
                        workers[w].recent.note_own(WorkerId(w as u32), "t", bytes.as_bytes());
                        workers[w].topics.publish("t", bytes.as_bytes());
                        for other in (0..3).filter(|other| *other != w) {
                            workers[other].coming.push_back((w as u32, number));
                        }
                    }
                    Step::Receive(w) => workers[w].receive(),
                    Step::Leave => if let Ok(w) = at {
                        let seen = workers[w].recent.seen_by(WorkerId(w as u32), id);
                        workers[w].topics.forget(id);
                        workers[w].recent.forget(id);
                        stream.flush().unwrap();
                        drop(stream.end());
                        client.read_to_string(&mut heard).unwrap();
                        at = Err(seen);
                        id += 1;
                        (stream, client) = conn(id);
                    },
                    Step::Arrive(w) => if let Err(seen) = &at {
                        workers[w].topics.subscribe(&stream, "t");
                        // A publisher that the giver had never heard of and that is older: what is new of it is not known.
                        let mut seen = seen.clone();
                        for p in 0..3 {
                            if !seen.iter().any(|(id, _)| *id == p) {
                                seen.push((p, 0));
                            }
                        }
                        prop_assert!(!workers[w].recent.catch_up(&stream, &["t".into()], &seen));
                        at = Ok(w);
                    },
                }
            }
            stream.flush().unwrap();
            drop(stream.end());
            client.read_to_string(&mut heard).unwrap();
            for (p, last) in published.iter().enumerate() {
                let of: Vec<&str> = heard.split(' ').filter(|word| word.starts_with(&format!("{p}:"))).collect();
                let expected: Vec<String> = (1..=*last).map(|n| text(p as u32, n).trim().to_owned()).collect();
                prop_assert_eq!(of, expected);
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_gap_is_told() {
        let recent = Recent::default();
        recent.set_keeps(true);
        let (stream, _client) = conn(1);
        for number in 1..=1000 {
            recent.note(7, number, "t", &[0; 10_000]);
        }
        assert!(recent.size.get() <= MOST && recent.kept.borrow().len() > 100);
        let topics = ["t".to_owned()];
        assert!(recent.catch_up(&stream, &topics, &[(1, 0), (7, 10)]));
        assert!(!recent.catch_up(&stream, &topics, &[(1, 0), (7, 990)]));
        // An older publisher that the giver had not heard of.
        assert!(!recent.catch_up(&stream, &topics, &[(9, 0)]));
        for publisher in 0..5000 {
            recent.note(publisher, 1, "t", b"");
        }
        assert!(recent.seen.borrow().len() <= 2 * MOST_PUBLISHERS);
    }
}
