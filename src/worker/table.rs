//! The connections of an event-driven worker, in a table sized before the first one comes.
//!
//! A row is found by its index; a key carries the row's use count too, so that an event for a connection that is gone is not
//! taken for one about its successor in the same row. Memory is touched row by row as connections come.

use super::conn::Conn;
use super::deadlines::{Link, Links};
use super::http::HttpConn;
use mio::Token;
use std::os::fd::OwnedFd;

/// What is spoken on a connection.
pub enum Protocol {
    /// Nothing: the row is free; the next free one.
    Free(u32),
    /// HTTP.
    Http(OwnedFd, HttpConn),
    /// A stream. Boxed: its address must not change, C handlers hold it.
    Stream(Box<Conn>),
}

/// A row.
pub struct Row {
    /// What is spoken.
    pub protocol: Protocol,
    /// Its deadline.
    pub link: Link,
    uses: u32,
    /// The index of its listener.
    pub listener: u16,
    /// Whether the poll reports it.
    pub registered: bool,
    /// Whether the poll reports it when it can be written to, too.
    pub watches_write: bool,
    /// Whether it waits to be called again in the next turn.
    pub again: bool,
}

/// The table.
pub struct Table {
    rows: Vec<Row>,
    free: u32,
    used: u32,
}

const NONE: u32 = u32::MAX;

impl Table {
    /// A table for at most `capacity` connections.
    pub fn new(capacity: u32) -> Self {
        Self { rows: Vec::with_capacity(capacity as usize), free: NONE, used: 0 }
    }

    /// Puts a connection into a free row and returns its index.
    pub fn insert(&mut self, protocol: Protocol, listener: u16) -> u32 {
        self.used += 1;
        if let Some(row) = self.rows.get_mut(self.free as usize) {
            let index = self.free;
            if let Protocol::Free(next) = row.protocol {
                self.free = next;
            }
            row.protocol = protocol;
            row.listener = listener;
            return index;
        }
        self.rows.push(Row {
            protocol,
            link: Link::default(),
            uses: 0,
            listener,
            registered: false,
            watches_write: false,
            again: false,
        });
        self.rows.len() as u32 - 1
    }

    /// Frees a row and returns what it held.
    pub fn remove(&mut self, index: u32) -> Protocol {
        self.used -= 1;
        let free = Protocol::Free(self.free);
        self.free = index;
        let row = &mut self.rows[index as usize];
        row.uses = row.uses.wrapping_add(1);
        (row.registered, row.watches_write, row.again) = (false, false, false);
        std::mem::replace(&mut row.protocol, free)
    }

    /// A row by its index.
    pub fn row(&mut self, index: u32) -> &mut Row {
        &mut self.rows[index as usize]
    }

    /// The poll's token for a row as it is used now. Never one of the inlet's.
    pub fn token(&self, index: u32) -> Token {
        Token((self.rows[index as usize].uses as usize) << 32 | index as usize)
    }

    /// The index of the row that a token was made for, if its connection is still the same.
    pub fn find(&self, token: Token) -> Option<u32> {
        let index = token.0 as u32;
        let row = self.rows.get(index as usize)?;
        (row.uses == (token.0 >> 32) as u32 && !matches!(row.protocol, Protocol::Free(_))).then_some(index)
    }

    /// Connections in the table.
    pub fn len(&self) -> u32 {
        self.used
    }

    /// The indexes of all rows ever used.
    pub fn indexes(&self) -> std::ops::Range<u32> {
        0..self.rows.len() as u32
    }
}

impl Links for Table {
    fn link(&mut self, index: u32) -> &mut Link {
        &mut self.rows[index as usize].link
    }
}
