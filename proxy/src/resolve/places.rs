//! Queries that wait for an answer: how many in all, and how many of each client.
//!
//! Nobody may have more places than are left for all others: whoever takes many finds that the fewer are left, the fewer are
//! his, so that a few that flood leave room for who comes with one query, however high their own bound is. (Choudhury and
//! Hahne, Dynamic Queue Length Thresholds for Shared-Memory Packet Switches, 1998.)

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use foldhash::fast::RandomState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Protocol;
use crate::clients::who::Who;

/// Counters in a row; of each row a client has one, and nobody can foresee which.
const COUNTERS: usize = 1024;

/// Rows. Only who shares both counters with those that take many has fewer places for it.
const ROWS: usize = 2;

/// Of so many places one is for connections alone: whom datagrams come from may be forged, and of those there may be any number.
const FOR_CONNECTIONS: usize = 8;

/// The places there are.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    most: usize,
    most_of_one: usize,
    shares: Arc<Shares>,
    hasher: RandomState,
    /// They have become scarce, and not plenty since.
    scarce: AtomicBool,
}

/// How many places clients have: at least as many as they have, and more only for who shares all its counters (a count-min
/// sketch, Cormode and Muthukrishnan 2005).
#[derive(Debug)]
struct Shares([[AtomicU32; COUNTERS]; ROWS]);

/// Which counters a client has.
type Counted = [usize; ROWS];

/// A place among the queries that wait; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    share: Option<(Arc<Shares>, Counted)>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken, or so many that this client has its part of them.
    OfAll,
    /// The client has as many as one may ever have.
    OfClient,
}

impl Places {
    /// So many in all, and so many for one client.
    pub(super) fn new(most: usize, most_of_one: u32) -> Self {
        let shares = Shares([const { [const { AtomicU32::new(0) }; COUNTERS] }; ROWS]);
        let most_of_one = usize::try_from(most_of_one).unwrap_or(usize::MAX);
        let all = Arc::new(Semaphore::new(most));
        Self {
            all,
            most,
            most_of_one,
            shares: Arc::new(shares),
            hasher: RandomState::default(),
            scarce: AtomicBool::new(false),
        }
    }

    /// A place for a client's query.
    pub(super) fn take(&self, who: Who, by: Protocol) -> Result<Place, NoPlace> {
        let reserved = if by == Protocol::Udp { self.most / FOR_CONNECTIONS } else { 0 };
        let left = self.all.available_permits().saturating_sub(reserved);
        // A port of loopback is that of a program's socket or of another's connection.
        let hash = self.hasher.hash_one((who, by == Protocol::Udp));
        let counted = [hash, hash.rotate_left(32)].map(index);
        let has = self.shares.add(counted);
        let refused = if has >= self.most_of_one {
            Some(NoPlace::OfClient)
        } else if has >= left {
            Some(NoPlace::OfAll)
        } else {
            None
        };
        let of_all = refused.map_or_else(|| self.of_all().ok_or(NoPlace::OfAll), Err);
        match of_all {
            Ok(of_all) => Ok(Place { _of_all: of_all, share: Some((Arc::clone(&self.shares), counted)) }),
            Err(none) => {
                self.shares.subtract(counted);
                Err(none)
            }
        }
    }

    /// A place for a query of the proxy's own.
    pub(super) fn take_for_nobody(&self) -> Option<Place> {
        Some(Place { _of_all: self.of_all()?, share: None })
    }

    /// Whether less than half are left: true once, until they [are plenty](Self::are_plenty_again) again.
    pub(super) fn have_become_scarce(&self) -> bool {
        self.all.available_permits() < self.most / 2 && !self.scarce.swap(true, Ordering::Relaxed)
    }

    /// Whether more than three quarters are left, of those that were scarce.
    pub(super) fn are_plenty_again(&self) -> bool {
        let plenty = self.all.available_permits() > self.most / 4 * 3;
        if plenty {
            self.scarce.store(false, Ordering::Relaxed);
        }
        plenty
    }

    /// Waits until all are free.
    pub(super) async fn all_free(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        let _ = self.all.acquire_many(all).await; // the semaphore is never closed
    }

    fn of_all(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }
}

impl Shares {
    /// Counts one more; tells how many there were.
    fn add(&self, counted: Counted) -> usize {
        let had = self.counters(counted).map(|counter| counter.fetch_add(1, Ordering::Relaxed)).min();
        had.and_then(|had| usize::try_from(had).ok()).unwrap_or(usize::MAX)
    }

    fn subtract(&self, counted: Counted) {
        self.counters(counted).for_each(|counter| _ = counter.fetch_sub(1, Ordering::Relaxed));
    }

    fn counters(&self, counted: Counted) -> impl Iterator<Item = &AtomicU32> {
        self.0.iter().zip(counted).map(|(row, index)| &row[index])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((shares, counted)) = &self.share {
            shares.subtract(*counted);
        }
    }
}

fn index(hash: u64) -> usize {
    usize::try_from(hash % COUNTERS as u64).expect("less than COUNTERS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_that(places: &Places, who: Who, by: Protocol) -> (Vec<Place>, NoPlace) {
        let mut taken = Vec::new();
        loop {
            match places.take(who, by) {
                Ok(place) => taken.push(place),
                Err(none) => return (taken, none),
            }
        }
    }

    #[test]
    fn a_client_has_no_more_than_its_bound() {
        let places = Places::new(100, 4);
        let (mut taken, none) = all_that(&places, Who::Loopback(1), Protocol::Tcp);
        assert_eq!((taken.len(), none), (4, NoPlace::OfClient));
        taken.pop();
        assert!(places.take(Who::Loopback(1), Protocol::Tcp).is_ok());
    }

    #[test]
    fn who_takes_all_it_can_leaves_as_much_for_others() {
        let places = Places::new(1000, 5000);
        let (taken, none) = all_that(&places, Who::Loopback(1), Protocol::Tcp);
        assert_eq!((taken.len(), none), (500, NoPlace::OfAll));
        let (others, _) = all_that(&places, Who::Loopback(2), Protocol::Tcp);
        assert_eq!(others.len(), 250);
    }

    #[test]
    fn beside_many_that_take_all_they_can_whoever_comes_with_a_query_has_a_place() {
        let places = Places::new(4096, 1024);
        let mut taken = Vec::new();
        for _ in 0..1024 {
            taken.extend((0..16).flat_map(|port| places.take(Who::Loopback(port), Protocol::Udp)));
        }
        // Of 3,584 each has as many as are left.
        assert!((16 * 200..16 * 230).contains(&taken.len()), "{}", taken.len());
        for by in [Protocol::Udp, Protocol::Tcp] {
            // Who shares both counters with one of sixteen, of a million pairs: one of thousands of clients.
            let refused = (1000..6000).filter(|port| places.take(Who::Loopback(*port), by).is_err()).count();
            assert!(refused < 20, "{refused} of 5000 by {by:?}");
        }
    }

    #[test]
    fn however_many_send_datagrams_a_connection_has_places() {
        let places = Places::new(4096, 1024);
        let forged: Vec<_> = (0..60_000).flat_map(|port| places.take(Who::Loopback(port), Protocol::Udp)).collect();
        assert!((3000..=4096 - 512).contains(&forged.len()), "{}", forged.len());
        let refused = (0..200).filter(|port| places.take(Who::Loopback(*port), Protocol::Tcp).is_err()).count();
        assert_eq!(refused, 0);
    }

    #[test]
    fn that_places_are_scarce_is_told_once_until_there_are_plenty_again() {
        let places = Places::new(100, 100);
        let mut taken: Vec<_> = (0..50).map(|_| places.take_for_nobody().unwrap()).collect();
        assert!(!places.have_become_scarce());
        taken.push(places.take_for_nobody().unwrap());
        assert!(places.have_become_scarce() && !places.have_become_scarce() && !places.are_plenty_again());
        taken.truncate(25);
        assert!(!places.are_plenty_again());
        taken.truncate(24);
        assert!(!places.have_become_scarce() && places.are_plenty_again());
        taken.extend((0..30).map(|_| places.take_for_nobody().unwrap()));
        assert!(places.have_become_scarce());
    }

    #[test]
    fn all_that_was_taken_comes_back() {
        let places = Places::new(3, 3);
        for _ in 0..5 {
            let (mut taken, _) = all_that(&places, Who::Loopback(7), Protocol::Tcp);
            taken.extend(std::iter::from_fn(|| places.take_for_nobody()));
            assert_eq!((taken.len(), places.take(Who::Loopback(8), Protocol::Tcp).unwrap_err()), (3, NoPlace::OfAll));
        }
        assert!(places.shares.0.iter().flatten().all(|counter| counter.load(Ordering::Relaxed) == 0));
    }
}
