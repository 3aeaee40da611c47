//! `dot-injector`: see `dot-injector --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    dot_injector::cli::run(std::env::args_os())
}
