//! The descriptors that the master's poll watches, each with a value of its own. All arithmetic on the poll's numbers is here.

use crate::config::MAX_LISTENERS;
use crate::ids::{ListenerId, Page};
use mio::Events;

/// A descriptor that the master watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The signalfd.
    Signals,
    /// The eventfd that workers write to when they have room again.
    Wake,
    /// The pidfd of an upgrade's trial run.
    Trial,
    /// The control socket.
    Control,
    /// A client of the control socket.
    ControlClient(usize),
    /// The sockets of a listener.
    Listener(ListenerId),
    /// The signalfd for children that are not the master's own.
    Orphans,
    /// The pidfd of a worker.
    Exit(Page),
    /// The message channel of a worker.
    Messages(Page),
    /// The handoff channel of a worker, with connections that it handed back.
    Returns(Page),
    /// The captured standard error of a worker.
    Stderr(Page),
    /// The channel of a worker that is a program.
    Program(Page),
}

/// The most clients of the control socket at a time.
pub const CLIENTS: usize = 16;

const FIRST_CLIENT: usize = 5;
const FIRST_LISTENER: usize = FIRST_CLIENT + CLIENTS;
/// From here on there are [`PER_PAGE`] numbers for each page.
const FIRST_PAGE: usize = FIRST_LISTENER + MAX_LISTENERS;
const PER_PAGE: usize = 5;

impl From<Token> for mio::Token {
    fn from(token: Token) -> Self {
        let of_page = |page: Page, which| FIRST_PAGE + PER_PAGE * page.index() + which;
        Self(match token {
            Token::Signals => 0,
            Token::Wake => 1,
            Token::Trial => 2,
            Token::Control => 3,
            Token::Orphans => 4,
            Token::ControlClient(n) => FIRST_CLIENT + n,
            Token::Listener(listener) => FIRST_LISTENER + listener.index(),
            Token::Exit(page) => of_page(page, 0),
            Token::Messages(page) => of_page(page, 1),
            Token::Returns(page) => of_page(page, 2),
            Token::Stderr(page) => of_page(page, 3),
            Token::Program(page) => of_page(page, 4),
        })
    }
}

impl From<mio::Token> for Token {
    fn from(mio::Token(n): mio::Token) -> Self {
        match n {
            0 => Self::Signals,
            1 => Self::Wake,
            2 => Self::Trial,
            3 => Self::Control,
            4 => Self::Orphans,
            _ if n < FIRST_LISTENER => Self::ControlClient(n - FIRST_CLIENT),
            _ if n < FIRST_PAGE => Self::Listener(ListenerId::at(n - FIRST_LISTENER)),
            _ => {
                let page = Page::at((n - FIRST_PAGE) / PER_PAGE);
                match (n - FIRST_PAGE) % PER_PAGE {
                    0 => Self::Exit(page),
                    1 => Self::Messages(page),
                    2 => Self::Returns(page),
                    3 => Self::Stderr(page),
                    _ => Self::Program(page),
                }
            }
        }
    }
}

/// The descriptors that the poll has reported, in its order.
pub fn tokens(events: &Events) -> impl Iterator<Item = Token> + '_ {
    events.iter().map(|event| event.token().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_a_number_of_its_own() {
        let mut tokens = vec![Token::Signals, Token::Wake, Token::Trial, Token::Control, Token::Orphans];
        tokens.extend((0..CLIENTS).map(Token::ControlClient));
        tokens.extend((0..MAX_LISTENERS).map(|n| Token::Listener(ListenerId::at(n))));
        for page in [0, 1, 3071].map(Page) {
            tokens.extend([
                Token::Exit(page),
                Token::Messages(page),
                Token::Returns(page),
                Token::Stderr(page),
                Token::Program(page),
            ]);
        }
        let numbers: std::collections::BTreeSet<_> = tokens.iter().map(|t| mio::Token::from(*t).0).collect();
        assert_eq!(numbers.len(), tokens.len());
        assert!(tokens.iter().all(|&t| Token::from(mio::Token::from(t)) == t));
    }
}
