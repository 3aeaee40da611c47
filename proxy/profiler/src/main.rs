//! The program: arguments → plan → measurement → report.

use std::process::ExitCode;

use clap::Parser;
use dot_profiler::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
