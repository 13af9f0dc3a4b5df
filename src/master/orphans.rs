//! Children that the master has not started: processes whose own parent has ended, if the kernel gives them to this process. Nobody
//! else would reap them. For the program alone: the children of a host are the host's.

use super::Master;
use super::token::Token;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::process;
use crate::sys::signal::{self, Signals};
use mio::Interest;
use mio::unix::SourceFd;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// The notice of their ends.
pub struct Orphans {
    /// SIGCHLD, as data.
    signal: Signals,
    /// True if there may be one that was not reaped.
    wait: bool,
}

impl Orphans {
    /// In a worker: its signals are its own.
    pub fn abandon(self) {
        self.signal.abandon();
    }
}

impl Master {
    /// Reaps orphans from now on, if this process gets any: as process 1 of its namespace, or as a subreaper (prctl(2)).
    ///
    /// # Errors
    /// [`ErrorKind::System`].
    pub fn adopt_orphans(&mut self) -> Result<()> {
        if !process::adopts_orphans() {
            return Ok(());
        }
        let system = |what: &'static str| move |e: io::Error| Error::io(ErrorKind::System, what, e);
        let signal = Signals::take(&[signal::SIGCHLD]).map_err(system("signalfd"))?;
        let fd = signal.as_fd().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), Token::Orphans.into(), Interest::READABLE)
            .map_err(system("epoll_ctl"))?;
        // Some may have ended before.
        self.orphans = Some(Orphans { signal, wait: true });
        Ok(())
    }

    /// Notes that children have ended.
    pub(super) fn note_orphans(&mut self) {
        if let Some(orphans) = &mut self.orphans {
            while let Ok(Some(_)) = orphans.signal.next() {}
            orphans.wait = true;
        }
    }

    /// Reaps all that have ended. At the end of a turn, when workers and trials that ended have been reaped as such.
    pub(super) fn reap_orphans(&mut self) {
        if !self.orphans.as_ref().is_some_and(|orphans| orphans.wait) {
            return;
        }
        // The kernel shows the same child until that is reaped.
        while let Ok(Some(pid)) = process::ended_child() {
            let id = self.pool.workers.iter().find(|w| w.link.process.pid() == pid).map(|w| w.id);
            if let Some(page) = id.and_then(|id| self.pool.workers.page_of(id)) {
                self.reap(page);
            } else if self.upgrade.trial_pid() == Some(pid) {
                // The turn that its pidfd wakes reaps it, and tries this again.
                return;
            } else if process::discard_child(pid).is_err() {
                break;
            }
        }
        if let Some(orphans) = &mut self.orphans {
            orphans.wait = false;
        }
    }
}
