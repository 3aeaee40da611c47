//! How many datagrams are answered by something larger: a limit for each network, so that nobody is flooded by what
//! others asked in its name.
//!
//! What is limited is queries, before anything is done for them: each brings one response at most.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// Networks are counted in so many places. Those that fall into one share its rate, and nobody can foresee which do.
const PLACES: usize = 4096;

/// The limit for each network.
pub struct ResponseLimit {
    hasher: RandomState,
    /// When each place will have made up for what it took, in nanoseconds since the beginning (GCRA). Made when the first
    /// stranger comes: most sidecars never see one.
    places: OnceLock<Box<[AtomicU64]>>,
    began: Instant,
    /// Nanoseconds for one response; 0: there is no limit.
    interval: u64,
    /// Nanoseconds that may be borrowed.
    burst: u64,
    /// Every so manieth query beyond is answered.
    slip: u32,
    beyond: AtomicU32,
}

impl ResponseLimit {
    /// The limit as it is written.
    pub fn of(written: &dot_proxy_config::Responses, now: Instant) -> Self {
        let interval = 1_000_000_000u64.checked_div(written.per_second.into()).unwrap_or(0);
        Self {
            hasher: RandomState::default(),
            places: OnceLock::new(),
            began: now,
            interval,
            burst: interval * u64::from(written.burst),
            slip: written.slip,
            beyond: AtomicU32::new(0),
        }
    }

    /// Takes one response for a source's network; false where the limit is reached.
    pub fn take(&self, source: IpAddr, now: Instant) -> bool {
        if self.interval == 0 {
            return true;
        }
        let places = self.places.get_or_init(|| (0..PLACES).map(|_| AtomicU64::new(0)).collect());
        let index = usize::try_from(self.hasher.hash_one(network(source)) % PLACES as u64).expect("less than PLACES");
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        let take = |due: u64| {
            let due = due.max(now) + self.interval;
            (due - now <= self.burst).then_some(due)
        };
        places[index].fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whether a query beyond the limit is answered all the same, by something no larger than it is.
    pub fn slips(&self) -> bool {
        self.slip > 0 && self.beyond.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.slip)
    }
}

/// A source's network: an IPv4 /24 or an IPv6 /56.
fn network(source: IpAddr) -> (bool, u128) {
    match source.to_canonical() {
        IpAddr::V4(address) => (false, u128::from(address.to_bits() >> 8)),
        IpAddr::V6(address) => (true, address.to_bits() >> 72),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dot_proxy_config::Responses;
    use proptest::prelude::*;
    use std::time::Duration;

    fn limit(per_second: u32, burst: u32, slip: u32) -> (ResponseLimit, Instant) {
        let now = Instant::now();
        (ResponseLimit::of(&Responses { per_second, burst, slip }, now), now)
    }

    fn taken(limit: &ResponseLimit, source: &str, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| limit.take(source.parse().unwrap(), now)).count()
    }

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let (limit, now) = limit(10, 30, 2);
        assert_eq!(taken(&limit, "192.0.2.1", now, 100), 30);
        assert_eq!(taken(&limit, "192.0.2.1", now + Duration::from_secs(1), 100), 10);
        assert_eq!(taken(&limit, "192.0.2.1", now + Duration::from_secs(1000), 100), 30);
    }

    #[test]
    fn addresses_of_a_network_are_one_and_networks_are_apart() {
        let (limit, now) = limit(10, 30, 2);
        assert_eq!(taken(&limit, "192.0.2.1", now, 30), 30);
        assert_eq!(taken(&limit, "192.0.2.255", now, 30), 0);
        assert_eq!(taken(&limit, "::ffff:192.0.2.9", now, 30), 0);
        // One in 4,096 shares the place: of three others none does in all runs but one in 10^10.
        let others = ["192.0.3.1", "198.51.100.1", "2001:db8:0:100::1"];
        assert!(others.iter().any(|other| taken(&limit, other, now, 1) == 1));
        assert_eq!(network("2001:db8:0:1ff::1".parse().unwrap()), network("2001:db8:0:100::".parse().unwrap()));
        assert_ne!(network("2001:db8:0:200::1".parse().unwrap()), network("2001:db8:0:100::".parse().unwrap()));
    }

    #[test]
    fn every_so_manieth_beyond_the_limit_slips_through() {
        for (slip, expected) in [(0, 0), (1, 100), (2, 50), (3, 34)] {
            let (limit, _) = limit(1, 1, slip);
            assert_eq!((0..100).filter(|_| limit.slips()).count(), expected);
        }
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let (limit, now) = limit(0, 1, 2);
        assert_eq!(taken(&limit, "192.0.2.1", now, 100_000), 100_000);
    }

    proptest! {
        /// However queries come, no stretch of time sees more than the burst and the rate over it.
        #[test]
        fn the_rate_is_never_exceeded(pauses in prop::collection::vec(0u64..200, 1..300)) {
            let (limit, began) = limit(20, 5, 2);
            let (mut now, mut count) = (began, 0u64);
            for pause in pauses {
                now += Duration::from_millis(pause);
                count += u64::from(limit.take("192.0.2.1".parse().unwrap(), now));
                let most = 5 + u64::try_from((now - began).as_millis()).unwrap() * 20 / 1000 + 1;
                prop_assert!(count <= most);
            }
        }
    }
}
