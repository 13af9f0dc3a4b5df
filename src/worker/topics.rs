//! Topics: streams that have subscribed to a name, and what is published to it.

use super::conn::Conn;
use super::conns::ById;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// The most bytes of a topic's name.
const MAX_NAME: usize = 255;

/// True if a topic can have this name.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
}

/// The subscriptions of a worker's streams. As [`super::conns::Conns`], it does not change while it is walked: to publish calls nothing of
/// the handler's.
#[derive(Default)]
pub struct Topics {
    by_name: RefCell<HashMap<Box<str>, Rc<Topic>>>,
    /// The topics of each stream that has any.
    of: RefCell<ById<Vec<Rc<Topic>>>>,
}

/// A topic that has subscribers.
struct Topic {
    name: Box<str>,
    subscribers: RefCell<ById<Rc<Conn>>>,
}

impl Topics {
    /// Subscribes a stream; does nothing if it has.
    pub fn subscribe(&self, conn: &Rc<Conn>, name: &str) {
        let mut by_name = self.by_name.borrow_mut();
        let topic = match by_name.get(name) {
            Some(topic) => topic,
            None => by_name.entry(name.into()).or_insert_with_key(|name| {
                Rc::new(Topic { name: name.clone(), subscribers: RefCell::default() })
            }),
        };
        if topic.subscribers.borrow_mut().insert(conn.id(), Rc::clone(conn)).is_none() {
            self.of.borrow_mut().entry(conn.id()).or_default().push(Rc::clone(topic));
        }
    }

    /// Ends a stream's subscription; false if it has none.
    pub fn unsubscribe(&self, id: u64, name: &str) -> bool {
        let mut of = self.of.borrow_mut();
        let Some(topics) = of.get_mut(&id) else { return false };
        let Some(at) = topics.iter().position(|topic| &*topic.name == name) else { return false };
        self.leave(id, &topics.swap_remove(at));
        if topics.is_empty() {
            of.remove(&id);
        }
        true
    }

    /// Ends all subscriptions of a stream.
    pub fn forget(&self, id: u64) {
        let topics = self.of.borrow_mut().remove(&id);
        for topic in topics.into_iter().flatten() {
            self.leave(id, &topic);
        }
    }

    /// The topics of a stream.
    pub fn names_of(&self, id: u64) -> Vec<String> {
        let of = self.of.borrow();
        of.get(&id).into_iter().flatten().map(|topic| topic.name.to_string()).collect()
    }

    fn leave(&self, id: u64, topic: &Topic) {
        let mut subscribers = topic.subscribers.borrow_mut();
        subscribers.remove(&id);
        if subscribers.is_empty() {
            self.by_name.borrow_mut().remove(&topic.name);
        }
    }

    /// Writes to all subscribers. Returns how many had no room.
    pub fn publish(&self, name: &str, bytes: &[u8]) -> u64 {
        self.publish_to(name, bytes, |_| true)
    }

    /// As [`Topics::publish`], to those to which it is new.
    pub fn publish_to(&self, name: &str, bytes: &[u8], is_new: impl Fn(u64) -> bool) -> u64 {
        let topic = self.by_name.borrow().get(name).map(Rc::clone);
        let Some(topic) = topic else { return 0 };
        let subscribers = topic.subscribers.borrow();
        subscribers.values().filter(|conn| is_new(conn.id()) && !conn.offer(bytes)).count() as u64
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
    use crate::worker::touched::Touched;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn conn(id: u64) -> (Rc<Conn>, UnixStream) {
        let page = Scoreboard::new(1).unwrap().page(Page(0));
        let conn = Conn::new(Style::of(Kind::Stream, &Config::default()), page, Touched::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        conn.begin(ours.into(), id, ListenerId(0));
        (Rc::new(conn), theirs)
    }

    fn has(conn: &Conn, mut client: &UnixStream, expected: &str) {
        conn.flush().unwrap();
        let mut text = vec![0; expected.len()];
        client.read_exact(&mut text).unwrap();
        assert_eq!(text, expected.as_bytes());
    }

    #[test]
    fn what_is_published_reaches_those_who_have_subscribed_once() {
        let topics = Topics::default();
        let ((a, at_a), (b, at_b)) = (conn(1), conn(2));
        for (conn, name) in [(&a, "news"), (&a, "news"), (&b, "news"), (&b, "more")] {
            topics.subscribe(conn, name);
        }
        topics.publish("news", b"one");
        topics.publish("more", b"two");
        topics.publish("none", b"three");
        assert!(topics.unsubscribe(2, "news") && !topics.unsubscribe(2, "news"));
        assert!(!topics.unsubscribe(1, "more") && !topics.unsubscribe(3, "news"));
        topics.publish("news", b"four");
        has(&a, &at_a, "onefour");
        has(&b, &at_b, "onetwo");
        assert_eq!((a.pending(), b.pending()), (0, 0));
    }

    #[test]
    fn nothing_is_left_of_those_who_have_gone() {
        let topics = Topics::default();
        let (a, _at_a) = conn(1);
        for n in 0..100 {
            topics.subscribe(&a, &n.to_string());
        }
        topics.forget(1);
        topics.forget(1);
        assert!(topics.by_name.borrow().is_empty() && topics.of.borrow().is_empty());
        assert_eq!(Rc::strong_count(&a), 1);
        topics.subscribe(&a, "x");
        topics.unsubscribe(1, "x");
        assert!(topics.by_name.borrow().is_empty() && topics.of.borrow().is_empty());
    }
}
