//! Streams that go to other workers with what their handler has written down of them, and those that come from others.
//!
//! A stream is given away at once for its handler: from then on this worker has only its connection and its file, until the channel
//! to the master takes both. One that the other worker refuses comes back, and is taken over here like one of another worker.

use super::drain::HAND_BACK_AGAIN;
use super::{Cause, Context, EventLoop, context};
use crate::handoff::{self, Handover, Origin, Passed};
use crate::ids::{ListenerId, WorkerId};
use crate::log::{counted, log};
use crate::message::Notice;
use crate::scoreboard::Word;
use crate::sys::socket;
use crate::worker::failure::{PANICKED, report};
use crate::worker::handover::{AnswerState, Occasion, StreamState};
use crate::worker::http::HttpConn;
use crate::worker::stream::{drop_user, note_client};
use crate::worker::table::Protocol;
use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Streams whose handler is asked in one turn, so that the others are served meanwhile.
const ASKED: u32 = 64;
/// Streams of one worker that are under way at most: enough to keep the other one busy, few enough that none waits long.
const UNDER_WAY: u32 = 128;
/// Bytes of a stream's file beside the handler's bytes, the unread and the unsent.
const HEAD: u64 = 1 << 20;

/// The streams of a worker that are between it and another.
#[derive(Default)]
pub(super) struct Moves {
    /// Given away, and not taken by the channel yet.
    leaving: VecDeque<(Passed, Origin)>,
    /// The number of those that the channel has taken and that may come back.
    unsettled: u32,
    /// By giver: streams that were taken over, and of which the master does not know yet.
    taken: Vec<(WorkerId, u32)>,
    /// The row from which on the handler is to be asked.
    ask_from: Option<u32>,
    /// While it sheds: as many connections stay.
    keep: Option<u32>,
    /// True if that has begun since the worker drains.
    has_begun: bool,
}

impl Moves {
    /// True if nothing can come back any more.
    pub(super) fn are_settled(&self) -> bool {
        self.leaving.is_empty() && self.unsettled == 0
    }

    /// True if no stream is left that may go.
    pub(super) fn are_done(&self) -> bool {
        self.are_settled() && self.ask_from.is_none()
    }

    /// True if a stream that the channel has taken may come back.
    pub(super) fn may_come_back(&self) -> bool {
        self.unsettled > 0
    }

    /// True if the loop has something to do here that no event tells.
    pub(super) fn wait_for_channel(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// True if streams are to be asked, now or when others have arrived.
    pub(super) fn have_more(&self) -> bool {
        self.ask_from.is_some()
    }

    /// True if streams can be asked now.
    pub(super) fn can_ask(&self) -> bool {
        self.have_more() && self.leaving.is_empty() && self.unsettled < UNDER_WAY
    }
}

impl EventLoop<'_> {
    /// Has the streams of a worker that drains go to others, as many as one turn allows; tells the master of those that have come.
    pub(super) fn move_streams(&mut self) {
        let orders = &mut self.channel.orders;
        self.moves.unsettled = self.moves.unsettled.saturating_sub(std::mem::take(&mut orders.settled));
        if orders.master_is_gone {
            self.moves.unsettled = 0;
        }
        if orders.hands_back && !std::mem::replace(&mut self.moves.has_begun, true) {
            (self.moves.ask_from, self.moves.keep) = (Some(0), None);
        }
        if orders.is_draining() && !orders.hands_back {
            self.keep_streams();
        }
        self.tell_taken();
        if self.send_leaving() {
            self.ask_streams();
        }
        self.close_queue();
    }

    /// Leaves the rest of the queue to the master if it has ordered that, but for the streams that come back.
    pub(super) fn close_queue(&mut self) {
        let is_closed = self.channel.orders.hands_back && self.moves.are_settled();
        self.intake.set_closed(is_closed, self.poll);
        if self.channel.orders.hands_back || self.moves.may_come_back() {
            self.intake.resume(self.poll);
        }
    }

    /// The worker has more than its share, and has handed back what is idle: streams go until only `keep` connections are left.
    pub(super) fn shed_streams(&mut self, keep: u32) {
        if !self.channel.orders.is_draining() {
            (self.moves.ask_from, self.moves.keep) = (Some(0), Some(keep));
        }
    }

    fn occasion(&self) -> Occasion {
        match self.channel.orders.is_draining() {
            true => Occasion::Drain,
            false if self.moves.keep.is_some() => Occasion::Shed,
            false => Occasion::None,
        }
    }

    /// A stream has begun while the worker drains.
    pub(super) fn ask_stream(&mut self, index: u32) {
        if self.channel.orders.hands_back {
            self.moves.ask_from = Some(self.moves.ask_from.map_or(index, |from| from.min(index)));
        }
    }

    fn ask_streams(&mut self) {
        let Some(from) = self.moves.ask_from.filter(|_| self.moves.can_ask()) else { return };
        self.moves.ask_from = None;
        let (mut asked, occasion) = (0, self.occasion());
        for index in from..self.table.indexes().end {
            if self.moves.keep.is_some_and(|keep| self.table.len() <= keep) {
                break;
            }
            let goes = match &self.table.row(index).protocol {
                Protocol::Stream(conn) if conn.may_go(occasion) => self.give_away(index, None),
                Protocol::Later(answering) if answering.may_go(occasion) => self.give_answer_away(index),
                _ => continue,
            };
            asked += 1;
            if goes && self.moves.leaving.len() >= handoff::MOST / 2 && !self.send_leaving() || asked == ASKED
            {
                self.moves.ask_from = Some(index + 1);
                break;
            }
        }
        self.send_leaving();
    }

    /// Gives a stream to the worker that the handler has named for it.
    pub(super) fn transfer(&mut self, index: u32) {
        let Protocol::Stream(conn) = &self.table.row(index).protocol else { return };
        let goal = conn.take_goal();
        let is_alone = self.worker.messages().is_alone();
        if conn.is_closing() || is_alone || !self.give_away(index, goal) {
            self.run(index, Cause::Writable);
        }
    }

    /// Asks the handler for what another worker needs to go on with a stream, and takes it out of this worker. False if it stays.
    pub(super) fn give_away(&mut self, index: u32, taker: Option<WorkerId>) -> bool {
        let Protocol::Stream(conn) = &self.table.row(index).protocol else { return false };
        let conn = Rc::clone(conn);
        if taker.is_none() {
            conn.set_asked(self.occasion());
        }
        let version = self.handler.state_version_at(conn.listener());
        if version == 0 {
            return false;
        }
        let most = self.config.max_state;
        note_client(&conn);
        let given = context!(self).call("on_handover", |handler| handler.write_state(&conn, most));
        let Some(bytes) = told(given, &conn.client()) else { return false };
        let info = &self.worker.info;
        let (topics, seen) =
            (info.own.topics.names_of(conn.id()), info.own.recent.seen_by(info.id, conn.id()));
        let state = conn.write_down(StreamState { version, bytes, topics, seen, ..StreamState::default() });
        self.send_away(index, &state, taker, &conn.client())
    }

    /// The same for a response that the handler keeps.
    fn give_answer_away(&mut self, index: u32) -> bool {
        let occasion = self.occasion();
        let row = self.table.row(index);
        let listener = row.listener;
        let Protocol::Later(answering) = &row.protocol else { return false };
        answering.set_asked(occasion);
        let version = self.handler.state_version_at(listener.0);
        if version == 0 {
            return false;
        }
        let client = client_of(answering.as_fd());
        let given = answering.ask(self.config.max_state, context!(self));
        let Some(bytes) = told(given, &client) else { return false };
        let Protocol::Later(answering) = &self.table.row(index).protocol else { return false };
        let state = answering.write_down(StreamState { version, bytes, ..StreamState::default() });
        self.send_away(index, &state, None, &client)
    }

    /// Sends a connection away with its state. One for which that is not possible is taken over here again; false then.
    fn send_away(
        &mut self,
        index: u32,
        state: &StreamState,
        taker: Option<WorkerId>,
        client: &dyn Display,
    ) -> bool {
        let most = self.config.max_state;
        let written = match state.bytes.len() {
            size if size > most => {
                Err(format!("{} of state, and max-state is {most}", counted(size as u64, "byte")))
            }
            _ if state.overhead() > HEAD / 2 => Err("it has too many topics".to_owned()),
            _ => state.write().map_err(|e| format!("write its state: {e}")),
        };
        let Some((fd, listener)) = self.let_go(index) else { return false };
        match written {
            Ok(file) => {
                let origin = Origin::stream(listener, Handover { taker, ..Handover::default() });
                self.moves.leaving.push_back((Passed { fd, state: Some(file.into()) }, origin));
                true
            }
            Err(why) => {
                report("on_handover", client, &format!("{why}: it stays"));
                // The last worker that could have it: nothing comes back.
                let _ = self.go_on(fd, listener, state, true);
                false
            }
        }
    }

    /// Takes a stream out of the table without a word to its handler. Returns its connection and its listener.
    fn let_go(&mut self, index: u32) -> Option<(OwnedFd, ListenerId)> {
        self.deadlines.clear(index);
        self.publish_idle();
        self.unwatch(index);
        let listener = self.table.row(index).listener;
        let fd = match self.table.remove(index) {
            Protocol::Stream(conn) => {
                self.worker.info.own.conns.remove(conn.id());
                self.worker.info.page.take_one(Word::Streams);
                self.worker.info.own.topics.forget(conn.id());
                self.worker.info.own.recent.forget(conn.id());
                conn.set_over();
                drop_user(&conn, context!(self));
                let fd = conn.end();
                self.keep_conn(conn);
                fd
            }
            Protocol::Later(answering) => {
                self.worker.info.page.take_one(Word::Later);
                self.http.let_go_later(*answering, context!(self))
            }
            _ => None,
        };
        Some((fd?, listener))
    }

    /// Gives the master what leaves. False if the channel is full.
    fn send_leaving(&mut self) -> bool {
        if self.moves.leaving.is_empty() {
            return true;
        }
        if self.hand_back_at > self.now {
            return false;
        }
        while !self.moves.leaving.is_empty() {
            let leaving = &mut self.moves.leaving;
            let count = handoff::fitting(leaving.iter().map(|(_, origin)| *origin));
            let message = leaving
                .iter()
                .take(count)
                .map(|(passed, origin)| (passed.fd.as_fd(), passed.state.as_ref().map(AsFd::as_fd), *origin));
            if !self.intake.give_back(message) {
                self.hand_back_at = self.now + HAND_BACK_AGAIN;
                return false;
            }
            for (_, Origin { stream, .. }) in self.moves.leaving.drain(..count) {
                if !stream.is_some_and(|stream| stream.is_refused) {
                    self.moves.unsettled += 1;
                    self.worker.info.page.add(Word::HandedOver, 1);
                }
                self.intake.finished();
            }
        }
        true
    }

    /// No worker is left to get what leaves: it stays.
    fn keep_streams(&mut self) {
        self.moves.ask_from = None;
        for (passed, origin) in std::mem::take(&mut self.moves.leaving) {
            match origin.stream {
                // It is another worker's, which still waits for it.
                Some(stream) if stream.is_refused && !self.channel.orders.master_is_gone => {
                    self.moves.leaving.push_back((passed, origin));
                }
                _ => drop(self.arrive(passed, origin.listener, true)),
            };
        }
    }

    /// A stream has come from another worker, or has come back.
    pub(super) fn take_over(&mut self, passed: Passed, origin: Origin) {
        let Some(stream) = origin.stream else { return };
        if stream.is_refused {
            self.moves.unsettled = self.moves.unsettled.saturating_sub(1);
            self.worker.info.page.add(Word::TakenBack, 1);
        }
        let is_last = stream.is_refused || stream.giver.is_none();
        let Some(refused) = self.arrive(passed, origin.listener, is_last) else {
            let Some(giver) = stream.giver.filter(|_| !stream.is_refused) else { return };
            return match self.moves.taken.iter_mut().find(|(id, _)| *id == giver) {
                Some((_, count)) => *count += 1,
                None => self.moves.taken.push((giver, 1)),
            };
        };
        let stream = Handover { is_refused: true, ..stream };
        self.moves.leaving.push_back((refused, Origin::stream(origin.listener, stream)));
    }

    /// Has the handler go on with what another worker has given away. Returns it if that is refused; if this is the `last` worker that
    /// could have it, it is reset.
    fn arrive(
        &mut self,
        Passed { fd, state }: Passed,
        listener: ListenerId,
        is_last: bool,
    ) -> Option<Passed> {
        let file = File::from(state?);
        let limits = &self.config.limits;
        let limit = HEAD.saturating_add(limits.body).saturating_add(limits.pending as u64);
        let refused = match StreamState::read(&file, limit.saturating_add(self.config.max_state as u64)) {
            Ok(state) => self.go_on(fd, listener, &state, is_last)?,
            Err(e) => {
                log!(Error, "read the state of a connection: {e}");
                if is_last {
                    self.lose(fd);
                    return None;
                }
                fd
            }
        };
        Some(Passed { fd: refused, state: Some(file.into()) })
    }

    /// Has the handler go on with a stream or a response. Returns the connection if it refuses; if this is the `last` worker that could
    /// have it, it is reset.
    fn go_on(
        &mut self,
        fd: OwnedFd,
        listener: ListenerId,
        state: &StreamState,
        is_last: bool,
    ) -> Option<OwnedFd> {
        let refused = match state.answer {
            None => self.go_on_with_stream(fd, listener, state, is_last)?,
            Some(answer) => self.go_on_with_answer(fd, listener, state, answer, is_last)?,
        };
        if is_last {
            self.lose(refused);
            return None;
        }
        Some(refused)
    }

    fn go_on_with_stream(
        &mut self,
        fd: OwnedFd,
        listener: ListenerId,
        state: &StreamState,
        is_last: bool,
    ) -> Option<OwnedFd> {
        if !self.handler.takes_streams() {
            log!(Warn, "a stream has come from another worker, and this handler takes none");
            return Some(fd);
        }
        let conn = self.conn(fd, listener);
        conn.restore(state);
        let index = self.table.insert(Protocol::Stream(Rc::clone(&conn)), listener);
        conn.set_token(self.table.token(index));
        self.worker.info.own.conns.add(&conn);
        self.worker.info.page.add(Word::Streams, 1);
        for topic in &state.topics {
            self.worker.info.own.topics.subscribe(&conn, topic);
        }
        conn.set_arriving(true);
        let has_missed = self.worker.info.own.recent.catch_up(&conn, &state.topics, &state.seen);
        self.worker.count_skipped(has_missed.into());
        let taken = context!(self)
            .call("on_takeover", |handler| handler.on_takeover(&conn, state.version, &state.bytes));
        conn.set_arriving(false);
        conn.set_owed();
        conn.restore_end(state);
        let client = conn.client();
        if is_last {
            conn.set_asked(self.occasion());
        }
        drop(conn);
        if is_taken("on_takeover", taken, &client) {
            self.ask_stream(index);
            if self.is_ending {
                // It has come back too late.
                self.begin_end(index);
            } else {
                self.run(index, Cause::Readable { ended: false });
            }
            return None;
        }
        let (fd, _) = self.let_go(index)?;
        Some(fd)
    }

    fn go_on_with_answer(
        &mut self,
        fd: OwnedFd,
        listener: ListenerId,
        state: &StreamState,
        answer: AnswerState,
        is_last: bool,
    ) -> Option<OwnedFd> {
        let (exchange, taken) = self.http.arrive(state, answer, listener.0, context!(self));
        if !is_taken("on_resume", taken, &client_of(fd.as_fd())) {
            self.http.give_back(&exchange, context!(self));
            return Some(fd);
        }
        if is_last {
            exchange.set_asked(self.occasion());
        }
        let mut conn = HttpConn::new(true);
        conn.set_client_ended(state.at_end);
        let index = self.table.insert(Protocol::Http(fd, conn), listener);
        self.ask_stream(index);
        self.keep(index, exchange);
        if self.is_ending {
            // It has come back too late.
            self.begin_end(index);
        }
        None
    }

    /// No worker goes on with a connection: its client learns it by a reset.
    fn lose(&mut self, fd: OwnedFd) {
        let _ = socket::reset_on_close(fd.as_fd());
        drop(fd);
        self.worker.info.page.add(Word::Errors, 1);
        self.intake.finished();
    }

    /// The worker ends, and the channel to the master has not taken these.
    pub(super) fn lose_leaving(&mut self) {
        for (passed, _) in std::mem::take(&mut self.moves.leaving) {
            let _ = socket::reset_on_close(passed.fd.as_fd());
            self.count_cut();
            self.intake.finished();
        }
    }

    fn tell_taken(&mut self) {
        for (giver, count) in self.moves.taken.drain(..) {
            // This fails if the master is gone.
            let _ = self.worker.messages().notify(&Notice::TookOver { giver, count });
        }
    }
}

/// What the handler has written down; `None` if the connection stays.
fn told(given: Option<Option<Vec<u8>>>, client: &dyn Display) -> Option<Vec<u8>> {
    if given.is_none() {
        report("on_handover", client, PANICKED);
    }
    given.flatten()
}

/// True if the handler goes on; else says why not.
fn is_taken(callback: &str, taken: Option<Result<(), String>>, client: &dyn Display) -> bool {
    let why = match taken {
        Some(Ok(())) => return true,
        Some(Err(why)) => why,
        None => PANICKED.to_owned(),
    };
    report(callback, client, &why);
    false
}

fn client_of(fd: BorrowedFd<'_>) -> String {
    socket::peer_address(fd).map_or_else(|_| "client".to_owned(), |address| format!("client {address}"))
}
