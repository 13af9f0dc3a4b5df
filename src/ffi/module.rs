//! Handlers from a shared object.

use crate::error::Result;
use crate::server::Source;
use crate::worker::Worker;
use crate::worker::handler::Handler;
use std::path::{Path, PathBuf};

pub(crate) struct ModuleSource {
    path: PathBuf,
    name: String,
}

impl ModuleSource {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), name: path.display().to_string() }
    }
}

impl Source for ModuleSource {
    fn prepare(&mut self) -> Result<()> {
        let _ = &self.path;
        todo!()
    }

    fn open(&mut self, _worker: &Worker) -> std::result::Result<Box<dyn Handler>, String> {
        todo!()
    }

    fn name(&self) -> &str {
        &self.name
    }
}
