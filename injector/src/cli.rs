//! The command line: one file a subcommand.

mod check;
mod connection;
mod crd;
mod explain;
mod inject;
mod installation;
mod neighbours;
mod offline;
mod plugin;
mod pod_security;
mod policy;
mod serve;
mod status;
mod table;
mod uninject;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Gives Kubernetes pods that ask for it a sidecar that sends their DNS queries over TLS.
#[derive(Debug, Parser)]
#[command(
    name = "dot-injector",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
#[command(
    after_help = "A pod asks by the annotation dot-sidecar.io/inject: \"true\", a namespace for all its pods by the label of \
the same name.\n\nExit codes: 0 done, and all is well; 1 failed at work, or not all is well (a pod is denied or missing, a check failed); \
2 wrong usage or configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the admission webhook (in a pod of the cluster; elsewhere by KUBECONFIG)
    Serve(serve::Serve),
    /// Print manifests as admission would make them, without a cluster
    Inject(inject::Inject),
    /// Print manifests without the sidecar, as they were before, without a cluster
    Uninject(uninject::Uninject),
    /// Say what would happen to the pods of manifests, and why
    Explain(explain::Explain),
    /// Check whether the cluster can run the sidecar, and whether the installation is healthy
    Check(check::Check),
    /// Say which pods have the sidecar, which have an outdated one, and which lack it
    Status(status::Status),
    /// Print the definition of ProxyProfile (CustomResourceDefinition), as the chart installs it
    Crd(crd::Crd),
    /// Print what makes a shell complete commands and flags
    Completion(plugin::Completion),
    /// Print injection as CEL, for clusters that inject by policy, without a webhook
    Policy(policy::Policy),
}

/// How a command ended that did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command line or a configuration cannot be used: 2.
    Usage(String),
    /// It was understood, and failed: 1.
    Work(String),
    /// It was understood and done, the answer is no, and has been printed: 1.
    Negative,
}

impl Failure {
    fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    fn work(error: impl fmt::Display) -> Self {
        Self::Work(error.to_string())
    }
}

/// Runs the command that was asked for. The first argument is the name by which the program was called.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let program = arguments.first().cloned().unwrap_or_default();
    if plugin::is_completion(&program) {
        let words: Vec<String> = arguments.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = Cli::command();
        command.build();
        return ended("dot-injector", print(&plugin::completions(&command, &words)));
    }
    let name = plugin::name(&program);
    let matches = plugin::named(Cli::command(), name).try_get_matches_from(arguments);
    match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => ended(name, cli.command.run()),
        // Help and the version are told as errors, too: they end with 0.
        Err(error) => error.exit(),
    }
}

impl Command {
    fn run(self) -> Result<(), Failure> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Inject(inject) => inject.run(),
            Self::Uninject(uninject) => uninject.run(),
            Self::Status(status) => status.run(),
            Self::Explain(explain) => explain.run(),
            Self::Check(check) => check.run(),
            Self::Crd(crd) => crd.run(),
            Self::Policy(policy) => policy.run(),
            Self::Completion(completion) => completion.run(Cli::command()),
        }
    }
}

fn ended(name: &str, done: Result<(), Failure>) -> ExitCode {
    let (message, code) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, 2),
        Err(Failure::Work(message)) => (message, 1),
        Err(Failure::Negative) => return ExitCode::from(1),
    };
    say(format_args!("{name}: {message}\n"));
    ExitCode::from(code)
}

/// Writes to standard error. Where that is closed, there is nobody to tell.
fn say(message: fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = std::io::stderr().lock().write_fmt(message);
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Who reads has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Failure::Work(format!("standard output: {error}"))),
    }
}

/// A runtime for the commands that talk to a network.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    Ok(runtime.map_err(|error| Failure::Work(format!("the runtime could not be started: {error}")))?.block_on(work))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
