//! A directory of a test, removed at its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

pub struct Dir {
    path: PathBuf,
    known: Mutex<Vec<String>>,
}

impl Dir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        loop {
            let name = format!("prefork-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match fs::create_dir(&path) {
                // Left by a killed run with the same process id.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => {
                    made.unwrap();
                    return Self { path, known: Mutex::default() };
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file the test or its handler makes.
    pub fn file(&self, name: &str) -> PathBuf {
        self.known.lock().unwrap().push(name.to_owned());
        self.path.join(name)
    }

    /// The directory of the control sockets of the test's servers.
    pub fn runtime(&self) -> PathBuf {
        self.file("run")
    }

    /// Makes an empty file, which opens the handler's gate of that name.
    pub fn make(&self, name: &str) {
        fs::write(self.file(name), "").unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    /// The count of the handler under a name.
    pub fn count(&self, name: &str) -> u64 {
        fs::metadata(self.file(name)).map_or(0, |m| m.len())
    }

    /// The number of connections that have reached the handler's gate of that name.
    pub fn at_gate(&self, name: &str) -> u64 {
        self.count(&format!("{name}.here"))
    }

    /// Files that neither the test nor its handler has made.
    pub fn leftovers(&self) -> Vec<String> {
        let known = self.known.lock().unwrap();
        let names = fs::read_dir(&self.path).unwrap().map(|e| e.unwrap().file_name());
        names.map(|n| n.into_string().unwrap()).filter(|n| !known.contains(n)).collect()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
