use std::time::Duration;

use dot_proxy_config::Responses;
use proptest::prelude::*;

use super::*;

fn limited(written: &Responses) -> (ResponseLimit, Instant) {
    let now = Instant::now();
    (ResponseLimit::of(written, now), now)
}

fn of_networks(per_second: u32, burst: u32, slip: u32) -> (ResponseLimit, Instant) {
    limited(&Responses { per_second, burst, per_second_in_all: 0, slip })
}

fn grants(limit: &ResponseLimit, source: &str, now: Instant, tries: usize) -> Vec<Grant> {
    (0..tries).map(|_| limit.take(source.parse().unwrap(), now)).collect()
}

fn taken(limit: &ResponseLimit, source: &str, now: Instant, tries: usize) -> usize {
    grants(limit, source, now, tries).iter().filter(|grant| **grant == Grant::Response).count()
}

/// Of so many networks one query each.
fn taken_by_many(limit: &ResponseLimit, networks: u32, now: Instant) -> usize {
    let address = |index: u32| IpAddr::V4((0x0a00_0001 + (index << 8)).into());
    (0..networks).filter(|index| limit.take(address(*index), now) == Grant::Response).count()
}

#[test]
fn a_burst_is_let_through_and_then_the_rate() {
    let (limit, now) = of_networks(10, 30, 2);
    assert_eq!(taken(&limit, "192.0.2.1", now, 100), 30);
    assert_eq!(taken(&limit, "192.0.2.1", now + Duration::from_secs(1), 100), 10);
    assert_eq!(taken(&limit, "192.0.2.1", now + Duration::from_secs(1000), 100), 30);
}

#[test]
fn addresses_of_a_network_are_one_and_networks_are_apart() {
    let (limit, now) = of_networks(10, 30, 2);
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
fn a_network_beyond_its_limit_is_told_each_time_for_a_while_and_then_every_so_manieth_time() {
    for (slip, expected) in [(0, 0), (1, 100), (2, 20 + 40), (4, 20 + 20)] {
        let (limit, now) = of_networks(10, 10, slip);
        assert_eq!(taken(&limit, "192.0.2.1", now, 10), 10);
        let beyond = grants(&limit, "192.0.2.1", now, 100);
        assert_eq!(beyond.iter().filter(|grant| **grant == Grant::Told).count(), expected, "slip {slip}");
        assert!(!beyond.contains(&Grant::Response));
    }
}

#[test]
fn every_so_manieth_beyond_all_limits_slips_through() {
    for (slip, expected) in [(0, 0), (1, 100), (2, 50), (3, 34)] {
        let (limit, _) = of_networks(1, 1, slip);
        assert_eq!((0..100).filter(|_| limit.beyond() == Grant::Told).count(), expected);
    }
}

#[test]
fn all_networks_together_have_a_limit_that_no_number_of_forged_sources_exceeds() {
    let (limit, now) = limited(&Responses { per_second_in_all: 100, ..Responses::default() });
    assert_eq!(taken_by_many(&limit, 60_000, now), 100);
    assert_eq!(taken_by_many(&limit, 60_000, now + Duration::from_millis(500)), 50);
    assert_eq!(taken_by_many(&limit, 60_000, now + Duration::from_secs(60)), 100);
}

#[test]
fn who_has_connected_keeps_its_networks_share_for_an_hour_while_all_others_have_none() {
    let (limit, now) = limited(&Responses { per_second: 10, burst: 10, per_second_in_all: 1, slip: 2 });
    let (client, hour) = ("192.0.2.1", Duration::from_secs(3_600));
    // What all together may have is one: a network that is counted elsewhere takes it, and nothing of the client's.
    let elsewhere = |source: &String| limit.place(source.parse().unwrap()) != limit.place(client.parse().unwrap());
    let other = (0..9).map(|index| format!("10.0.{index}.1")).find(elsewhere).unwrap();
    let flood = |now| assert_eq!(taken(&limit, &other, now, 10), 1);
    flood(now);
    assert_eq!(taken(&limit, client, now, 100), 0);
    limit.connected(client.parse().unwrap(), now + Duration::from_secs(10));
    for after in [Duration::from_secs(11), hour] {
        flood(now + after);
        assert_eq!(taken(&limit, "::ffff:192.0.2.1", now + after, 100), 10, "its network's own limit holds");
        assert_eq!(taken(&limit, "192.0.3.1", now + after, 100), 0, "another has not connected");
    }
    flood(now + hour + Duration::from_secs(12));
    assert_eq!(taken(&limit, client, now + hour + Duration::from_secs(12), 100), 0, "that was too long ago");
}

#[test]
fn without_rates_there_is_no_limit() {
    let (limit, now) = of_networks(0, 1, 2);
    assert_eq!(taken(&limit, "192.0.2.1", now, 100_000), 100_000);
}

proptest! {
    /// However queries come, no stretch of time sees more than the burst and the rate over it.
    #[test]
    fn the_rate_is_never_exceeded(pauses in prop::collection::vec(0u64..200, 1..300)) {
        let (limit, began) = of_networks(20, 5, 2);
        let (mut now, mut count) = (began, 0);
        for pause in pauses {
            now += Duration::from_millis(pause);
            count += taken(&limit, "192.0.2.1", now, 1) as u64;
            let most = 5 + u64::try_from((now - began).as_millis()).unwrap() * 20 / 1000 + 1;
            prop_assert!(count <= most);
        }
    }
}
