use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn settings() -> ShutOut {
    ShutOut { remembered: 64, ..ShutOut::default() }
}

fn table() -> (Table, Instant) {
    (Table::new(settings(), 7), Instant::now())
}

fn v4(last: u8) -> Who {
    Who::V4(Ipv4Addr::new(192, 0, 2, last))
}

/// Notes the same again and again, until it is restrained for it or was not after so many.
fn until_restrained(table: &mut Table, who: Who, offence: Offence, now: Instant, most: usize) -> (usize, Restrained) {
    let noted = (1..=most).find_map(|count| Some((count, table.note(who, offence, now)?)));
    noted.unwrap_or_else(|| panic!("{most} were forgiven"))
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn who_is_over_the_score_is_shut_out_for_a_time_that_doubles_and_is_bounded() {
    let (mut table, mut now) = table();
    let mut times = Vec::new();
    for _ in 0..12 {
        let (_, restrained) = until_restrained(&mut table, v4(1), Offence::Malformed, now, 10);
        assert_eq!((restrained.restraint, restrained.who), (Restraint::ShutOut, v4(1)));
        assert_eq!(table.standing(v4(1), now + restrained.time - SECOND), Standing::ShutOut);
        assert_eq!(table.release(v4(1), now + restrained.time - SECOND), None);
        now += restrained.time;
        assert_eq!(table.standing(v4(1), now), Standing::Free);
        assert_eq!(table.release(v4(1), now), Some(Restraint::ShutOut));
        times.push(restrained.time.as_secs());
    }
    assert_eq!(times, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600, 3600]);
    assert_eq!(table.restrained(), 0);
    now += Duration::from_secs(3600);
    assert_eq!(until_restrained(&mut table, v4(1), Offence::Malformed, now, 10).1.time.as_secs(), 10);
}

#[test]
fn each_kind_has_its_weight_and_half_of_it_is_forgiven_in_a_half_life() {
    for (offence, count) in [(Offence::Malformed, 10), (Offence::Slow, 5), (Offence::Unused, 50), (Offence::Share, 20)]
    {
        let (mut table, now) = table();
        assert_eq!(until_restrained(&mut table, v4(1), offence, now, 100).0, count);
    }
    let (mut table, now) = table();
    (0..9).for_each(|_| assert_eq!(table.note(v4(1), Offence::Malformed, now), None));
    // 90 have become 45: the sixth reaches 100 again.
    let later = now + Duration::from_secs(60);
    assert_eq!(until_restrained(&mut table, v4(1), Offence::Malformed, later, 100).0, 6);
}

#[test]
fn others_are_not_restrained_with_it() {
    let (mut table, now) = table();
    until_restrained(&mut table, v4(1), Offence::Malformed, now, 10);
    for other in [v4(2), Who::V6(1), Who::Loopback(0), Who::Loopback(53)] {
        assert_eq!(table.standing(other, now), Standing::Free);
    }
}

#[test]
fn datagrams_that_anybody_could_have_sent_shut_nobody_out_but_require_a_cookie() {
    let (mut table, now) = table();
    assert_eq!(until_restrained(&mut table, v4(1), Offence::Datagram, now, 100).1.restraint, Restraint::CookieRequired);
    assert_eq!(table.standing(v4(1), now), Standing::CookieRequired);
    // What it then does on a connection counts in full.
    assert_eq!(until_restrained(&mut table, v4(1), Offence::Malformed, now, 10).1.restraint, Restraint::ShutOut);
    assert_eq!((table.standing(v4(1), now), table.restrained()), (Standing::ShutOut, 1));
}

#[test]
fn loopback_is_never_shut_out_only_a_port_of_it_slowed() {
    let (mut table, now) = table();
    for offence in Offence::ALL {
        (0..1000).for_each(|_| assert_eq!(table.note(Who::Loopback(0), offence, now), None));
    }
    let (_, slowed) = until_restrained(&mut table, Who::Loopback(40_000), Offence::Datagram, now, 100);
    assert_eq!(slowed.restraint, Restraint::Slowed);
    let looked_at = (0..1000).filter(|millisecond| {
        table.standing(Who::Loopback(40_000), now + Duration::from_millis(*millisecond)) == Standing::Free
    });
    assert_eq!(looked_at.count(), 20);
    assert_eq!(table.standing(Who::Loopback(40_001), now), Standing::Free);
}

#[test]
fn with_a_score_of_zero_nobody_is_restrained() {
    let mut table = Table::new(ShutOut { score: 0, ..settings() }, 7);
    let now = Instant::now();
    (0..10_000).for_each(|_| assert_eq!(table.note(v4(1), Offence::Slow, now), None));
}

#[test]
fn a_flood_of_addresses_makes_the_table_no_larger_and_frees_none_that_is_shut_out() {
    let (mut table, now) = table();
    until_restrained(&mut table, v4(1), Offence::Malformed, now, 10);
    for address in 0..100_000 {
        table.note(Who::V4(Ipv4Addr::from_bits(address)), Offence::Datagram, now);
        assert!(table.entries.len() <= 64);
    }
    assert_eq!(table.standing(v4(1), now), Standing::ShutOut);
    let rows = table.rows(now);
    assert_eq!((rows[0].who, rows[0].times, rows.len()), (v4(1), 1, 64));
}

#[test]
fn people_are_shown_what_is_left_of_each_kind() {
    let (mut table, now) = table();
    table.note(v4(1), Offence::Slow, now);
    table.note(v4(1), Offence::Unused, now);
    let rows = table.rows(now + Duration::from_secs(60));
    assert_eq!(rows.len(), 1);
    assert!((rows[0].score - 11.0).abs() < 0.01 && (rows[0].counts[Offence::Slow as usize] - 0.5).abs() < 0.01);
    assert_eq!(rows[0].ago, Duration::from_secs(60));
}

proptest! {
    /// Whatever happens in whatever order, the index, the bound and the count of the restrained stay true.
    #[test]
    fn the_table_stays_true(steps in prop::collection::vec((0u8..40, 0usize..KINDS, 0u64..100, any::<bool>()), 0..400)) {
        let mut table = Table::new(ShutOut { remembered: 16, score: 30, ..ShutOut::default() }, 3);
        let mut now = Instant::now();
        for (who, offence, later, release) in steps {
            now += Duration::from_secs(later);
            let who = if who < 4 { Who::Loopback(u16::from(who)) } else { v4(who) };
            if release {
                table.release(who, now);
            } else {
                table.note(who, Offence::ALL[offence], now);
            }
            prop_assert!(table.entries.len() <= 16);
            prop_assert_eq!(table.entries.len(), table.places.len());
            prop_assert!(table.entries.iter().enumerate().all(|(at, entry)| table.places[&entry.who] == at));
            prop_assert_eq!(table.restrained(), table.entries.iter().filter(|entry| entry.restraint.is_some()).count());
            prop_assert!(table.entries.iter().all(|entry| !entry.who.is_loopback() || !matches!(entry.restraint, Some((Restraint::ShutOut | Restraint::CookieRequired, _)))));
        }
    }
}
