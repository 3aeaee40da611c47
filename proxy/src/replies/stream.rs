//! What TCP clients are owed: replies that answers from upstreams bring, written by the client's own task.
//!
//! Bounded for each client and for all together: a client that does not read is let go, and costs nobody else memory.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// What is kept for one client, in octets: several of the longest answers, or hundreds of usual ones.
const FOR_ONE: usize = 256 << 10;

/// What is kept for all clients, in octets, beyond what each may have whatever the others do.
const FOR_ALL: usize = 4 << 20;

/// What each may have whatever the others do, in octets.
const FOR_EACH: usize = 4 << 10;

/// What is kept for TCP clients, all together: replies not written yet, and input not read to its end.
#[derive(Debug, Default)]
pub struct Streams {
    kept: AtomicUsize,
}

/// What one TCP client is owed.
#[derive(Debug)]
pub struct StreamOutbox {
    all: Arc<Streams>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Replies, each behind its length (RFC 1035 §4.2.2), that the client's task has not taken yet.
    bytes: Vec<u8>,
    /// What the client's task keeps by itself, in octets.
    aside: usize,
    /// What of both is counted in what is kept for all.
    counted: usize,
    /// Queries that wait for their replies.
    in_flight: usize,
    /// The bounds are broken, or the client is gone: nothing is kept any more.
    closed: bool,
    /// The client's task waits for queries in flight to become fewer.
    waits: bool,
    /// The client's task.
    waker: Option<Waker>,
}

/// A reply owed to a TCP client; dropping the last copy ends the debt.
#[derive(Debug)]
pub struct Owed(Arc<StreamOutbox>);

/// How a client stands after what it is owed was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Queries that wait for their replies.
    pub in_flight: usize,
    /// More was owed than is kept.
    pub overrun: bool,
}

impl Streams {
    /// Changes what one client's share is from one size to another; false where that is more than there may be.
    fn change(&self, from: usize, to: usize) -> bool {
        if to <= from {
            self.kept.fetch_sub(from - to, Ordering::Relaxed);
            return true;
        }
        let fits = |kept: usize| Some(kept + (to - from)).filter(|kept| *kept <= FOR_ALL);
        self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

impl State {
    /// Takes the sizes of the buffers into account; false where they are more than there may be.
    fn account(&mut self, all: &Streams) -> bool {
        let size = self.bytes.len() + self.aside;
        let counted = size.saturating_sub(FOR_EACH);
        let fits = size <= FOR_ONE && (counted == self.counted || all.change(self.counted, counted));
        if fits {
            self.counted = counted;
        }
        fits
    }

    /// Keeps nothing any more.
    fn close(&mut self, all: &Streams) {
        (self.bytes, self.aside, self.closed) = (Vec::new(), 0, true);
        self.account(all);
    }
}

impl StreamOutbox {
    /// One for a client.
    pub fn new(all: Arc<Streams>) -> Arc<Self> {
        Arc::new(Self { all, state: Mutex::default() })
    }

    /// Counts one more query in flight.
    pub fn owe(self: &Arc<Self>) -> Owed {
        self.state().in_flight += 1;
        Owed(Arc::clone(self))
    }

    /// Takes all that is owed, appending it to a buffer, and notes whom to wake when there is more, or, with
    /// `fewer_than`, when fewer queries than that are in flight.
    pub fn collect(&self, waker: &Waker, fewer_than: usize, into: &mut Vec<u8>) -> Collected {
        let mut state = self.state();
        if !state.bytes.is_empty() {
            into.extend_from_slice(&state.bytes);
            state.bytes = Vec::new();
            state.account(&self.all);
        }
        if !state.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            state.waker = Some(waker.clone());
        }
        state.waits = state.in_flight >= fewer_than;
        Collected { in_flight: state.in_flight, overrun: state.closed }
    }

    /// Queries that wait for their replies.
    pub fn in_flight(&self) -> usize {
        self.state().in_flight
    }

    /// Tells how many octets the client's task keeps by itself; false where that is more than there may be.
    pub fn keep_aside(&self, octets: usize) -> bool {
        let mut state = self.state();
        state.aside = octets;
        !state.closed && state.account(&self.all)
    }

    /// Forgets all that is owed, for good: the client is gone, or is let go.
    pub fn close(&self) {
        self.state().close(&self.all);
    }

    /// Adds a reply.
    pub(super) fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        if state.closed {
            return;
        }
        let start = state.bytes.len();
        state.bytes.extend([0; 2]);
        write(&mut state.bytes);
        let Ok(length) = u16::try_from(state.bytes.len() - start - 2) else {
            state.bytes.truncate(start); // no DNS message
            return;
        };
        state.bytes[start..start + 2].copy_from_slice(&length.to_be_bytes());
        if !state.account(&self.all) {
            state.close(&self.all);
        }
    }

    /// Wakes the client's task.
    pub(super) fn wake(&self) {
        let waker = self.state().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    pub(super) fn stream(&self) -> &Arc<StreamOutbox> {
        &self.0
    }
}

impl Clone for Owed {
    fn clone(&self) -> Self {
        self.0.owe()
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        let waiting = state.waits;
        drop(state);
        if waiting {
            self.0.wake();
        }
    }
}
