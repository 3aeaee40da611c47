//! `dot-injector`: see `dot-injector --help`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    dot_injector::cli::Cli::parse().run()
}
