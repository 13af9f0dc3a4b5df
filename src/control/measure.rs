//! The memory of a server's processes, read from `/proc` by a client on the same machine, to save the master the work.

use crate::event::Status;
use crate::sys::process;

impl Status {
    /// Fills in the memory of the server and of each worker, if `/proc` has it. Only for clients in the master's pid namespace.
    pub fn measure(&mut self) {
        for worker in &mut self.workers {
            worker.rss = process::resident_bytes(worker.worker.pid);
        }
        let pids = self.workers.iter().map(|w| w.worker.pid).chain([self.pid]);
        // The proportional share, since pages that several processes share count once.
        self.memory = pids.map(proportional_bytes).try_fold(0u64, |sum, bytes| Some(sum + bytes?));
    }
}

/// Returns a process's share of the memory it maps (proc(5), `smaps_rollup`).
fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}
