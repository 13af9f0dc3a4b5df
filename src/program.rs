//! Workers that are programs of their own: what each of them executes, where, and with which environment. In the master.

use crate::code;
use crate::config::{Accept, Config, Protocol, Ready, name_after, template};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Generation;
use crate::server::Server;
use crate::sys::exec::Command;
use crate::sys::signal;
use crate::worker::Worker;
use crate::worker::failure::StartFailure;
use crate::worker::source::{Numbers, Opened, Source};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

impl Server {
    /// A server whose workers execute a program, with the arguments of [`Server::args`]. A name without a slash is looked up in `$PATH`.
    /// [`Config::protocol`] says how it takes connections.
    ///
    /// ```no_run
    /// # fn main() -> prefork::Result<()> {
    /// prefork::Server::program("node").args(vec![c"app.js".into()]).workers(4).run()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn program(path: impl AsRef<OsStr>) -> Self {
        Self::with_source(Program::new(path.as_ref()))
    }
}

/// Programs that speak the protocol of Node's cluster.
const OF_NODE: [&str; 3] = ["node", "nodejs", "deno"];
/// Variables that each worker gets anew, or that are meant for the master alone.
const OWN_VARIABLES: [&str; 11] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_UNIQUE_ID",
    "NODE_APP_INSTANCE",
    "PREFORK_WORKER_ID",
    "PREFORK_SLOT",
    "PREFORK_GENERATION",
];

/// A program, as it was given.
struct Program {
    given: OsString,
    name: String,
    args: Vec<CString>,
    protocol: Protocol,
    /// The directory as it was given, made absolute; `None` for the server's own.
    directory: Option<PathBuf>,
    environment: Vec<(String, String)>,
    /// By generation: the directory that its links led to.
    directories: BTreeMap<Generation, PathBuf>,
}

impl Program {
    fn new(given: &OsStr) -> Self {
        Self {
            given: given.to_owned(),
            name: given.to_string_lossy().into_owned(),
            args: Vec::new(),
            protocol: Protocol::ListenFds,
            directory: None,
            environment: Vec::new(),
            directories: BTreeMap::new(),
        }
    }

    /// The file of the program as seen from a directory: its path, or the first one of `$PATH` that can be executed.
    fn file(&self, directory: Option<&Path>) -> PathBuf {
        let given = Path::new(&self.given);
        if self.given.as_bytes().contains(&b'/') {
            return directory.map_or_else(|| given.to_owned(), |directory| directory.join(given));
        }
        let search = std::env::var_os("PATH").unwrap_or_default();
        let found =
            std::env::split_paths(&search).map(|folder| folder.join(given)).find(|path| is_program(path));
        // Executing it fails with the reason.
        found.unwrap_or_else(|| given.to_owned())
    }

    /// True if the program is Node, by its name or by the first line of a script.
    fn is_of_node(&self) -> bool {
        let is_name = |name: &OsStr| name.to_str().is_some_and(|name| OF_NODE.contains(&name));
        if Path::new(&self.given).file_name().is_some_and(is_name) {
            return true;
        }
        let mut line = [0; 128];
        let read = File::open(self.file(self.directory.as_deref())).and_then(|mut file| file.read(&mut line));
        let line = &line[..read.unwrap_or(0)];
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let words = String::from_utf8_lossy(line.strip_prefix(b"#!").unwrap_or_default()).into_owned();
        words.split([' ', '/', '\t']).any(|word| OF_NODE.contains(&word))
    }

    /// The name of the server: of the script that Node runs, or else of the program.
    fn server_name(&self) -> String {
        let script = self.args.iter().map(|arg| arg.to_string_lossy()).find(|arg| {
            let file = Path::new(&**arg).extension().and_then(OsStr::to_str);
            !arg.starts_with('-')
                && file.is_some_and(|kind| ["js", "mjs", "cjs", "ts", "mts"].contains(&kind))
        });
        match script.filter(|_| self.protocol == Protocol::Node) {
            Some(script) => name_after(&Path::new(&*script).with_extension("").to_string_lossy()),
            None => name_after(&self.name),
        }
    }

    /// Checks the settings for a program that accepts its connections itself.
    fn check_own_accept(&self, config: &mut Config) -> Result<()> {
        let unseen = "the master does not see what a program that accepts itself serves";
        for (refused, why) in [
            (
                config.ready == Ready::Message,
                "--ready message is for --protocol node: others have no channel for messages",
            ),
            (
                config.shutdown_message,
                "--shutdown-message is for --protocol node: others have no channel for messages",
            ),
            (
                config.accept == Accept::ReusePort,
                "--accept reuseport cannot be combined with a program: it inherits the sockets of all",
            ),
            (
                config.max_requests > 0,
                &format!("--max-requests cannot be combined with {}: {unseen}", self.name),
            ),
            (
                !config.timeout.is_zero(),
                &format!("--timeout cannot be combined with {}: {unseen}", self.name),
            ),
        ] {
            if refused {
                return Err(refuse(why));
            }
        }
        config.accept = Accept::Shared;
        Ok(())
    }

    /// The environment of a worker, each `NAME=VALUE`.
    fn environment(&self, worker: Numbers, directory: Option<&Path>) -> Result<Vec<CString>> {
        let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os()
            .filter(|(name, _)| !OWN_VARIABLES.iter().any(|own| *own == name.as_os_str()))
            .collect();
        for (name, value) in [
            ("PREFORK_WORKER_ID", worker.id.0),
            ("PREFORK_SLOT", worker.slot.0),
            ("PREFORK_GENERATION", worker.generation.0),
            ("NODE_APP_INSTANCE", worker.slot.0),
        ] {
            variables.insert(name.into(), value.to_string().into());
        }
        if let Some(directory) = directory {
            variables.insert("PWD".into(), directory.into());
        }
        let numbers = template::Numbers { slot: worker.slot.0, id: worker.id.0 };
        for (name, value) in &self.environment {
            let value = template::fill(value, numbers)
                .map_err(|why| refuse(format!("env {name}: expected {why}")))?;
            variables.insert(name.into(), value.into());
        }
        let text = |(name, value): (OsString, OsString)| {
            CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok()
        };
        Ok(variables.into_iter().filter_map(text).collect())
    }
}

impl Source for Program {
    fn configure(&mut self, config: &mut Config, args: &[CString]) -> Result<()> {
        self.args = args.to_vec();
        self.environment.clone_from(&config.env);
        let cwd = Some(&config.cwd).filter(|cwd| !cwd.as_os_str().is_empty());
        self.directory = cwd.map(|cwd| code::absolute(cwd));
        self.protocol = match config.protocol {
            Protocol::Auto if self.is_of_node() => Protocol::Node,
            Protocol::Auto => Protocol::ListenFds,
            given => given,
        };
        if config.one_process {
            return Err(refuse(
                "--one-process serves with a handler in this process: a program cannot be that",
            ));
        }
        match self.protocol {
            Protocol::Node if cfg!(not(feature = "control")) => {
                return Err(refuse(
                    "--protocol node: this program was built without the feature `control` of prefork",
                ));
            }
            Protocol::Node if config.accept != Accept::Master => {
                return Err(refuse(format!(
                    "--protocol node needs --accept master: {} gets its connections from the master",
                    self.name
                )));
            }
            Protocol::Node => {}
            _ => self.check_own_accept(config)?,
        }
        if config.name.is_empty() {
            config.name = self.server_name();
        }
        Ok(())
    }

    fn protocol(&self) -> Option<Protocol> {
        Some(self.protocol)
    }

    fn prepare(&mut self, generation: Generation) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let real = fs::canonicalize(directory)
            .map_err(|e| Error::io(ErrorKind::Handler, format!("cwd {}", directory.display()), e))?;
        self.directories.insert(generation, real);
        Ok(())
    }

    fn keep_only(&mut self, generation: Generation) {
        self.directories.retain(|other, _| *other == generation);
    }

    fn command(&self, worker: Numbers) -> Result<Command> {
        let directory = self.directories.get(&worker.generation).map(PathBuf::as_path);
        let c_string = |text: &OsStr| {
            CString::new(text.as_bytes()).map_err(|_| refuse(format!("{}: a NUL byte in a path", self.name)))
        };
        let mut args = vec![c_string(&self.given)?];
        args.extend(self.args.iter().cloned());
        Ok(Command {
            file: c_string(self.file(directory).as_os_str())?,
            args,
            environment: self.environment(worker, directory)?,
            directory: directory.map(|directory| c_string(directory.as_os_str())).transpose()?,
            on_parent_death: signal::SIGTERM,
        })
    }

    fn open(&mut self, _worker: &Worker) -> std::result::Result<Opened, StartFailure> {
        Err(format!("{}: a program is no handler", self.name).into())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Slot, WorkerId};

    fn configured(
        program: &str,
        args: &[&str],
        change: impl FnOnce(&mut Config),
    ) -> Result<(Program, Config)> {
        let mut config = Config::default();
        change(&mut config);
        let mut program = Program::new(OsStr::new(program));
        let args: Vec<_> = args.iter().map(|arg| CString::new(*arg).unwrap()).collect();
        program.configure(&mut config, &args)?;
        Ok((program, config))
    }

    #[test]
    fn the_protocol_follows_from_the_program_unless_it_is_given() {
        for (program, expected) in [
            ("node", Protocol::Node),
            ("/usr/bin/nodejs", Protocol::Node),
            ("deno", Protocol::Node),
            ("python3", Protocol::ListenFds),
            ("/bin/nodes", Protocol::ListenFds),
        ] {
            assert_eq!(configured(program, &[], |_| ()).unwrap().0.protocol, expected, "{program}");
        }
        let given = configured("sh", &[], |config| config.protocol = Protocol::Node).unwrap();
        assert_eq!(given.0.protocol, Protocol::Node);
        assert_eq!(configured("sh", &[], |_| ()).unwrap().1.accept, Accept::Shared);
    }

    #[test]
    fn a_server_of_node_is_called_after_its_script() {
        let name = |program, args: &[&str]| configured(program, args, |_| ()).unwrap().1.name;
        assert_eq!(name("node", &["--inspect", "/srv/web/app.mjs", "--x"]), "app");
        assert_eq!(name("/usr/bin/uvicorn", &["app:app"]), "uvicorn");
    }

    #[test]
    fn what_cannot_be_combined_is_refused() {
        let refused = |program, change: fn(&mut Config)| match configured(program, &[], change) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("{program} is not refused"),
        };
        assert!(refused("node", |c| c.accept = Accept::Shared).contains("needs --accept master"));
        assert!(refused("sh", |c| c.ready = Ready::Message).contains("--ready message"));
        assert!(refused("sh", |c| c.accept = Accept::ReusePort).contains("reuseport"));
        assert!(refused("sh", |c| c.max_requests = 5).contains("--max-requests cannot be combined with sh"));
        assert!(refused("sh", |c| c.one_process = true).contains("--one-process"));
    }

    #[test]
    fn a_worker_has_its_numbers_and_its_variables() {
        let (program, _) = configured("sh", &["-c", "x"], |config| {
            config.set("env", "PORT={8000+slot}").unwrap();
            config.set("env", "PREFORK_SLOT=mine").unwrap();
        })
        .unwrap();
        let worker = Numbers { id: WorkerId(5), slot: Slot(2), generation: Generation(1) };
        let command = program.command(worker).unwrap();
        let has = |variable: &str| command.environment.iter().any(|text| text.to_str() == Ok(variable));
        assert!(has("PORT=8002") && has("PREFORK_WORKER_ID=5") && has("NODE_APP_INSTANCE=2"));
        assert!(has("PREFORK_SLOT=mine"), "what is given comes last");
        assert!(command.file.to_str().unwrap().starts_with('/'));
        assert_eq!(command.args, [c"sh".into(), c"-c".into(), CString::from(c"x")]);
    }
}
