//! What TCP clients are owed: replies that answers from upstreams bring, written by the client's own task.
//!
//! Bounded for each client and for all together: a client that does not read is let go, and costs nobody else memory.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// What each may have whatever the others do, in octets.
const FOR_EACH: usize = 4 << 10;

/// What is kept for TCP clients, all together: replies not written yet, and input not read to its end.
#[derive(Debug)]
pub struct Streams {
    kept: AtomicUsize,
    /// What is kept for one client, in octets.
    for_one: usize,
    /// What is kept for all clients, in octets, beyond what each may have whatever the others do.
    for_all: usize,
}

impl Default for Streams {
    /// Several of the longest answers, or hundreds of usual ones, for each client; and for sixteen of them.
    fn default() -> Self {
        Self::bounded(256 << 10, 4 << 20)
    }
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
    /// So many octets for each client, and so many for all beyond a little for each.
    pub fn bounded(for_one: usize, for_all: usize) -> Self {
        Self { kept: AtomicUsize::new(0), for_one, for_all }
    }

    /// Changes what one client's share is from one size to another; false where that is more than there may be.
    fn change(&self, from: usize, to: usize) -> bool {
        if to <= from {
            self.kept.fetch_sub(from - to, Ordering::Relaxed);
            return true;
        }
        let fits = |kept: usize| Some(kept + (to - from)).filter(|kept| *kept <= self.for_all);
        self.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }
}

impl State {
    /// Takes the sizes of the buffers into account; false where they are more than there may be.
    fn account(&mut self, all: &Streams) -> bool {
        let size = self.bytes.len() + self.aside;
        let counted = size.saturating_sub(FOR_EACH);
        let fits = size <= all.for_one && (counted == self.counted || all.change(self.counted, counted));
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
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut state.bytes)));
        if let Err(panicked) = written {
            state.bytes.truncate(start); // the client's other replies stay whole
            drop(state);
            resume_unwind(panicked);
        }
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
    pub(crate) fn wake(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn push(stream: &StreamOutbox, octets: usize) {
        stream.push(|out| out.extend(std::iter::repeat_n(7, octets)));
    }

    fn collect(stream: &StreamOutbox) -> (Collected, Vec<u8>) {
        let mut into = Vec::new();
        let collected = stream.collect(Waker::noop(), 1, &mut into);
        (collected, into)
    }

    fn kept(all: &Streams) -> usize {
        all.kept.load(Ordering::Relaxed)
    }

    #[test]
    fn each_reply_is_behind_its_length_and_in_flight_until_the_last_copy_of_its_debt_is_gone() {
        let stream = StreamOutbox::new(Arc::default());
        let owed = stream.owe();
        let copy = owed.clone();
        push(owed.stream(), 2);
        push(owed.stream(), 0);
        assert_eq!(collect(&stream), (Collected { in_flight: 2, overrun: false }, vec![0, 2, 7, 7, 0, 0]));
        drop((owed, copy));
        assert_eq!(collect(&stream), (Collected { in_flight: 0, overrun: false }, vec![]));
    }

    #[test]
    fn a_panic_in_the_middle_of_a_reply_leaves_the_others_whole() {
        let stream = StreamOutbox::new(Arc::default());
        let owed = stream.owe();
        push(&stream, 1);
        let half = AssertUnwindSafe(|| {
            owed.stream().push(|out| {
                out.push(8);
                panic!("provoked");
            });
        });
        assert!(catch_unwind(half).is_err());
        push(&stream, 1);
        assert_eq!(collect(&stream).1, [0, 1, 7, 0, 1, 7]);
    }

    #[test]
    fn who_is_owed_more_than_is_kept_for_one_gets_nothing_more_and_takes_no_memory() {
        let all = Arc::<Streams>::default();
        let stream = StreamOutbox::new(Arc::clone(&all));
        for _ in 0..3 {
            push(&stream, 65_000);
        }
        assert!(!collect(&stream).0.overrun);
        for _ in 0..5 {
            push(&stream, 65_000);
        }
        assert_eq!((collect(&stream), kept(&all)), ((Collected { in_flight: 0, overrun: true }, vec![]), 0));
    }

    #[test]
    fn what_a_task_keeps_aside_counts_and_is_given_back_when_the_client_is_gone() {
        let all = Arc::<Streams>::default();
        let stream = StreamOutbox::new(Arc::clone(&all));
        assert!(stream.keep_aside(all.for_one - 100));
        assert_eq!(kept(&all), all.for_one - 100 - FOR_EACH);
        push(&stream, 200);
        assert!(collect(&stream).0.overrun);
        stream.close();
        assert!(!stream.keep_aside(1));
        assert_eq!(kept(&all), 0);
    }

    #[test]
    fn all_clients_together_are_bounded_and_each_has_a_little_whatever_the_others_take() {
        let all = Arc::<Streams>::default();
        let greedy: Vec<_> = (0..100).map(|_| StreamOutbox::new(Arc::clone(&all))).collect();
        for _ in 0..4 {
            greedy.iter().for_each(|stream| push(stream, 60_000));
        }
        assert!(kept(&all) <= all.for_all);
        let held = greedy.iter().filter(|stream| !stream.state().closed).count();
        assert!(0 < held && held < greedy.len(), "{held} are still served");
        let modest = StreamOutbox::new(Arc::clone(&all));
        push(&modest, FOR_EACH - 2);
        assert_eq!(collect(&modest).1.len(), FOR_EACH);
    }

    #[test]
    fn the_task_is_woken_when_few_enough_are_in_flight() {
        struct Woken(AtomicUsize);
        impl std::task::Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let stream = StreamOutbox::new(Arc::default());
        let (first, second) = (stream.owe(), stream.owe());
        stream.collect(&waker, 3, &mut Vec::new());
        drop(first);
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        stream.collect(&waker, 1, &mut Vec::new());
        drop(second);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    }
}
