#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]

mod attack;
mod delay;
mod echo;
mod failure;
mod histogram;
mod load;
mod neighbour;
mod run;
mod system;
mod upstream;
mod zone;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compare dot-proxy with other forwarders, under one load, in one run
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[command(flatten)]
    run: run::Options,
}

/// The tools that a run starts, each as a process of its own; they are as useful alone.
#[derive(Debug, Subcommand)]
enum Tool {
    Load(load::Options),
    Upstream(upstream::Options),
    Delay(delay::Options),
    Echo(echo::Options),
    Neighbour(neighbour::Options),
    Attack(attack::Options),
}

/// Does what the command line says.
#[expect(clippy::print_stderr, reason = "a command that ends tells its user why")]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.tool {
        None => run::run(&cli.run),
        Some(Tool::Load(options)) => load::run(options),
        Some(Tool::Upstream(options)) => upstream::run(options),
        Some(Tool::Delay(options)) => delay::run(options),
        Some(Tool::Echo(options)) => echo::run(options),
        Some(Tool::Neighbour(options)) => neighbour::run(options),
        Some(Tool::Attack(options)) => attack::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("dot-bench: {failure}");
            ExitCode::FAILURE
        }
    }
}
