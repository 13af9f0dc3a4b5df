//! Many clients at once, bounded in number, that count the results of their requests.

use super::client::{Address, Client, Fault};
use super::handler::Style;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Clients that each make one connection after the other until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// The results of the requests: the number of each answer and of each fault.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: BTreeMap<String, u64>,
    pub faults: BTreeMap<Fault, u64>,
}

impl Tally {
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    pub fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    pub fn add(&mut self, result: Result<String, Fault>) {
        match result {
            Ok(answer) => *self.answers.entry(answer).or_default() += 1,
            Err(fault) => *self.faults.entry(fault).or_default() += 1,
        }
    }

    pub fn merge(&mut self, other: Self) {
        for (answer, n) in other.answers {
            *self.answers.entry(answer).or_default() += n;
        }
        for (fault, n) in other.faults {
            *self.faults.entry(fault).or_default() += n;
        }
    }
}

impl Load {
    /// Starts `clients` clients that say `command`, one connection a time each.
    pub fn start(address: &Address, style: Style, clients: usize, command: &str) -> Self {
        Self::run(clients, |_, stop, done| {
            let (address, command) = (address.clone(), command.to_owned());
            move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    tally.add(Client::connect(&address, style).and_then(|c| c.ask_last(&command)));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                tally
            }
        })
    }

    /// Starts clients of the test's own. Each gets its number, the flag to stop, and the counter.
    pub fn run<F>(clients: usize, client: impl Fn(usize, Arc<AtomicBool>, Arc<AtomicU64>) -> F) -> Self
    where
        F: FnOnce() -> Tally + Send + 'static,
    {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients =
            (0..clients).map(|i| std::thread::spawn(client(i, stop.clone(), done.clone()))).collect();
        Self { stop, done, clients }
    }

    /// Starts `clients` clients that say `command` again and again on one connection each, until told to stop or something
    /// goes wrong.
    pub fn keep(address: &Address, style: Style, clients: usize, command: &str) -> Self {
        Self::run(clients, |_, stop, done| {
            let (address, command) = (address.clone(), command.to_owned());
            move || {
                let mut tally = Tally::default();
                let client = Client::connect(&address, style).map_err(|fault| tally.add(Err(fault)));
                let Ok(mut client) = client else { return tally };
                while !stop.load(Ordering::Relaxed) && tally.faults.is_empty() {
                    tally.add(client.ask(&command));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                tally
            }
        })
    }

    /// Requests that have come to an end.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until `n` more requests have ended.
    #[track_caller]
    pub fn go_on_for(&self, requests: u64) {
        let until = self.done() + requests;
        super::wait_until("the load continues", || self.done() >= until);
    }

    pub fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        self.clients.into_iter().for_each(|c| all.merge(c.join().unwrap()));
        all
    }
}

/// Calls `f` from `n` threads at the same time, with their numbers, and returns the results in their order.
pub fn at_once<T: Send>(n: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n)
            .map(|i| {
                scope.spawn({
                    let f = &f;
                    move || f(i)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}
