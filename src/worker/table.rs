//! The connections of a worker, in a table whose capacity is reserved before the first one arrives.
//!
//! A row is found by its index. The poll's token for a row carries the row's use count too, so that an event for a closed
//! connection is not taken for one of its successor in the same row. Memory is touched row by row as connections arrive.

use super::conn::Conn;
use super::http::HttpConn;
use super::http::later::Answering;
use crate::ids::ListenerId;
use crate::sys::time::Time;
use mio::{Interest, Token};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// The protocol of a connection.
pub enum Protocol {
    /// None: the row is free.
    Free,
    /// HTTP.
    Http(OwnedFd, HttpConn),
    /// HTTP, with a response that its handler keeps.
    Later(Box<Answering>),
    /// A stream. Shared with the handler, which finds it by its id.
    Stream(Rc<Conn>),
    /// None any more: it is closed when its client has closed too, for which it has waited since this time.
    Lingering(OwnedFd, Time),
}

impl Protocol {
    /// Runs `f` with the connection's descriptor; `None` if the row is free.
    pub fn with_fd<T>(&self, f: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        match self {
            Self::Free => None,
            Self::Http(fd, _) | Self::Lingering(fd, _) => Some(f(fd.as_fd())),
            Self::Later(answering) => Some(f(answering.as_fd())),
            Self::Stream(conn) => conn.with_fd(f),
        }
    }
}

/// A row.
pub struct Row {
    /// The protocol, with its state.
    pub protocol: Protocol,
    /// Its listener.
    pub listener: ListenerId,
    /// The events that the poll reports of it; `None` if it is not registered.
    pub interest: Option<Interest>,
    /// True if its engine is to be called again in the next turn.
    pub again: bool,
    /// The bytes that the kernel held for the client when its deadline last started ([`crate::sys::socket::unsent`]); `u32::MAX` if
    /// that was not asked.
    pub unsent: u32,
    uses: u32,
}

/// The table.
pub struct Table {
    rows: Vec<Row>,
    free: Vec<u32>,
}

impl Table {
    /// A table for at most `capacity` connections.
    pub fn new(capacity: u32) -> Self {
        Self { rows: Vec::with_capacity(capacity as usize), free: Vec::with_capacity(capacity as usize) }
    }

    /// Puts a connection into a free row and returns its index.
    pub fn insert(&mut self, protocol: Protocol, listener: ListenerId) -> u32 {
        if let Some(index) = self.free.pop() {
            let row = self.row(index);
            (row.protocol, row.listener) = (protocol, listener);
            return index;
        }
        self.rows.push(Row { protocol, listener, interest: None, again: false, unsent: u32::MAX, uses: 0 });
        self.rows.len() as u32 - 1
    }

    /// Frees a row and returns what it held.
    pub fn remove(&mut self, index: u32) -> Protocol {
        self.free.push(index);
        let row = self.row(index);
        row.uses = row.uses.wrapping_add(1);
        (row.interest, row.again) = (None, false);
        std::mem::replace(&mut row.protocol, Protocol::Free)
    }

    /// A row by its index.
    pub fn row(&mut self, index: u32) -> &mut Row {
        &mut self.rows[index as usize]
    }

    /// The HTTP connection of a row, and the listener it came through; `None` if there is none.
    pub fn http(&self, index: u32) -> Option<(BorrowedFd<'_>, ListenerId)> {
        let row = &self.rows[index as usize];
        if let Protocol::Http(fd, _) = &row.protocol { Some((fd.as_fd(), row.listener)) } else { None }
    }

    /// The poll's token for a row in its present use. Never one of the intake's or the channel's.
    pub fn token(&self, index: u32) -> Token {
        Token((self.rows[index as usize].uses as usize) << 32 | index as usize)
    }

    /// The index of the row that a token was made for, if it still has the same connection.
    pub fn find(&self, token: Token) -> Option<u32> {
        let index = token.0 as u32;
        let row = self.rows.get(index as usize)?;
        (row.uses == (token.0 >> 32) as u32 && !matches!(row.protocol, Protocol::Free)).then_some(index)
    }

    /// The number of connections.
    pub fn len(&self) -> u32 {
        (self.rows.len() - self.free.len()) as u32
    }

    /// The indexes of all rows, used and free.
    pub fn indexes(&self) -> std::ops::Range<u32> {
        0..self.rows.len() as u32
    }
}
