//! The listeners that Node programs ask for. They are the master's, and outlive every worker.

use super::channel::{Event, UNREAD};
use super::wire::{self, IPV6_ONLY, Query};
use crate::config::{ListenAddr, MAX_LISTENERS};
use crate::ids::{ListenerId, Page};
use crate::log::log;
use crate::master::Master;
use crate::master::kernel::WorkerQueue;
use crate::master::sockets::Listener;
use crate::sys::errno;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A listener that a worker has asked for.
pub struct Asked {
    query: Query,
    listener: ListenerId,
}

impl Asked {
    /// True if a worker that asks so is to have the same listener.
    fn is_for(&self, query: &Query) -> bool {
        let of = |query: &Query| {
            (query.address.clone(), query.port, query.family, query.datagrams, query.fd, query.index)
        };
        of(&self.query) == of(query)
    }
}

/// The address that is asked for.
///
/// # Errors
/// The number of the error with which the program's `listen` is to fail.
fn address_of(query: &Query) -> Result<ListenAddr, i32> {
    if query.datagrams {
        return Err(errno::EOPNOTSUPP);
    }
    if query.fd >= 0 {
        return u32::try_from(query.fd).map(ListenAddr::Fd).map_err(|_| errno::EINVAL);
    }
    let Ok(port) = u16::try_from(query.port) else {
        let path = query.address.as_deref().filter(|path| !path.is_empty()).ok_or(errno::EINVAL)?;
        // An abstract name begins with NUL in Node.
        return Ok(ListenAddr::Unix(match path.strip_prefix('\0') {
            Some(name) => format!("@{name}").into(),
            None => path.into(),
        }));
    };
    let ip = match query.address.as_deref() {
        None | Some("") => Ipv6Addr::UNSPECIFIED.into(),
        Some(text) => text.parse::<IpAddr>().map_err(|_| errno::EINVAL)?,
    };
    Ok(ListenAddr::Tcp(SocketAddr::new(ip, port)))
}

impl Master {
    /// Answers a Node program that asks for a listener.
    pub(super) fn answer_query(&mut self, page: Page, query: &Query) {
        let found = self.listener_for(query);
        let answer = match &found {
            Ok((listener, data)) => {
                let address = self.pool.listeners[listener.index()].address();
                wire::answer(query.seq, *listener, address, data)
            }
            Err(errno) => wire::refusal(query.seq, *errno).bytes().to_vec(),
        };
        let Some(worker) = self.pool.workers.at(page) else { return };
        if let Ok((listener, _)) = found {
            worker.serves |= 1u64.checked_shl(listener.0.into()).unwrap_or(0);
        }
        let WorkerQueue::Node(channel) = &worker.queue else { return };
        if !channel.send(&answer) {
            self.act_on_node(page, Event::Broken(UNREAD.into()));
        }
    }

    /// Returns the listener that is asked for, and what the worker that asked first has said of it.
    fn listener_for(&mut self, query: &Query) -> Result<(ListenerId, String), i32> {
        // After a stop has closed the listeners there are none.
        if self.lifecycle.is_stopping() {
            return Err(errno::ECANCELED);
        }
        if let Some(asked) = self.programs.asked.iter().find(|asked| asked.is_for(query)) {
            return Ok((asked.listener, asked.query.data.clone()));
        }
        let address = address_of(query)?;
        let taken = |id: &usize| self.programs.asked.iter().any(|asked| asked.listener.index() == *id);
        let given = (0..self.pool.listeners.len())
            .find(|id| !taken(id) && self.pool.listeners[*id].is_given_as(&address, &self.config));
        let listener = match given {
            Some(index) => ListenerId::at(index),
            // It could be any descriptor of the master.
            None if matches!(address, ListenAddr::Fd(_)) => return Err(errno::EBADF),
            None => self.open_asked(&address, query.flags & IPV6_ONLY != 0)?,
        };
        self.programs.asked.push(Asked { query: query.clone(), listener });
        Ok((listener, query.data.clone()))
    }

    fn open_asked(&mut self, address: &ListenAddr, v6_only: bool) -> Result<ListenerId, i32> {
        let id = ListenerId::at(self.pool.listeners.len());
        if id.index() >= MAX_LISTENERS {
            log!(Warn, "listen {address}: at most {MAX_LISTENERS} addresses");
            return Err(errno::EMFILE);
        }
        let opened = Listener::open_asked(address, v6_only, &self.config, Self::token_of(id));
        let listener = opened.map_err(|e| {
            log!(Warn, "{e}");
            e.os_error().unwrap_or(errno::EINVAL)
        })?;
        let bound = listener.bound();
        self.pool.listeners.push(listener);
        // Those of the first workers are told when all are ready.
        if self.report.is_started {
            log!(Info, "listening on {}", bound.text);
        }
        Ok(id)
    }
}
