//! Queries that wait for an answer: how many in all, and how many of each client.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clients::who::Who;

/// Clients are counted in so many shares. Two that fall into one share it, of which nobody can foresee who they are.
const SHARES: usize = 1024;

/// The places there are.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    most: usize,
    most_of_one: u32,
    shares: Arc<[AtomicU32]>,
    hasher: RandomState,
}

/// A place among the queries that wait; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _of_all: OwnedSemaphorePermit,
    share: Option<(Arc<[AtomicU32]>, usize)>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken.
    OfAll,
    /// The client has taken its share.
    OfClient,
}

impl Places {
    /// So many in all, and so many for one client.
    pub(super) fn new(most: usize, most_of_one: u32) -> Self {
        let shares = (0..SHARES).map(|_| AtomicU32::new(0)).collect();
        Self { all: Arc::new(Semaphore::new(most)), most, most_of_one, shares, hasher: RandomState::default() }
    }

    /// A place for a client's query.
    pub(super) fn take(&self, who: Who) -> Result<Place, NoPlace> {
        let of_all = self.of_all().ok_or(NoPlace::OfAll)?;
        let index = usize::try_from(self.hasher.hash_one(who) % SHARES as u64).expect("less than SHARES");
        if self.shares[index].fetch_add(1, Ordering::Relaxed) >= self.most_of_one {
            self.shares[index].fetch_sub(1, Ordering::Relaxed);
            return Err(NoPlace::OfClient);
        }
        Ok(Place { _of_all: of_all, share: Some((Arc::clone(&self.shares), index)) })
    }

    /// A place for a query of the proxy's own.
    pub(super) fn take_for_nobody(&self) -> Option<Place> {
        Some(Place { _of_all: self.of_all()?, share: None })
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

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((shares, index)) = &self.share {
            shares[*index].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_its_share_leaves_places_for_others() {
        let places = Places::new(10, 4);
        let greedy = Who::Loopback(1);
        let mut taken: Vec<_> = (0..4).map(|_| places.take(greedy).unwrap()).collect();
        assert_eq!(places.take(greedy).unwrap_err(), NoPlace::OfClient);
        // One of a hundred others shares a counter with it at the most likely; the rest has room.
        let other = (2..100).find_map(|port| places.take(Who::Loopback(port)).ok());
        assert!(other.is_some());
        taken.pop();
        taken.push(places.take(greedy).unwrap());
        let rest: Vec<_> = std::iter::from_fn(|| places.take_for_nobody()).collect();
        assert_eq!((rest.len(), places.take(greedy).unwrap_err()), (5, NoPlace::OfAll));
    }
}
