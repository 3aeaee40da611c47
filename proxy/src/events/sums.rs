//! Repeated events are summed, so that a flood of garbage cannot make the log, or who reads it, its victim.
//!
//! The first of its kind from a client is told at once. What follows is counted and told as one event after a second;
//! while it goes on after 2, 4, … and at last every 60 seconds; a quiet span ends it. Pure: time is an argument.

use std::time::{Duration, Instant, SystemTime};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::event::{Event, Key};

/// Clients told apart at once, kinds of events included; what further clients do is summed without their addresses.
const CLIENTS: usize = 64;

/// The first span over which repetitions are summed.
const FIRST: Duration = Duration::from_secs(1);

/// The longest one.
const LAST: Duration = Duration::from_secs(60);

/// An event to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// The event; of several, the last.
    pub(super) event: Event,
    /// How many it stands for.
    pub(super) count: u64,
    /// When the first of them happened.
    pub(super) start: SystemTime,
    /// When the last of them happened.
    pub(super) end: SystemTime,
    /// Whether it stands for what several clients did.
    pub(super) several_clients: bool,
}

/// What was told a moment ago, and how often it happened since.
#[derive(Debug, Default)]
pub(super) struct Sums {
    by_key: HashMap<Key, Sum, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Sum {
    /// What happened since the last telling.
    repeated: Option<Told>,
    several_clients: bool,
    span: Duration,
    ends: Instant,
}

impl Sums {
    /// Takes an event; gives it back if it is to be told now.
    pub(super) fn add(&mut self, event: Event, at: SystemTime, now: Instant) -> Option<Told> {
        let mut key = event.key();
        let mut several_clients = false;
        if self.by_key.len() >= CLIENTS && key.is_of_a_client() && !self.by_key.contains_key(&key) {
            key = key.of_anybody();
            several_clients = true;
        }
        match self.by_key.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Sum { repeated: None, several_clients, span: FIRST, ends: now + FIRST });
                Some(Told { event, count: 1, start: at, end: at, several_clients })
            }
            Entry::Occupied(mut sum) => {
                sum.get_mut().repeat(event, at);
                None
            }
        }
    }

    /// Takes out what is to be told by now.
    pub(super) fn due(&mut self, now: Instant, tell: &mut impl FnMut(Told)) {
        self.by_key.retain(|_, sum| {
            if now < sum.ends {
                return true;
            }
            let Some(told) = sum.repeated.take() else { return false };
            tell(told);
            sum.span = (sum.span * 2).min(LAST);
            sum.ends = now + sum.span;
            true
        });
    }

    /// Takes out everything, whether its time has come or not.
    pub(super) fn rest(&mut self, tell: &mut impl FnMut(Told)) {
        self.by_key.drain().filter_map(|(_, sum)| sum.repeated).for_each(tell);
    }

    /// When something has to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_key.values().map(|sum| sum.ends).min()
    }
}

impl Sum {
    fn repeat(&mut self, event: Event, at: SystemTime) {
        let several_clients = self.several_clients;
        match &mut self.repeated {
            Some(told) => {
                told.event = event;
                told.count += 1;
                told.end = at;
            }
            None => self.repeated = Some(Told { event, count: 1, start: at, end: at, several_clients }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Transport;

    fn garbage(client: &str) -> Event {
        Event::ClientMisbehaved { client: client.parse().unwrap(), transport: Transport::Udp, how: "not-a-query" }
    }

    fn due(sums: &mut Sums, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        sums.due(now, &mut |one| told.push(one));
        told
    }

    #[test]
    fn the_first_is_told_at_once_and_a_flood_as_a_count_after_growing_spans() {
        let (mut sums, start, at) = (Sums::default(), Instant::now(), SystemTime::now());
        assert_eq!(sums.add(garbage("192.0.2.1:1"), at, start).map(|told| told.count), Some(1));
        let mut tellings = Vec::new();
        for milliseconds in 0..200_000 {
            let now = start + Duration::from_millis(milliseconds);
            tellings.extend(due(&mut sums, now).iter().map(|told| (milliseconds / 1000, told.count)));
            assert_eq!(sums.add(garbage("192.0.2.1:2"), at, now), None);
        }
        let expected =
            [(1, 1000), (3, 2000), (7, 4000), (15, 8000), (31, 16_000), (63, 32_000), (123, 60_000), (183, 60_000)];
        assert_eq!(tellings, expected);
    }

    #[test]
    fn a_quiet_span_ends_it_and_leaves_nothing_to_wake_up_for() {
        let (mut sums, now, at) = (Sums::default(), Instant::now(), SystemTime::now());
        sums.add(garbage("192.0.2.1:1"), at, now);
        assert_eq!(sums.next(), Some(now + FIRST));
        assert_eq!(due(&mut sums, now + FIRST), []);
        assert_eq!(sums.next(), None);
        assert!(sums.add(garbage("192.0.2.1:1"), at, now + FIRST).is_some());
    }

    #[test]
    fn ports_and_addresses_of_one_64_are_one_client_and_other_deeds_are_other_events() {
        let (mut sums, now, at) = (Sums::default(), Instant::now(), SystemTime::now());
        assert!(sums.add(garbage("[2001:db8::1]:1"), at, now).is_some());
        assert!(sums.add(garbage("[2001:db8::ffff:1]:2"), at, now).is_none());
        assert!(sums.add(garbage("[2001:db8:0:1::1]:1"), at, now).is_some());
        let reset = Event::ConnectionReset { client: "[2001:db8::1]:1".parse().unwrap(), why: "bad-frame" };
        assert!(sums.add(reset, at, now).is_some());
    }

    #[test]
    fn of_a_thousand_forged_sources_few_are_told_apart_and_none_is_forgotten() {
        let (mut sums, now, at) = (Sums::default(), Instant::now(), SystemTime::now());
        let mut told = Vec::new();
        for index in 0..1000 {
            told.extend(sums.add(garbage(&format!("10.0.{}.{}:53", index / 250, index % 250)), at, now));
        }
        assert_eq!(told.len(), CLIENTS + 1);
        assert!(told.last().is_some_and(|told| told.several_clients));
        told.extend(due(&mut sums, now + FIRST));
        assert_eq!(told.iter().map(|told| told.count).sum::<u64>(), 1000);
        assert_eq!(told.len(), CLIENTS + 2);
    }
}
