//! The `prefork` program: a command line around the library. Becomes the master.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
