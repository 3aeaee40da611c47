//! The connections there are: how many, whose, and which gives way when there are too many.
//!
//! Whoever opens connections and does not use them fills the room only until somebody comes who does: the one that was
//! opened longest ago without a query is displaced first, then the one that has been idle for longest.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::closed::Closed;
use crate::clients::who::Who;
use crate::replies::StreamOutbox;

/// Connections that may be open beyond those allowed while others make room for them.
const MARGIN: usize = 128;

/// As many of those are told so only once nobody waits to be accepted.
pub(super) const PUT_OFF: usize = MARGIN / 2;

/// Connections looked at to find one that gives way.
const LOOKED_AT: usize = 64;

/// A connection on which a query came so recently does not give way.
const RECENT: Duration = Duration::from_millis(100);

/// The connections there are.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    most_of_one: usize,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Open>,
    /// How many each client has; loopback is not counted.
    of_clients: HashMap<Who, usize>,
    /// In the order in which they are looked at when one must give way; some may be gone.
    order: VecDeque<u64>,
    /// They have to go, and were not woken for it.
    leaving: VecDeque<Arc<Seen>>,
}

#[derive(Debug)]
struct Open {
    who: Who,
    seen: Arc<Seen>,
}

/// What a connection's task and others know of it.
#[derive(Debug)]
pub(super) struct Seen {
    outbox: Arc<StreamOutbox>,
    /// When the last query came, in milliseconds since the first connection could; 0: none did.
    asked: AtomicU64,
    /// Whether it has to go, and why.
    told: AtomicU8,
}

const DISPLACED: u8 = 1;
const SHUT_OUT: u8 = 2;

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    connections: Arc<Connections>,
    id: u64,
    who: Who,
    seen: Arc<Seen>,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The client has as many as one may.
    OfClient,
    /// There are as many as may be, and none gives way.
    OfAll,
}

impl Connections {
    /// So many in all, and so many of one client.
    pub(super) fn new(most: usize, most_of_one: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_one, began: Instant::now(), state: Mutex::default() })
    }

    /// Takes a connection, for which another may have to go, once it is [let go](Self::let_go).
    pub(super) fn admit(self: &Arc<Self>, who: Who, outbox: Arc<StreamOutbox>) -> Result<Slot, Full> {
        let mut state = self.state();
        if !who.is_loopback() && state.of_clients.get(&who).is_some_and(|count| *count >= self.most_of_one) {
            return Err(Full::OfClient);
        }
        if state.open.len() >= self.most && (state.open.len() >= self.most + MARGIN || !self.displace(&mut state)) {
            return Err(Full::OfAll);
        }
        let id = state.next;
        state.next += 1;
        let seen = Arc::new(Seen { outbox, asked: AtomicU64::new(0), told: AtomicU8::new(0) });
        state.open.insert(id, Open { who, seen: Arc::clone(&seen) });
        if !who.is_loopback() {
            *state.of_clients.entry(who).or_default() += 1;
        }
        state.order.push_back(id);
        if state.order.len() > 2 * state.open.len() + LOOKED_AT {
            let State { order, open, .. } = &mut *state;
            order.retain(|id| open.contains_key(id));
        }
        drop(state);
        Ok(Slot { connections: Arc::clone(self), id, who, seen })
    }

    /// Tells so many of those that have to make room that they have; false if there are none. Some may be put off while others
    /// wait to be accepted, who may have something to ask.
    pub(super) fn let_go(&self, some: usize, put_off: usize) -> bool {
        let told: Vec<_> = {
            let leaving = &mut self.state().leaving;
            let count = some.min(leaving.len().saturating_sub(put_off));
            leaving.drain(..count).collect()
        };
        told.iter().for_each(|seen| seen.outbox.wake());
        !told.is_empty()
    }

    /// Tells the connections of a client that it is shut out.
    pub(super) fn shut_out(&self, who: Who) {
        let of_client = |open: &&Open| open.who == who;
        let told: Vec<_> = self.state().open.values().filter(of_client).map(|open| Arc::clone(&open.seen)).collect();
        told.iter().for_each(|seen| seen.tell(SHUT_OUT));
    }

    /// Tells the least used of a few connections to go; false where all are in use.
    fn displace(&self, state: &mut State) -> bool {
        let now = self.milliseconds();
        let recent = u64::try_from(RECENT.as_millis()).unwrap_or(u64::MAX);
        let mut idlest: Option<(u64, u64)> = None;
        for _ in 0..LOOKED_AT.min(state.order.len()) {
            let Some(id) = state.order.pop_front() else { break };
            let Some(open) = state.open.get(&id) else { continue };
            if open.seen.told.load(Ordering::Relaxed) != 0 {
                continue; // it is going already
            }
            match open.seen.asked.load(Ordering::Relaxed) {
                0 => {
                    let seen = Arc::clone(&open.seen);
                    seen.has_to_go(DISPLACED);
                    state.leaving.push_back(seen);
                    return true;
                }
                asked => {
                    let idle = now.saturating_sub(asked) >= recent && open.seen.outbox.in_flight() == 0;
                    if idle && idlest.is_none_or(|(earliest, _)| asked < earliest) {
                        idlest = Some((asked, id));
                    }
                    state.order.push_back(id);
                }
            }
        }
        let Some(open) = idlest.and_then(|(_, id)| state.open.get(&id)) else { return false };
        let seen = Arc::clone(&open.seen);
        seen.has_to_go(DISPLACED);
        state.leaving.push_back(seen);
        true
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn tell(&self, why: u8) {
        self.has_to_go(why);
        self.outbox.wake();
    }

    /// It sees that when it is its turn.
    fn has_to_go(&self, why: u8) {
        self.told.store(why, Ordering::Release);
    }
}

impl Slot {
    /// Whose it is.
    pub(super) fn who(&self) -> Who {
        self.who
    }

    /// Notes that a query came.
    pub(super) fn used(&self) {
        self.seen.asked.store(self.connections.milliseconds().max(1), Ordering::Relaxed);
    }

    /// Whether no query ever came.
    pub(super) fn is_unused(&self) -> bool {
        self.seen.asked.load(Ordering::Relaxed) == 0
    }

    /// Why the connection has to go, if it has to. To be asked after the outbox was given whom to wake.
    pub(super) fn told_to_go(&self) -> Option<Closed> {
        match self.seen.told.load(Ordering::Acquire) {
            0 => None,
            SHUT_OUT => Some(Closed::ShutOut),
            _ if self.is_unused() => Some(Closed::Displaced),
            _ => Some(Closed::MadeRoom),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.connections.state();
        state.open.remove(&self.id);
        if let Some(count) = state.of_clients.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                state.of_clients.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replies::Streams;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const LOOPBACK: Who = Who::Loopback(0);

    fn client(last: u8) -> Who {
        Who::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    fn admit(connections: &Arc<Connections>, who: Who) -> Result<Slot, Full> {
        connections.admit(who, StreamOutbox::new(Arc::<Streams>::default()))
    }

    fn open(connections: &Connections) -> usize {
        connections.state().open.len()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_that_never_asked_gives_way_first_then_who_is_idle_for_longest() {
        let connections = Connections::new(4, 4);
        let slots: Vec<_> = (0..4).map(|_| admit(&connections, LOOPBACK).unwrap()).collect();
        for asked in [0, 2, 3] {
            slots[asked].used();
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        let told = || slots.iter().map(Slot::told_to_go).collect::<Vec<_>>();
        let newer = [admit(&connections, LOOPBACK).unwrap(), admit(&connections, LOOPBACK).unwrap()];
        // The second newer one displaced the first, which had not asked either.
        assert_eq!(
            (told(), newer[0].told_to_go()),
            (vec![None, Some(Closed::Displaced), None, None], Some(Closed::Displaced))
        );
        newer[1].used();
        assert_eq!(admit(&connections, LOOPBACK).unwrap_err(), Full::OfAll, "all have asked a moment ago");
        tokio::time::advance(RECENT).await;
        let _third = admit(&connections, LOOPBACK).unwrap();
        assert_eq!(told()[0], Some(Closed::MadeRoom));
        assert_eq!(told()[2..], [None, None]);
    }

    #[tokio::test]
    async fn farewells_are_put_off_while_many_connect_and_then_none_is_forgotten() {
        let connections = Connections::new(8, 8);
        let slots: Vec<_> = (0..8 + PUT_OFF + 3).map(|_| admit(&connections, LOOPBACK).unwrap()).collect();
        let left = || connections.state().leaving.len();
        assert_eq!(slots.iter().filter(|slot| slot.told_to_go().is_some()).count(), PUT_OFF + 3);
        assert!(connections.let_go(2, PUT_OFF) && left() == PUT_OFF + 1);
        assert!(connections.let_go(2, PUT_OFF) && !connections.let_go(2, PUT_OFF) && left() == PUT_OFF);
        while connections.let_go(4, 0) {}
        assert_eq!(left(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_owed_a_reply_does_not_give_way() {
        let connections = Connections::new(1, 1);
        let outbox = StreamOutbox::new(Arc::<Streams>::default());
        let slot = connections.admit(LOOPBACK, Arc::clone(&outbox)).unwrap();
        slot.used();
        tokio::time::advance(RECENT * 2).await;
        let owed = outbox.owe();
        assert_eq!(admit(&connections, LOOPBACK).unwrap_err(), Full::OfAll);
        drop(owed);
        assert!(admit(&connections, LOOPBACK).is_ok());
    }

    #[tokio::test]
    async fn each_client_has_its_share_and_loopback_is_not_counted() {
        let connections = Connections::new(100, 2);
        let slots: Vec<_> = (0..2).map(|_| admit(&connections, client(1)).unwrap()).collect();
        assert_eq!(admit(&connections, client(1)).unwrap_err(), Full::OfClient);
        assert!(admit(&connections, client(2)).is_ok());
        drop(slots);
        assert!(admit(&connections, client(1)).is_ok());
        let loopback: Vec<_> = (0..50).map(|_| admit(&connections, LOOPBACK).unwrap()).collect();
        assert_eq!(open(&connections), loopback.len());
        drop(loopback);
        assert_eq!((open(&connections), connections.state().of_clients.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_is_shut_out_loses_all_its_connections_and_nobody_else_any() {
        let connections = Connections::new(10, 10);
        let slots = [client(1), client(2), client(1)].map(|who| admit(&connections, who).unwrap());
        connections.shut_out(client(1));
        assert_eq!(slots.each_ref().map(Slot::told_to_go), [Some(Closed::ShutOut), None, Some(Closed::ShutOut)]);
    }

    #[tokio::test]
    async fn whatever_comes_there_are_never_more_than_those_allowed_and_the_margin() {
        let connections = Connections::new(8, 8);
        let slots: Vec<_> = (0..10_000).filter_map(|_| admit(&connections, LOOPBACK).ok()).collect();
        assert_eq!((slots.len(), open(&connections)), (8 + MARGIN, 8 + MARGIN));
    }

    proptest! {
        #[test]
        fn the_books_are_kept_whoever_comes_and_goes(steps in prop::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..300)) {
            let connections = Connections::new(6, 4);
            let mut slots: Vec<Slot> = Vec::new();
            for (who, comes, asks) in steps {
                if comes {
                    slots.extend(admit(&connections, client(who)).inspect(|slot| if asks { slot.used() }));
                } else if !slots.is_empty() {
                    slots.swap_remove(usize::from(who) % slots.len());
                }
                slots.retain(|slot| slot.told_to_go().is_none());
                let state = connections.state();
                prop_assert_eq!(state.open.len(), slots.len());
                prop_assert!(slots.len() <= 6 && state.order.len() <= 2 * 7 + LOOKED_AT);
                prop_assert_eq!(state.of_clients.values().sum::<usize>(), slots.len());
                prop_assert!(state.of_clients.values().all(|count| (1..=4).contains(count)));
            }
        }
    }
}
