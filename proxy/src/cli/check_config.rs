//! `dot-proxy check-config FILE`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::options::read_config;
use crate::config::Resolved;

/// Say whether a configuration file can be used, and what it means
#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// The file, YAML or JSON
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl CheckConfig {
    #[expect(clippy::print_stdout, reason = "the verdict is the command's result")]
    pub(super) fn run(&self) -> Result<(), Failure> {
        let written = read_config(&self.file)?;
        let file = self.file.display();
        let resolved = Resolved::from_written(&written).map_err(|error| Failure::Usage(format!("{file}: {error}")))?;
        println!("{file}: usable");
        println!("  takes queries on {} (UDP and TCP)", resolved.listen);
        for (group, names) in resolved.groups.iter().zip(names(&written)) {
            let servers: Vec<_> = group.servers.iter().map(|server| server.url.as_str()).collect();
            match servers[..] {
                [server] => println!("  asks {server} for {names}"),
                _ => println!("  asks {} for {names} ({})", servers.join(", "), group.strategy.as_str()),
            }
        }
        let stale = match resolved.stale_for.as_secs() {
            0 => "never after their time".to_owned(),
            seconds => format!("up to {seconds} s after their time when servers fail"),
        };
        println!("  keeps answers in {} bytes, and gives them {stale}", resolved.cache_budget);
        println!("  gives a query {:?}, and {} queries at once", resolved.deadline, resolved.in_flight);
        if !written.confinement.0 {
            println!("  is not confined: it keeps the rights that it is started with");
        }
        Ok(())
    }
}

/// What each group answers, in the groups' order.
fn names(written: &dot_proxy_config::Config) -> impl Iterator<Item = String> {
    let routes = written.routes.iter().map(|route| {
        let suffixes: Vec<_> = route.suffixes.iter().map(ToString::to_string).collect();
        format!("names under {}", suffixes.join(", "))
    });
    std::iter::once("everything else".to_owned()).chain(routes)
}
