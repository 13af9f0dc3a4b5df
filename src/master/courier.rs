//! The courier carries messages: between workers, and between workers and the host program. It owns the master's ends of all
//! message channels, knows workers by their ids alone, and never waits. Its user feeds it what the poll says and the time, and
//! gets out what was heard and what to watch.
//!
//! Every queue is bounded. A letter whose receiver's queue is full is *held*, and what its sender says after it stays unread, so
//! that the sender's own queue fills and its sends are refused. When a receiver has not taken a byte for three seconds it is
//! *shut*: letters to it are dropped and their senders told, so that one who sleeps holds up nobody for longer.

use crate::message::{
    ALL, Budget, Channel, Inbox, Label, MASTER, Outbox, Purpose, Received, Requests, Room, Undelivered, Verb,
    encode_letter,
};
use crate::sys::poll::Interest;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// How long a full queue may stand still before it is shut (milliseconds).
const PATIENCE: u64 = 3_000;
/// A letter up to this size is sent at once and copied where that does not work; a longer one is sent in shares.
const SHORT: usize = 16 * 1024;
/// What one channel gets of a turn before the next has its share.
const SHARE: Budget = Budget::new(64 * 1024, 64);
/// What is read of a worker that has ended: more than a socket holds, and an end where somebody else still writes to it.
const LAST_WORDS: Budget = Budget::new(4 << 20, 64 * 1024);

/// What is called with the answer to a request of the host's.
pub type OnReply = Box<dyn FnOnce(Result<&[u8], Undelivered>)>;

/// What the master is to deal with.
pub enum Heard {
    /// A worker says something.
    Verb(u32, Verb),
    /// A message or request for the host.
    Mail(Mail),
    /// A request of the host's has come to its end.
    Reply(OnReply, Result<Vec<u8>, Undelivered>),
    /// A worker sends what is no message: it is not listened to any more, and to be killed.
    Broken(u32, io::Error),
    /// A worker has closed its end.
    End(u32),
    /// Letters to a worker are dropped from now on, until it takes some.
    Shut(u32),
}

/// A message for the host.
pub struct Mail {
    /// Who it is from, what type it has, whether it is a request.
    pub label: Label,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// All channels.
#[derive(Default)]
pub struct Courier {
    inlets: BTreeMap<u32, Inlet>,
    office: Office,
    /// Workers whose letter is held.
    held: BTreeSet<u32>,
    /// Channels that have something to do, in their order.
    busy: VecDeque<u32>,
}

/// The incoming side of one worker's channel.
struct Inlet {
    socket: Rc<OwnedFd>,
    inbox: Inbox,
    is_busy: bool,
    /// The letter that waits for room at its receiver's.
    held: Option<(Label, Rc<Vec<u8>>)>,
    ended: bool,
    /// What the poll watches it for; `None` where it does not.
    watched: Option<Interest>,
}

/// The outgoing sides, and what is known about who waits for whom.
#[derive(Default)]
struct Office {
    outlets: BTreeMap<u32, Outlet>,
    /// Channels whose watching may have to change.
    unsettled: BTreeSet<u32>,
    heard: VecDeque<Heard>,
    requests: Requests<OnReply>,
    /// The buffer of whoever is being read.
    spare: Vec<u8>,
    now: u64,
}

/// The outgoing side of one worker's channel.
struct Outlet {
    socket: Rc<OwnedFd>,
    outbox: Outbox,
    /// Since when it has been full without anything being taken.
    full_since: Option<u64>,
    shut: bool,
    /// Who was told that it is shut.
    told: BTreeSet<u32>,
    /// Who waits for how many replies of this worker's.
    askers: BTreeMap<u32, u32>,
}

/// A letter's bytes: lent, or to be shared by those who are to get them.
enum Bytes<'a> {
    Lent(&'a [u8]),
    Shared(Rc<Vec<u8>>),
}

/// What a look at a channel came to.
#[derive(PartialEq, Eq)]
enum Step {
    /// It has more to do, after others.
    Later,
    /// Nothing until the poll says so, or there is room at a receiver's.
    Rest,
}

impl Courier {
    /// A worker is there; its channel is watched from the next [`Courier::settle`] on.
    pub fn join(&mut self, id: u32, channel: Channel) {
        let Channel { socket, inbox, outbox } = channel;
        let socket = Rc::new(socket);
        let inlet =
            Inlet { socket: socket.clone(), inbox, is_busy: false, held: None, ended: false, watched: None };
        self.office.outlets.insert(id, Outlet::new(socket, outbox));
        self.office.unsettled.insert(id);
        self.inlets.insert(id, inlet);
    }

    /// A worker has ended: what it said last is read, whatever is full. [`Courier::next`] has what of it is for the master.
    pub fn finish(&mut self, id: u32) {
        let mut budget = LAST_WORDS;
        if let Some(inlet) = self.inlets.get_mut(&id) {
            if let Some((label, bytes)) = inlet.held.take() {
                self.office.carry(label, Bytes::Shared(bytes), Room::Ignored);
            }
            inlet.read(id, &mut self.office, &mut budget, Room::Ignored);
        }
    }

    /// A worker is forgotten, and those who wait for its replies are told. `unwatch` takes its channel out of the poll.
    pub fn leave(&mut self, id: u32, unwatch: impl FnOnce(BorrowedFd<'_>)) {
        let Some(inlet) = self.inlets.remove(&id) else { return };
        if inlet.watched.is_some() {
            unwatch(inlet.socket.as_fd());
        }
        self.held.remove(&id);
        self.office.leave(id);
        self.wake_held();
    }

    /// Has the host's requests numbered from here: in a process that another program has had, no late reply to one of its requests
    /// may be taken for another.
    pub fn number_from(&mut self, number: u64) {
        self.office.requests = Requests::numbered_from(number);
    }

    /// Forgets everything, in a process that is not the master.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A worker's channel.
    pub fn channel(&self, id: u32) -> Option<BorrowedFd<'_>> {
        self.inlets.get(&id).map(|inlet| inlet.socket.as_fd())
    }

    /// What a program that takes this one's place in this process must know of a channel.
    pub fn hand_over(&self, id: u32) -> Vec<u8> {
        let (Some(inlet), Some(outlet)) = (self.inlets.get(&id), self.office.outlets.get(&id)) else {
            return Vec::new();
        };
        let mut unread = Vec::new();
        if let Some((label, bytes)) = &inlet.held {
            unread = encode_letter(label, bytes);
        }
        unread.extend(inlet.inbox.unread());
        let askers: Vec<u32> = outlet.askers.iter().flat_map(|(id, n)| [*id, *n]).collect();
        let told: Vec<u32> = outlet.told.iter().copied().collect();
        let mut all = vec![u8::from(outlet.shut)];
        for numbers in [askers, told] {
            all.extend((numbers.len() as u32).to_le_bytes());
            all.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
        }
        all.extend((unread.len() as u32).to_le_bytes());
        all.extend(unread);
        all.extend(outlet.outbox.unsent());
        all
    }

    /// Goes on with a channel that a former program in this process has handed over; `None` where that cannot be read.
    pub fn take_over(&mut self, id: u32, socket: OwnedFd, max_message: usize, state: &[u8]) -> Option<()> {
        let (shut, rest) = state.split_first()?;
        let (askers, rest) = split_numbers(rest)?;
        let (told, rest) = split_numbers(rest)?;
        let (len, rest) = rest.split_first_chunk()?;
        let (unread, unsent) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let inbox = Inbox::resume(max_message, unread.to_vec());
        let outbox = Outbox::resume(max_message, unsent);
        self.join(id, Channel { socket, inbox, outbox });
        let outlet = self.office.outlets.get_mut(&id)?;
        outlet.shut = *shut == 1;
        outlet.told.extend(told);
        outlet.askers.extend(askers.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        self.mark(id);
        Some(())
    }

    /// Says a verb to a worker.
    ///
    /// # Errors
    /// [`Undelivered::Gone`]
    pub fn say(&mut self, id: u32, verb: &Verb) -> Result<(), Undelivered> {
        self.office.say(id, verb)
    }

    /// Sends a message of the host's. To all: those that have room get it.
    ///
    /// # Errors
    /// [`Undelivered::TooLarge`], [`Undelivered::Full`], [`Undelivered::Gone`], [`Undelivered::Impossible`] to the master itself.
    pub fn send(&mut self, to: u32, kind: u32, bytes: &[u8]) -> Result<(), Undelivered> {
        let label = Label { purpose: Purpose::Message, from: MASTER, to, kind, request: 0 };
        if to != ALL {
            return self.office.send(&label, bytes, Room::Needed);
        }
        let ids: Vec<u32> = self.office.outlets.keys().copied().collect();
        let send = |to| self.office.send(&Label { to, ..label }, bytes, Room::Needed);
        // All of them are tried, whatever becomes of one. A worker that has just ended misses nothing.
        let results: Vec<_> = ids.into_iter().map(send).filter(|r| *r != Err(Undelivered::Gone)).collect();
        results.into_iter().collect()
    }

    /// Sends a request of the host's; `on_reply` comes out of [`Courier::next`].
    ///
    /// # Errors
    /// As [`Courier::send`]; [`Undelivered::Impossible`] to all.
    pub fn request(
        &mut self,
        to: u32,
        kind: u32,
        bytes: &[u8],
        deadline: u64,
        on_reply: OnReply,
    ) -> Result<(), Undelivered> {
        if to == ALL {
            return Err(Undelivered::Impossible);
        }
        let request = self.office.requests.next_number();
        let label = Label { purpose: Purpose::Request, from: MASTER, to, kind, request };
        self.office.send(&label, bytes, Room::Needed)?;
        self.office.requests.add(to, deadline, on_reply);
        Ok(())
    }

    /// Answers a worker's request to the host.
    ///
    /// # Errors
    /// As [`Courier::send`].
    pub fn reply(&mut self, request: &Label, bytes: &[u8]) -> Result<(), Undelivered> {
        let label = answer(request, Purpose::Reply);
        self.office.send(&label, bytes, Room::Needed)
    }

    /// Tells a worker why its request to the host has no answer.
    pub fn fail(&mut self, request: &Label, reason: Undelivered) {
        self.office.fail(request, reason);
    }

    /// The poll has something to say about a channel.
    pub fn mark(&mut self, id: u32) {
        if let Some(inlet) = self.inlets.get_mut(&id).filter(|i| !i.is_busy) {
            inlet.is_busy = true;
            self.busy.push_back(id);
        }
    }

    /// Whether there is something to do at once.
    pub fn is_busy(&self) -> bool {
        !self.busy.is_empty() || !self.office.heard.is_empty()
    }

    /// Reads, carries and sends until there is something for the master, the budget is spent, or nothing is left to do.
    pub fn next(&mut self, budget: &mut Budget, now: u64) -> Option<Heard> {
        self.office.now = now;
        loop {
            if let Some(heard) = self.office.heard.pop_front() {
                return Some(heard);
            }
            if budget.is_spent() {
                return None;
            }
            let id = self.busy.pop_front()?;
            if self.work_on(id, budget) == Step::Later {
                self.busy.push_back(id);
            } else if let Some(inlet) = self.inlets.get_mut(&id) {
                inlet.is_busy = false;
            }
        }
    }

    /// Gives up what has waited long enough; [`Courier::next`] has what comes of it.
    pub fn expire(&mut self, now: u64) {
        self.office.now = now;
        while let Some(call) = self.office.requests.expired(now) {
            self.office.heard.push_back(Heard::Reply(call, Err(Undelivered::TimedOut)));
        }
        if self.held.is_empty() {
            return;
        }
        let late = |o: &Outlet| !o.shut && o.full_since.is_some_and(|since| now >= since + PATIENCE);
        let mut shut = false;
        for (id, outlet) in self.office.outlets.iter_mut().filter(|(_, o)| late(o)) {
            (outlet.shut, shut) = (true, true);
            self.office.heard.push_back(Heard::Shut(*id));
        }
        if shut {
            self.wake_held();
        }
    }

    /// When [`Courier::expire`] has something to do next.
    pub fn due(&self) -> Option<u64> {
        let full = self.office.outlets.values().filter(|o| !o.shut).filter_map(|o| o.full_since);
        // Only held letters set the time; without any there is nothing to look for.
        let full = if self.held.is_empty() { None } else { full.min().map(|since| since + PATIENCE) };
        self.office.requests.due().into_iter().chain(full).min()
    }

    /// Whether [`Courier::settle`] has nothing to say.
    pub fn is_settled(&self) -> bool {
        self.office.unsettled.is_empty()
    }

    /// Says what to watch channels for: the worker's id, its channel, and the interest until now and from now on, where `None`
    /// is none at all. A channel that cannot be watched is broken.
    pub fn settle(
        &mut self,
        mut watch: impl FnMut(u32, BorrowedFd<'_>, Option<Interest>, Option<Interest>) -> io::Result<()>,
    ) {
        while let Some(id) = self.office.unsettled.pop_first() {
            let (Some(inlet), Some(outlet)) = (self.inlets.get_mut(&id), self.office.outlets.get(&id)) else {
                continue;
            };
            let wanted = inlet.wanted(outlet);
            if wanted == inlet.watched {
                continue;
            }
            match watch(id, inlet.socket.as_fd(), inlet.watched, wanted) {
                Ok(()) => inlet.watched = wanted,
                Err(e) => {
                    inlet.ended = true;
                    self.office.heard.push_back(Heard::Broken(id, e));
                }
            }
        }
    }

    /// One share of a channel's work: first what goes, then what comes.
    fn work_on(&mut self, id: u32, budget: &mut Budget) -> Step {
        let Some(inlet) = self.inlets.get_mut(&id) else { return Step::Rest };
        self.office.unsettled.insert(id);
        let mut share = SHARE.min(*budget);
        let before = share;
        let flushed = self.office.flush(id, &mut share);
        let step = if share.is_spent() { Step::Later } else { inlet.work(id, &mut self.office, &mut share) };
        if inlet.held.is_some() {
            self.held.insert(id);
        } else {
            self.held.remove(&id);
        }
        budget.spend(before, share);
        if flushed {
            self.wake_held();
        }
        step
    }

    /// There may be room for letters that are held.
    fn wake_held(&mut self) {
        for id in std::mem::take(&mut self.held) {
            self.mark(id);
        }
    }
}

impl Inlet {
    /// Reads as long as nothing is held; a worker that does not read is not read either.
    fn work(&mut self, id: u32, office: &mut Office, share: &mut Budget) -> Step {
        if let Some((label, bytes)) = self.held.take()
            && let Some(bytes) = office.carry(label, Bytes::Shared(bytes), Room::Needed)
        {
            self.held = Some((label, bytes));
            return Step::Rest;
        }
        if office.outlets.get(&id).is_some_and(Outlet::is_over_full) {
            return Step::Rest;
        }
        self.read(id, office, share, Room::Needed)
    }

    fn read(&mut self, id: u32, office: &mut Office, share: &mut Budget, room: Room) -> Step {
        self.inbox.lend(&mut office.spare);
        let step = self.read_letters(id, office, share, room);
        self.inbox.give_back(&mut office.spare);
        step
    }

    fn read_letters(&mut self, id: u32, office: &mut Office, share: &mut Budget, room: Room) -> Step {
        while !self.ended {
            match self.inbox.receive(self.socket.as_fd(), share) {
                Ok(Received::Letter(letter)) if letter.label.from == id => {
                    let label = letter.label;
                    if let Some(bytes) = office.carry(label, letter.bytes.into(), room) {
                        self.held = Some((label, bytes));
                        return Step::Rest;
                    }
                }
                Ok(Received::Verb(verb)) if verb.is_a_workers() => {
                    office.heard.push_back(Heard::Verb(id, verb));
                }
                Ok(Received::Nothing) => return Step::Rest,
                Ok(Received::Later) => return Step::Later,
                Ok(Received::End) => self.end(office, Heard::End(id)),
                Ok(Received::Letter(_) | Received::Verb(_)) => {
                    self.end(office, Heard::Broken(id, io::ErrorKind::InvalidData.into()));
                }
                Err(e) => self.end(office, Heard::Broken(id, e)),
            }
        }
        Step::Rest
    }

    fn end(&mut self, office: &mut Office, heard: Heard) {
        self.ended = true;
        office.heard.push_back(heard);
    }

    /// What to watch the channel for.
    fn wanted(&self, outlet: &Outlet) -> Option<Interest> {
        let read = self.held.is_none() && !outlet.is_over_full();
        let write = !outlet.outbox.is_empty();
        // Without either it is not watched at all: its end would be reported again and again.
        (!self.ended && (read || write)).then_some(Interest { read, write })
    }
}

impl Office {
    /// Carries a letter of a worker's to where it is to go. Where it has to wait for room, its bytes come back.
    fn carry(&mut self, label: Label, bytes: Bytes<'_>, room: Room) -> Option<Rc<Vec<u8>>> {
        match (label.to, label.purpose) {
            (MASTER, Purpose::Message | Purpose::Request) => {
                self.heard.push_back(Heard::Mail(Mail { label, bytes: bytes.into_vec() }));
            }
            (MASTER, purpose) => {
                if let Some(call) = self.requests.answered(label.request, label.from) {
                    let reply = bytes.into_vec();
                    let failed = purpose == Purpose::Failure;
                    let result = if failed { Err(Undelivered::read(&reply)) } else { Ok(reply) };
                    self.heard.push_back(Heard::Reply(call, result));
                }
            }
            (ALL, Purpose::Message) => return self.carry_to_all(label, bytes, room),
            (ALL, Purpose::Request) => self.fail(&label, Undelivered::Impossible),
            (ALL, _) => {}
            _ => return self.carry_to_one(label, bytes, room),
        }
        None
    }

    fn carry_to_one(&mut self, label: Label, bytes: Bytes<'_>, room: Room) -> Option<Rc<Vec<u8>>> {
        let answers = matches!(label.purpose, Purpose::Reply | Purpose::Failure);
        // Nobody gets answers who has not asked: they are let in even where everything else is full.
        if answers && !self.outlets.get(&label.from).is_some_and(|o| o.askers.contains_key(&label.to)) {
            return None;
        }
        let Some(outlet) = self.outlets.get_mut(&label.to) else {
            if label.purpose == Purpose::Request {
                let _ = self.say(label.from, &Verb::Gone(label.to));
            }
            return None;
        };
        if room == Room::Ignored || outlet.outbox.has_room(bytes.len()) {
            outlet.put(&label, bytes);
            if label.purpose == Purpose::Request {
                *outlet.askers.entry(label.from).or_default() += 1;
            }
            self.unsettled.insert(label.to);
        } else if label.purpose == Purpose::Request {
            self.fail(&label, Undelivered::Full);
        } else if !outlet.shut {
            outlet.full_since.get_or_insert(self.now);
            return Some(bytes.into_shared());
        } else if answers {
            outlet
                .put(&Label { purpose: Purpose::Failure, ..label }, Bytes::Lent(&[Undelivered::Full as u8]));
        } else if outlet.told.insert(label.from) {
            let _ = self.say(label.from, &Verb::Shut(label.to));
        }
        if answers {
            self.was_answered(label.from, label.to);
        }
        None
    }

    /// All get it at the same time, so that it waits until nobody is full but those that are shut.
    fn carry_to_all(&mut self, label: Label, bytes: Bytes<'_>, room: Room) -> Option<Rc<Vec<u8>>> {
        let bytes = bytes.into_shared();
        let is_full = |o: &&mut Outlet| !o.shut && !o.outbox.has_room(bytes.len());
        if room == Room::Needed {
            let mut full = self.outlets.iter_mut().filter(|(id, _)| **id != label.from).map(|(_, o)| o);
            if let Some(outlet) = full.find(is_full) {
                outlet.full_since.get_or_insert(self.now);
                return Some(bytes);
            }
        }
        for (id, outlet) in self.outlets.iter_mut().filter(|(id, o)| **id != label.from && !o.shut) {
            outlet.put(&Label { to: *id, ..label }, Bytes::Shared(bytes.clone()));
            self.unsettled.insert(*id);
        }
        None
    }

    fn send(&mut self, label: &Label, bytes: &[u8], room: Room) -> Result<(), Undelivered> {
        if label.to == MASTER {
            return Err(Undelivered::Impossible);
        }
        let outlet = self.outlets.get_mut(&label.to).ok_or(Undelivered::Gone)?;
        self.unsettled.insert(label.to);
        outlet.outbox.send(outlet.socket.as_fd(), label, bytes, room)
    }

    fn say(&mut self, id: u32, verb: &Verb) -> Result<(), Undelivered> {
        let outlet = self.outlets.get_mut(&id).ok_or(Undelivered::Gone)?;
        self.unsettled.insert(id);
        outlet.outbox.say(outlet.socket.as_fd(), verb)
    }

    /// Tells a worker why its request has no answer.
    fn fail(&mut self, request: &Label, reason: Undelivered) {
        // A worker that has ended does not want to know.
        let _ = self.send(&answer(request, Purpose::Failure), &[reason as u8], Room::Ignored);
    }

    fn was_answered(&mut self, by: u32, asker: u32) {
        let Some(outlet) = self.outlets.get_mut(&by) else { return };
        if let Some(count) = outlet.askers.get_mut(&asker) {
            *count -= 1;
            if *count == 0 {
                outlet.askers.remove(&asker);
            }
        }
    }

    /// Sends what waits for a worker, in its share; returns whether there is more room than before.
    fn flush(&mut self, id: u32, share: &mut Budget) -> bool {
        let Some(outlet) = self.outlets.get_mut(&id).filter(|o| !o.outbox.is_empty()) else { return false };
        let Ok(sent) = outlet.outbox.flush(outlet.socket.as_fd(), share.bytes) else {
            // Nobody reads it any more; what there is to say about that comes from elsewhere.
            outlet.outbox.clear();
            return true;
        };
        share.bytes -= sent;
        if sent == 0 {
            return false;
        }
        outlet.full_since = None;
        if outlet.shut && outlet.outbox.waiting() <= outlet.outbox.capacity() / 2 {
            outlet.shut = false;
            for sender in std::mem::take(&mut outlet.told) {
                let _ = self.say(sender, &Verb::Open(id));
            }
        }
        true
    }

    fn leave(&mut self, id: u32) {
        self.unsettled.remove(&id);
        let Some(gone) = self.outlets.remove(&id) else { return };
        for outlet in self.outlets.values_mut() {
            outlet.askers.remove(&id);
            outlet.told.remove(&id);
        }
        let waiting: BTreeSet<u32> = gone.askers.into_keys().chain(gone.told).collect();
        for sender in waiting {
            let _ = self.say(sender, &Verb::Gone(id));
        }
        for call in self.requests.abandoned(Some(id)) {
            self.heard.push_back(Heard::Reply(call, Err(Undelivered::Gone)));
        }
    }
}

impl Outlet {
    fn new(socket: Rc<OwnedFd>, outbox: Outbox) -> Self {
        let (told, askers) = (BTreeSet::new(), BTreeMap::new());
        Self { socket, outbox, full_since: None, shut: false, told, askers }
    }

    /// Whether so much waits that only what is never refused can have made it so.
    fn is_over_full(&self) -> bool {
        self.outbox.waiting() > self.outbox.capacity()
    }

    /// Puts a letter into its queue. Where the worker is gone, its death is on its way.
    fn put(&mut self, label: &Label, bytes: Bytes<'_>) {
        let _ = match bytes {
            Bytes::Shared(bytes) if bytes.len() > SHORT => {
                self.outbox.send_shared(label, &bytes, Room::Ignored)
            }
            bytes => self.outbox.send(self.socket.as_fd(), label, bytes.as_slice(), Room::Ignored),
        };
    }
}

impl Bytes<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn into_shared(self) -> Rc<Vec<u8>> {
        match self {
            Self::Lent(bytes) => Rc::new(bytes.to_vec()),
            Self::Shared(bytes) => bytes,
        }
    }

    fn into_vec(self) -> Vec<u8> {
        Rc::unwrap_or_clone(self.into_shared())
    }
}

impl<'a> From<Cow<'a, [u8]>> for Bytes<'a> {
    fn from(bytes: Cow<'a, [u8]>) -> Self {
        match bytes {
            Cow::Borrowed(bytes) => Self::Lent(bytes),
            Cow::Owned(bytes) => Self::Shared(Rc::new(bytes)),
        }
    }
}

/// The numbers at the start of what was handed over, and the rest.
fn split_numbers(bytes: &[u8]) -> Option<(Vec<u32>, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    let (numbers, rest) = rest.split_at_checked(u32::from_le_bytes(*count) as usize * 4)?;
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    Some((numbers.chunks_exact(4).map(number).collect(), rest))
}

/// The label of what answers a request.
fn answer(request: &Label, purpose: Purpose) -> Label {
    Label { purpose, from: request.to, to: request.from, kind: 0, request: request.request }
}

#[cfg(test)]
mod tests;
