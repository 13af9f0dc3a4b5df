//! What a worker writes down of a stream, or of a response that its handler keeps, when that goes to another worker: a memory file, which
//! goes with the connection.
//!
//! The two workers may run different code of the handler, and a module may be newer than the program that loaded it: the handler's
//! bytes have a version of the handler's own. The rest is prefork's; both workers have it from the same program, or from two that
//! read each other's saved state (`master/upgrade/state.rs`).

use crate::sys::memory;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

/// By publisher, the number of the last publication that a stream has had. The first is the worker's that it comes from.
pub type Seen = Vec<(u32, u64)>;

/// Begins each file.
const MARK: u32 = u32::from_le_bytes(*b"pfs1");
/// Bits of [`StreamState::flags`].
const AT_END: u32 = 1;
const HALF_OPEN: u32 = 1 << 1;
const HELD: u32 = 1 << 2;
const OWED: u32 = 1 << 3;
const WANTS_ROOM: u32 = 1 << 4;
const RESET_IF_SLOW: u32 = 1 << 5;
const IS_ANSWER: u32 = 1 << 6;
const IS_HEAD: u32 = 1 << 7;
const IS_HTTP_11: u32 = 1 << 8;
const KEEPS_ALIVE: u32 = 1 << 9;
const CLOSES: u32 = 1 << 10;
const HAS_BEGUN: u32 = 1 << 11;
const UNTIL_CLOSE: u32 = 1 << 12;
const HAS_LENGTH: u32 = 1 << 13;
const CLOSING: u32 = 1 << 14;
const BROKEN: u32 = 1 << 15;

/// An occasion on which the handler is asked, once for each connection, whether it goes to another worker; a later one asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    None,
    /// The worker has more than its share.
    Shed,
    /// The worker drains.
    Drain,
}

/// A stream between two workers, without its connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamState {
    /// The version of the handler's bytes.
    pub version: u32,
    /// The handler's bytes.
    pub bytes: Vec<u8>,
    /// What was read and the handler has not consumed.
    pub unread: Vec<u8>,
    /// What was written and not sent.
    pub unsent: Vec<u8>,
    /// The size of a write that was refused for want of room; 0 if none was.
    pub refused: u64,
    /// Its topics.
    pub topics: Vec<String>,
    /// What it has had of what was published.
    pub seen: Seen,
    /// The client has ended its side.
    pub at_end: bool,
    /// That does not close it.
    pub is_half_open: bool,
    /// The handler wants nothing more to be read.
    pub is_held: bool,
    /// The handler is to be called again when there is room.
    pub is_owed: bool,
    /// The handler is to be told when there is room.
    pub wants_room: bool,
    /// It is reset if it has no room for what is published.
    pub is_reset_if_slow: bool,
    /// The handler has closed it since it was asked: it closes when the next one has taken it over.
    pub is_closing: bool,
    /// Something that was written could not be: it is reset then.
    pub is_broken: bool,
    /// It is no stream, but a response to HTTP.
    pub answer: Option<AnswerState>,
}

/// A response that its handler keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerState {
    /// The request was HEAD.
    pub is_head: bool,
    /// The request was of HTTP/1.1.
    pub is_http_11: bool,
    /// The client wants to keep the connection.
    pub keeps_alive: bool,
    /// The connection ends after the response.
    pub closes: bool,
    /// Its head was written, and parts of the body follow ...
    pub has_begun: bool,
    /// ... which end with the connection ...
    pub until_close: bool,
    /// ... or when so many bytes have followed; else they are chunked.
    pub left: Option<u64>,
}

impl StreamState {
    /// Writes it to a memory file.
    ///
    /// # Errors
    /// If there is no descriptor or memory for it.
    pub fn write(&self) -> io::Result<File> {
        let mut file = File::from(memory::memory_file(c"prefork-stream")?);
        file.write_all(&self.encode())?;
        Ok(file)
    }

    /// Reads what [`StreamState::write`] has written, of at most `limit` bytes. The file may be read again.
    ///
    /// # Errors
    /// `InvalidData` if it is something else.
    pub fn read(file: &File, limit: u64) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let size = usize::try_from(size).ok().filter(|_| size <= limit).ok_or(io::ErrorKind::InvalidData)?;
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0)?;
        Self::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The bytes of it that have no limit of their own: what is written down of its topics, and a head.
    pub fn overhead(&self) -> u64 {
        self.topics.iter().map(|topic| topic.len() as u64 + 8).sum::<u64>() + 64
    }

    fn flags(&self) -> u32 {
        let answer = self.answer.unwrap_or_default();
        [
            (self.answer.is_some(), IS_ANSWER),
            (answer.is_head, IS_HEAD),
            (answer.is_http_11, IS_HTTP_11),
            (answer.keeps_alive, KEEPS_ALIVE),
            (answer.closes, CLOSES),
            (answer.has_begun, HAS_BEGUN),
            (answer.until_close, UNTIL_CLOSE),
            (answer.left.is_some(), HAS_LENGTH),
            (self.at_end, AT_END),
            (self.is_half_open, HALF_OPEN),
            (self.is_held, HELD),
            (self.is_owed, OWED),
            (self.wants_room, WANTS_ROOM),
            (self.is_reset_if_slow, RESET_IF_SLOW),
            (self.is_closing, CLOSING),
            (self.is_broken, BROKEN),
        ]
        .iter()
        .map(|(is_set, bit)| if *is_set { *bit } else { 0 })
        .sum()
    }

    /// Little-endian numbers, and each run of bytes behind its length.
    fn encode(&self) -> Vec<u8> {
        let size = self.bytes.len() + self.unread.len() + self.unsent.len();
        let mut out = Vec::with_capacity(64 + size + self.topics.iter().map(|t| t.len() + 8).sum::<usize>());
        for number in [MARK, self.version, self.flags()] {
            out.extend(number.to_le_bytes());
        }
        // One has no use for the other.
        let refused_or_left = self.answer.and_then(|answer| answer.left).unwrap_or(self.refused);
        out.extend(refused_or_left.to_le_bytes());
        out.extend((self.seen.len() as u32).to_le_bytes());
        for (publisher, last) in &self.seen {
            out.extend(publisher.to_le_bytes());
            out.extend(last.to_le_bytes());
        }
        let topics = self.topics.iter().map(String::as_bytes);
        for run in [&self.bytes[..], &self.unread, &self.unsent].into_iter().chain(topics) {
            out.extend((run.len() as u64).to_le_bytes());
            out.extend(run);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [mark, version, flags] = [number(&mut rest)?, number(&mut rest)?, number(&mut rest)?];
        let of_streams = AT_END | HALF_OPEN | HELD | OWED | WANTS_ROOM | RESET_IF_SLOW | CLOSING | BROKEN;
        let of_answers = IS_HEAD | IS_HTTP_11 | KEEPS_ALIVE | CLOSES | HAS_BEGUN | UNTIL_CLOSE | HAS_LENGTH;
        let is = |bit| flags & bit != 0;
        let known = of_streams | if is(IS_ANSWER) { IS_ANSWER | of_answers } else { 0 };
        if mark != MARK || is(!known) {
            return None;
        }
        let refused = length(&mut rest)?;
        let answer = AnswerState {
            is_head: is(IS_HEAD),
            is_http_11: is(IS_HTTP_11),
            keeps_alive: is(KEEPS_ALIVE),
            closes: is(CLOSES),
            has_begun: is(HAS_BEGUN),
            until_close: is(UNTIL_CLOSE),
            left: Some(refused).filter(|_| is(HAS_LENGTH)),
        };
        let mut seen = Seen::new();
        for _ in 0..number(&mut rest)? {
            seen.push((number(&mut rest)?, length(&mut rest)?));
        }
        let [bytes, unread, unsent] = [run(&mut rest)?, run(&mut rest)?, run(&mut rest)?];
        let mut topics = Vec::new();
        while !rest.is_empty() {
            topics.push(String::from_utf8(run(&mut rest)?.to_vec()).ok()?);
        }
        Some(Self {
            version,
            bytes: bytes.to_vec(),
            unread: unread.to_vec(),
            unsent: unsent.to_vec(),
            refused: if is(HAS_LENGTH) { 0 } else { refused },
            topics,
            seen,
            at_end: is(AT_END),
            is_half_open: is(HALF_OPEN),
            is_held: is(HELD),
            is_owed: is(OWED),
            wants_room: is(WANTS_ROOM),
            is_reset_if_slow: is(RESET_IF_SLOW),
            is_closing: is(CLOSING),
            is_broken: is(BROKEN),
            answer: Some(answer).filter(|_| is(IS_ANSWER)),
        })
    }
}

fn number(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u32::from_le_bytes(*bytes))
}

fn length(rest: &mut &[u8]) -> Option<u64> {
    let (bytes, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(u64::from_le_bytes(*bytes))
}

fn run<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(length(rest)?).ok()?;
    let (bytes, others) = rest.split_at_checked(length)?;
    *rest = others;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states() -> impl Strategy<Value = StreamState> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..300);
        let topics = proptest::collection::vec(".{1,20}", 0..4);
        let seen = proptest::collection::vec(any::<(u32, u64)>(), 0..4);
        let topics = (topics, seen);
        let answer = (any::<[bool; 6]>(), any::<Option<u64>>()).prop_map(
            |([is_head, is_http_11, keeps_alive, closes, has_begun, until_close], left)| AnswerState {
                is_head,
                is_http_11,
                keeps_alive,
                closes,
                has_begun,
                until_close,
                left,
            },
        );
        let answer = proptest::option::of(answer);
        (any::<u32>(), [bytes(), bytes(), bytes()], any::<u64>(), topics, any::<[bool; 8]>(), answer)
            .prop_map(|(version, [bytes, unread, unsent], refused, (topics, seen), flags, answer)| {
                StreamState {
                    version,
                    bytes,
                    unread,
                    unsent,
                    refused: if answer.is_some_and(|answer| answer.left.is_some()) { 0 } else { refused },
                    topics,
                    seen,
                    at_end: flags[0],
                    is_half_open: flags[1],
                    is_held: flags[2],
                    is_owed: flags[3],
                    wants_room: flags[4],
                    is_reset_if_slow: flags[5],
                    is_closing: flags[6],
                    is_broken: flags[7],
                    answer,
                }
            })
    }

    proptest! {
        #[test]
        fn a_state_is_read_as_it_was_written_and_again(state in states()) {
            let file = state.write().unwrap();
            for _ in 0..2 {
                prop_assert_eq!(&StreamState::read(&file, 1 << 20).unwrap(), &state);
            }
        }

        #[test]
        fn one_that_is_cut_has_fewer_topics_or_is_refused(state in states(), at in any::<prop::sample::Index>()) {
            let bytes = state.encode();
            let cut = StreamState::decode(&bytes[..at.index(bytes.len())]);
            let fewer = |cut: StreamState| cut.topics.len() < state.topics.len() && cut.bytes == state.bytes;
            prop_assert!(cut.is_none_or(fewer));
        }

        #[test]
        fn garbage_is_refused_or_read_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = StreamState::decode(&bytes);
            let _ = StreamState::decode(&[&MARK.to_le_bytes(), &bytes[..]].concat());
        }
    }

    #[test]
    fn a_file_that_is_too_large_or_something_else_is_refused() {
        let state = StreamState { unread: vec![7; 1000], ..StreamState::default() };
        let file = state.write().unwrap();
        assert_eq!(StreamState::read(&file, 1000).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let huge = File::from(memory::memory_file(c"test").unwrap());
        huge.set_len(1 << 40).unwrap();
        let read = StreamState::read(&huge, 1 << 20);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
