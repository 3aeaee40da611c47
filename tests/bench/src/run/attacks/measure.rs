//! One attack on one server, in rounds: what the good client sees before and meanwhile, and what is left of the attack afterwards.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::memory_limit::MemoryLimit;
use super::rounds::Round;
use super::{Scale, network};
use crate::attack::{self, Kind};
use crate::failure::{During, Outcome};
use crate::neighbour;
use crate::run::contender::Contender;
use crate::run::site::{self, Site, Start, Upstream};
use crate::system;

/// How long a server may take until nothing is left of an attack.
const RECOVERY: Duration = Duration::from_secs(10);
/// How much more memory than before counts as none: what an allocator keeps at hand.
pub(in crate::run) const SLACK: u64 = 2 << 20;

/// A server, its upstream, and how often it was attacked.
pub(super) struct Server {
    server: site::Server,
    _upstream: Upstream,
    /// How many good clients have asked it.
    clients: u32,
}

/// What came of an attack.
#[derive(Debug, Serialize)]
pub(super) struct Attacked {
    pub(super) contender: String,
    pub(super) attack: Kind,
    pub(super) rounds: Vec<Round>,
    /// In all rounds.
    pub(super) attacker: attack::Report,
    /// Datagrams that the kernel dropped on the server's full sockets.
    pub(super) dropped: u64,
    /// Connections that the kernel dropped because too many waited to be accepted.
    pub(super) not_accepted: u64,
    /// Octets sent to forged addresses for each octet that the server was sent from them.
    pub(super) amplification: Option<f64>,
    pub(super) before: Held,
    /// The most octets of memory meanwhile.
    pub(super) most_memory: u64,
    pub(super) after: Held,
    /// What it said when the attack ended it.
    pub(super) ended: Option<String>,
}

/// What a server holds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Held {
    pub(super) memory: u64,
    pub(super) descriptors: u64,
}

impl Server {
    /// Starts it, and fills its cache, so that what it holds does not grow of itself.
    pub(super) fn start(
        contender: &Contender,
        site: &Site,
        host: Ipv4Addr,
        limit: Option<&MemoryLimit>,
        scale: &Scale,
    ) -> Outcome<Self> {
        let upstream = site.upstream()?;
        // It stands for another machine, which no attacker takes the processor from.
        system::limits::prompt(upstream.process.id()).during("giving the upstream a short slice")?;
        let wrapper = limit.map(MemoryLimit::wrapper);
        let wrapper: Vec<&str> = wrapper.iter().flatten().map(String::as_str).collect();
        let start = Start { host, cache: scale.cache, ..Start::with(upstream.port) };
        let mut server = site.serve_under(&wrapper, contender, start)?;
        server.ready()?;
        site.load(&server, &format!("--names once:warm --count {} --seconds 20", scale.names))?;
        site.load(&server, "--names lasting:0:1000 --count 20000 --seconds 5")?;
        Ok(Self { server, _upstream: upstream, clients: 0 })
    }

    /// In each round lets the good client ask alone, then beside the attack, and waits until the server has recovered.
    pub(super) fn attack(
        &mut self,
        contender: &Contender,
        kind: Kind,
        site: &Site,
        scale: &Scale,
    ) -> Outcome<Attacked> {
        let drops = (network::dropped_at(self.server.port)?, network::not_accepted(), network::sent_nowhere());
        let mut attacked = Attacked {
            contender: contender.name.clone(),
            attack: kind,
            rounds: Vec::new(),
            attacker: attack::Report::default(),
            dropped: 0,
            not_accepted: 0,
            amplification: None,
            before: Held::default(),
            most_memory: 0,
            after: Held::default(),
            ended: None,
        };
        while attacked.rounds.len() < scale.rounds_of(kind) && attacked.ended.is_none() {
            let quiet = self.good_client(site, scale)?.report()?;
            // What the good client left is gone by then.
            std::thread::sleep(Duration::from_millis(100));
            if attacked.rounds.is_empty() {
                attacked.before = self.held()?;
                self.server.process.forget_most()?;
            }
            let (beside, attacker) = self.good_client_beside(kind, site, scale)?;
            attacked.rounds.push(Round { quiet, beside });
            attacked.attacker.add(&attacker);
            attacked.ended = self.server.process.alive().err().map(|failure| failure.to_string());
            if attacked.ended.is_none() {
                attacked.most_memory = self.server.process.most_resident()?;
                // Memory may be given back later than the next round begins, but not later than all are over.
                let last = attacked.rounds.len() == scale.rounds_of(kind);
                attacked.after = self.recovered(attacked.before, last.then_some(SLACK))?;
            }
        }
        attacked.dropped = network::dropped_at(self.server.port)?.saturating_sub(drops.0);
        attacked.not_accepted = network::not_accepted() - drops.1;
        if kind.forges() {
            let sent = (network::sent_nowhere() - drops.2) as f64;
            let arrived = attacked.attacker.sent.saturating_sub(attacked.dropped) as f64;
            let octets = attacked.attacker.octets as f64 * arrived / attacked.attacker.sent.max(1) as f64;
            attacked.amplification = Some(sent / octets.max(1.0));
        }
        Ok(attacked)
    }

    fn good_client_beside(
        &mut self,
        kind: Kind,
        site: &Site,
        scale: &Scale,
    ) -> Outcome<(neighbour::Report, attack::Report)> {
        let mut arguments =
            format!("--kind {} --seconds {}", kind_name(kind), scale.before + scale.seconds + scale.after_of(kind));
        if let Some(rate) = scale.rate.filter(|_| kind.fills_udp()) {
            arguments += &format!(" --rate {rate}");
        }
        let attacker = site.start_asking::<attack::Report>("attack", &self.server, &arguments)?;
        std::thread::sleep(Duration::from_secs_f64(scale.before));
        let beside = self.good_client(site, scale)?.report()?;
        Ok((beside, attacker.report()?))
    }

    fn good_client(&mut self, site: &Site, scale: &Scale) -> Outcome<site::Asking<neighbour::Report>> {
        self.clients += 1;
        let arguments = format!("--seconds {} --retry {} --label g{}", scale.seconds, scale.retry, self.clients);
        site.start_asking("neighbour", &self.server, &arguments)
    }

    fn held(&self) -> Outcome<Held> {
        Ok(Held { memory: self.server.process.resident()?, descriptors: self.server.process.descriptors()? })
    }

    /// What it holds once no descriptor is left of the attack, and of memory no more than this if it matters; or when it has had the time.
    fn recovered(&self, before: Held, slack: Option<u64>) -> Outcome<Held> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let held = self.held()?;
            let given_back = slack.is_none_or(|slack| held.memory <= before.memory + slack);
            let recovered = held.descriptors <= before.descriptors && given_back;
            if recovered || Instant::now() > deadline {
                return Ok(held);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn kind_name(kind: Kind) -> String {
    clap::ValueEnum::to_possible_value(&kind).map_or_else(String::new, |value| value.get_name().to_owned())
}
