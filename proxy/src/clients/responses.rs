//! How many datagrams of strangers are answered by something larger: a limit for each network, so that nobody is flooded
//! by what others asked in its name, and one for all together, so that many are not either.
//!
//! What is limited is queries, before anything is looked up for them: each brings one response at most. Who has shown that
//! its address is its own, by a connection, counts towards its network alone; who shows a cookie is not counted at all.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use tokio::time::Instant;

use super::who::Who;

/// Networks are counted in so many places. Those that fall into one share its rate, and nobody can foresee which do.
const PLACES: usize = 4096;

/// Addresses that a connection came from are remembered in so many places, the last of each.
const REMEMBERED: usize = 4096;

/// For so many seconds, as long as a cookie is good.
const LIFETIME: u64 = 3_600;

/// Truncated replies to a network for each response, before they are only for every so manieth query: who asks for a
/// little more than its share loses nothing but time.
const TRUNCATED: u64 = 2;

/// The limits.
pub struct ResponseLimit {
    hasher: RandomState,
    /// Made when the first stranger comes: most sidecars never see one.
    networks: OnceLock<Box<[Network]>>,
    /// Made when the first stranger connects. Of each the tag of an address, and the second in which it connected.
    connected: OnceLock<Box<[AtomicU64]>>,
    all: Taken,
    began: Instant,
    for_network: Rate,
    for_network_truncated: Rate,
    for_all: Rate,
    /// Every so manieth query beyond is answered.
    slip: u32,
    beyond: AtomicU32,
}

/// What becomes of a stranger's query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// It is answered.
    Response,
    /// It is told to come again, over TCP or with a cookie, by something no larger than it is.
    Told,
    /// It is not answered.
    Nothing,
}

/// What a network has taken.
#[derive(Debug, Default)]
struct Network {
    responses: Taken,
    truncated: Taken,
}

/// How much may be taken.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Nanoseconds for one; 0: there is no limit.
    interval: u64,
    /// Nanoseconds that may be borrowed.
    burst: u64,
}

/// When what was taken will be made up for, in nanoseconds since the beginning (GCRA).
#[derive(Debug, Default)]
struct Taken(AtomicU64);

impl Rate {
    fn new(per_second: u64, burst: u64) -> Self {
        let interval = 1_000_000_000u64.checked_div(per_second).unwrap_or(0);
        Self { interval, burst: interval * burst }
    }
}

impl Taken {
    /// Takes one, unless that is more than may be.
    fn take(&self, rate: Rate, now: u64) -> bool {
        let take = |due: u64| {
            let due = due.max(now) + rate.interval;
            (due - now <= rate.burst).then_some(due)
        };
        rate.interval == 0 || self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

impl ResponseLimit {
    /// The limits as they are written.
    pub fn of(written: &dot_proxy_config::Responses, now: Instant) -> Self {
        let (per_second, burst, all) =
            (written.per_second.into(), written.burst.into(), written.per_second_in_all.into());
        Self {
            hasher: RandomState::default(),
            networks: OnceLock::new(),
            connected: OnceLock::new(),
            all: Taken::default(),
            began: now,
            for_network: Rate::new(per_second, burst),
            for_network_truncated: Rate::new(TRUNCATED * per_second, TRUNCATED * burst),
            for_all: Rate::new(all, all),
            slip: written.slip,
            beyond: AtomicU32::new(0),
        }
    }

    /// Takes one response for a source, if it may have one.
    pub fn take(&self, source: IpAddr, now: Instant) -> Grant {
        let since = self.since(now);
        let networks = self.networks.get_or_init(|| (0..PLACES).map(|_| Network::default()).collect());
        let network = &networks[self.place(source)];
        if !network.responses.take(self.for_network, since) {
            if self.slip > 0 && network.truncated.take(self.for_network_truncated, since) {
                return Grant::Told;
            }
        } else if self.has_connected(source, since) || self.all.take(self.for_all, since) {
            return Grant::Response;
        }
        self.beyond()
    }

    /// What a query beyond all limits gets.
    pub fn beyond(&self) -> Grant {
        let slips = self.slip > 0 && self.beyond.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.slip);
        if slips { Grant::Told } else { Grant::Nothing }
    }

    /// Remembers that a connection came from an address: nobody can forge that.
    pub fn connected(&self, source: IpAddr, now: Instant) {
        let connected = self.connected.get_or_init(|| (0..REMEMBERED).map(|_| AtomicU64::new(0)).collect());
        let (index, tag) = self.remembered_at(source);
        connected[index].store(tag | seconds(self.since(now)), Ordering::Relaxed);
    }

    fn has_connected(&self, source: IpAddr, since: u64) -> bool {
        let Some(connected) = self.connected.get() else { return false };
        let (index, tag) = self.remembered_at(source);
        let found = connected[index].load(Ordering::Relaxed);
        found & TAG == tag && found != 0 && seconds(since).saturating_sub(found & !TAG) <= LIFETIME
    }

    /// Where an address is remembered, and by what it is known there.
    fn remembered_at(&self, source: IpAddr) -> (usize, u64) {
        let hash = self.hasher.hash_one(Who::of_network(source));
        (usize::try_from(hash % REMEMBERED as u64).expect("less than REMEMBERED"), hash & TAG)
    }

    /// Where a source's network is counted.
    fn place(&self, source: IpAddr) -> usize {
        usize::try_from(self.hasher.hash_one(network(source)) % PLACES as u64).expect("less than PLACES")
    }

    /// Nanoseconds since the beginning.
    fn since(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The half of a remembered address that tells which it is; the other half tells when.
const TAG: u64 = 0xffff_ffff_0000_0000;

/// Seconds, from 1 on, which fit into half for 136 years.
fn seconds(nanoseconds: u64) -> u64 {
    (nanoseconds / 1_000_000_000 + 1) & !TAG
}

/// A source's network: an IPv4 /24 or an IPv6 /56.
fn network(source: IpAddr) -> (bool, u128) {
    match source.to_canonical() {
        IpAddr::V4(address) => (false, u128::from(address.to_bits() >> 8)),
        IpAddr::V6(address) => (true, address.to_bits() >> 72),
    }
}

#[cfg(test)]
mod tests;
