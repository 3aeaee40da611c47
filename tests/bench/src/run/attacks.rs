//! The run of attacks: of each contender each attack in turn, with a good client beside it; before, it asks alone.

mod measure;
mod memory_limit;
mod network;
mod report;
mod rounds;
mod targets;

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Instant;

use clap::ValueEnum;
pub(super) use measure::SLACK;
use measure::{Attacked, Server};
use memory_limit::MemoryLimit;
pub(super) use targets::megabytes;

use super::contender::{Contender, PROXY};
use super::results::Results;
use super::site::Site;
use super::summary::Machine;
use super::{Options, progress};
use crate::attack::Kind;
use crate::failure::{During, Failure, Outcome};
use crate::system;

/// Whom the attacks are tried on.
const CONTENDERS: [&str; 4] = [PROXY, "unbound", "coredns", "dnsdist"];
/// Descriptors that a server may have open, as in a pod by default, or nearly.
const DESCRIPTORS: u64 = 1 << 16;

/// How large everything is.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// How often each attack is tried in which the good client's p99 counts.
    rounds: usize,
    /// How long the good client asks, alone and then under attack, in seconds.
    seconds: f64,
    /// How long an attack goes on before the good client begins, and after it has asked for the last time.
    before: f64,
    after: f64,
    /// How long one that fills UDP does, so that it is there for what the good client sends again.
    fills_udp_after: f64,
    /// How long clients that never read go on after it has ended: until they are let go, after ten seconds by default.
    never_reads_after: f64,
    /// Names that are asked for once before the attacks, so that the cache is as full as it gets.
    names: u64,
    cache: &'static str,
    /// Milliseconds until the good client sends a query over UDP again.
    retry: u64,
    /// Datagrams a second at most: a proxy as it is compiled for tests is so slow that nobody else would get through.
    rate: Option<u64>,
}

const FULL: Scale = Scale {
    rounds: 5,
    seconds: 3.0,
    before: 1.0,
    after: 0.5,
    fills_udp_after: 3.0,
    never_reads_after: 8.0,
    names: 250_000,
    cache: "32Mi",
    retry: 1_000,
    rate: None,
};
const SHORT: Scale = Scale {
    rounds: 1,
    seconds: 1.0,
    before: 0.3,
    after: 0.3,
    fills_udp_after: 0.7,
    never_reads_after: 0.7,
    names: 10_000,
    cache: "1Mi",
    retry: 300,
    rate: Some(10_000),
};

impl Scale {
    fn rounds_of(&self, kind: Kind) -> usize {
        if kind.fills_udp() { 1 } else { self.rounds }
    }

    /// How long an attack goes on after the good client has ended.
    fn after_of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::NeverReads => self.never_reads_after,
            _ if kind.fills_udp() => self.fills_udp_after,
            _ => self.after,
        }
    }
}

/// Attacks, prints the tables, writes the summary.
pub(super) fn run(options: &Options) -> Outcome<()> {
    let mut remarks = Results::default();
    let kinds = prepare(options, &mut remarks)?;
    let programs = super::programs(options)?;
    let names = match &options.peers[..] {
        _ if options.short => vec![PROXY.to_owned()],
        [] => CONTENDERS.map(str::to_owned).to_vec(),
        peers => peers.to_vec(),
    };
    let contenders = super::contenders(&names, &programs, &mut remarks)?;
    let limit = MemoryLimit::new();
    if let Err(failure) = &limit {
        remarks
            .remark(format!("{PROXY} ran without a limit of memory, which was only held against its peak: {failure}"));
    }
    let site = Site::new(programs)?;
    system::move_to(&[site.load_processor]).during("moving to the load's processor")?;
    let (machine, began) = (Machine::read(), Instant::now());
    let scale = if options.short { &SHORT } else { &FULL };
    let mut found = Vec::new();
    for contender in &contenders {
        let limit = limit.as_ref().ok().filter(|_| contender.name == PROXY);
        all_of(contender, &kinds, &site, limit, scale, &mut found, &mut remarks)?;
    }
    progress("");
    let verdicts = targets::judge(&found, options.short);
    let mut text = Vec::new();
    report::print(&mut text, &found, &contenders, &verdicts, &remarks, &machine, began.elapsed(), options.short)
        .during("printing")?;
    report::write(options, &text, &found, &machine)?;
    std::io::stdout().write_all(&text).during("printing")?;
    let missed = verdicts.iter().map(targets::Verdicts::missed).sum::<usize>();
    if options.short && missed > 0 {
        return Err(Failure::new(format!("{PROXY} missed what is wanted in {missed} places: see above")));
    }
    Ok(())
}

/// Goes where nobody else is; tells which attacks can be tried there.
fn prepare(options: &Options, remarks: &mut Results) -> Outcome<Vec<Kind>> {
    system::limits::descriptors(DESCRIPTORS).during("raising the limit of descriptors")?;
    let wanted = if options.attack.is_empty() { Kind::value_variants().to_vec() } else { options.attack.clone() };
    let alone = system::network::leave().during("making a network namespace, which takes root");
    if let Err(failure) = alone.and_then(|()| network::nowhere()) {
        remarks.remark(format!("attacks from forged addresses were left out: {failure}"));
        return Ok(wanted.into_iter().filter(|kind| !kind.forges()).collect());
    }
    Ok(wanted)
}

/// Each attack on one contender. A server that ends is started again for the next.
fn all_of(
    contender: &Contender,
    kinds: &[Kind],
    site: &Site,
    limit: Option<&MemoryLimit>,
    scale: &Scale,
    found: &mut Vec<Attacked>,
    remarks: &mut Results,
) -> Outcome<()> {
    let (forging, plain): (Vec<Kind>, Vec<Kind>) = kinds.iter().partition(|kind| kind.forges());
    for (host, kinds) in [(Ipv4Addr::LOCALHOST, plain), (network::HOST, forging)] {
        let mut running = None;
        for kind in kinds {
            progress(&format!("{}: {}", contender.name, kind.what()));
            let outcome = match running.take() {
                Some(server) => Ok(server),
                None => Server::start(contender, site, host, limit, scale),
            }
            .and_then(|mut server: Server| Ok((server.attack(contender, kind, site, scale)?, server)));
            match outcome {
                Ok((attacked, server)) => {
                    running = Some(server).filter(|_| attacked.ended.is_none());
                    found.push(attacked);
                }
                Err(failure) if contender.name == PROXY => {
                    return Err(Failure::new(format!("{PROXY}, {}: {failure}", kind.what())));
                }
                Err(failure) => remarks.remark(format!("{}, {}: {failure}", contender.name, kind.what())),
            }
        }
    }
    Ok(())
}
