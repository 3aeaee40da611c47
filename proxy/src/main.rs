//! The program: arguments → config → app → wait for the signal → drain.

use std::process::ExitCode;

use clap::Parser;
use dot_proxy::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
