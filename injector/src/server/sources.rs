//! Who is connected: bounded in all and for each address, so that one that floods costs itself, and the API server finds room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// The connections there are.
#[derive(Debug)]
pub(super) struct Sources {
    most: usize,
    most_of_one: usize,
    reviews_of_one: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    connections: HashMap<u64, (IpAddr, Arc<Activity>)>,
    addresses: HashMap<IpAddr, Address>,
}

#[derive(Debug)]
struct Address {
    connections: usize,
    reviews: Arc<Semaphore>,
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    close: Notify,
}

#[derive(Debug)]
struct State {
    in_flight: usize,
    /// Any request has come.
    asked: bool,
    /// When it was opened, or the last request ended.
    since: Instant,
}

/// A connection's place among all; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    sources: Arc<Sources>,
    id: u64,
    pub(super) activity: Arc<Activity>,
    /// How many requests that take memory may come from this address at once.
    pub(super) share: Share,
}

/// The requests that one address may have in memory, among others'. It goes with each request, as an extension.
#[derive(Debug, Clone)]
pub struct Share(pub(crate) Arc<Semaphore>);

/// A request that is being answered.
pub(super) struct Busy(Arc<Activity>);

impl Sources {
    pub(super) fn new(most: usize, most_of_one: usize, reviews_of_one: usize) -> Self {
        Self { most, most_of_one, reviews_of_one, table: Mutex::default() }
    }

    /// A place for a connection from this address. Where there is none left, the connection that has been idle for longest,
    /// of the address that has most, is closed for it, or `None` is the answer.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<(Place, Evicted)> {
        let address = address.to_canonical();
        let mut table = self.table();
        let of_this_one = table.addresses.get(&address).map_or(0, |address| address.connections);
        let evicted = if of_this_one >= self.most_of_one {
            table.evict(Some(address))?;
            Evicted(true)
        } else if table.connections.len() >= self.most {
            table.evict(None)?;
            Evicted(true)
        } else {
            Evicted(false)
        };
        let (id, activity) = (table.next, Arc::new(Activity::new()));
        table.next += 1;
        table.connections.insert(id, (address, Arc::clone(&activity)));
        let new = || Address { connections: 0, reviews: Arc::new(Semaphore::new(self.reviews_of_one)) };
        let known = table.addresses.entry(address).or_insert_with(new);
        known.connections += 1;
        let share = Share(Arc::clone(&known.reviews));
        drop(table);
        Some((Place { sources: Arc::clone(self), id, activity, share }, evicted))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted(pub(super) bool);

impl Table {
    /// Closes an idle connection, of this address or of the one that has most.
    fn evict(&mut self, of: Option<IpAddr>) -> Option<()> {
        let idle = self.connections.iter().filter_map(|(id, (address, activity))| {
            let since = activity.idle_since()?;
            let connections = self.addresses.get(address).map_or(0, |address| address.connections);
            (of.is_none() || of == Some(*address)).then_some((connections, std::cmp::Reverse(since), *id))
        });
        let (.., id) = idle.max()?;
        let activity = self.remove(id)?;
        activity.close.notify_one();
        Some(())
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Activity>> {
        let (address, activity) = self.connections.remove(&id)?;
        if let Some(known) = self.addresses.get_mut(&address) {
            known.connections -= 1;
            if known.connections == 0 {
                self.addresses.remove(&address);
            }
        }
        Some(activity)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sources.table().remove(self.id);
    }
}

impl Activity {
    fn new() -> Self {
        let state = State { in_flight: 0, asked: false, since: Instant::now() };
        Self { state: Mutex::new(state), close: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn begins(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        state.in_flight += 1;
        state.asked = true;
        Busy(Arc::clone(self))
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.in_flight == 0).then_some(state.since)
    }

    /// Whether a request ever came.
    pub(super) fn was_asked(&self) -> bool {
        self.state().asked
    }

    /// Completes when the connection is to be closed for another, or has asked nothing for too long: `first` before the first
    /// request, `next` after it.
    pub(super) async fn over(&self, first: Duration, next: Duration) -> Over {
        let idle = async {
            loop {
                let (due, busy) = {
                    let state = self.state();
                    (state.since + if state.asked { next } else { first }, state.in_flight > 0)
                };
                let now = Instant::now();
                if !busy && due <= now {
                    return;
                }
                tokio::time::sleep_until(if busy { now + first } else { due }).await;
            }
        };
        tokio::select! {
            () = self.close.notified() => Over::Evicted,
            () = idle => Over::Idle,
        }
    }
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Another one needs its place.
    Evicted,
    /// It asks nothing.
    Idle,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn admitted(sources: &Arc<Sources>, last: u8) -> Place {
        sources.admit(address(last)).unwrap().0
    }

    async fn is_closed(place: &Place) -> bool {
        let day = Duration::from_secs(86_400);
        tokio::time::timeout(Duration::from_millis(1), place.activity.over(day, day)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_one_that_has_most_gives_up_its_longest_idle() {
        let sources = Arc::new(Sources::new(4, 3, 1));
        let other = admitted(&sources, 1);
        let mut flood = Vec::new();
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(1)).await;
            flood.push(admitted(&sources, 2));
        }
        let busy = flood[0].activity.begins();
        let newcomer = sources.admit(address(3)).unwrap();
        assert_eq!(newcomer.1, Evicted(true));
        assert!(is_closed(&flood[1]).await && !is_closed(&flood[0]).await && !is_closed(&other).await);
        drop(busy);
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_its_share_and_no_more() {
        let sources = Arc::new(Sources::new(10, 2, 1));
        let (first, second) = (admitted(&sources, 1), admitted(&sources, 1));
        let busy = first.activity.begins();
        let third = admitted(&sources, 1);
        assert!(is_closed(&second).await && !is_closed(&first).await);
        let all_busy = third.activity.begins();
        assert!(sources.admit(address(1)).is_none());
        assert!(sources.admit("::ffff:192.0.2.1".parse().unwrap()).is_none());
        assert!(sources.admit(address(2)).is_some());
        drop((busy, all_busy));
        drop((first, second, third));
        assert!(sources.table().addresses.is_empty() && sources.table().connections.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_closed_and_sooner_where_nothing_was_ever_asked() {
        let sources = Arc::new(Sources::new(10, 10, 1));
        let (silent, used) = (admitted(&sources, 1), admitted(&sources, 1));
        let began = Instant::now();
        let busy = used.activity.begins();
        let (first, next) = (Duration::from_secs(5), Duration::from_secs(120));
        assert_eq!(silent.activity.over(first, next).await, Over::Idle);
        assert_eq!(began.elapsed(), first);
        tokio::time::advance(Duration::from_secs(200)).await;
        drop(busy);
        let ended = Instant::now();
        assert_eq!(used.activity.over(first, next).await, Over::Idle);
        assert_eq!(ended.elapsed(), next);
    }
}
