//! Security events for a SIEM: what happened, as JSON in the Elastic Common Schema, on standard output and by syslog.
//!
//! ```text
//!  anywhere ──Events::emit──► sums      repeated ones are counted, not told again
//!                              │ wakes
//!                              ▼
//!                            teller     the text is made here, off the path of queries
//!                              ├──► outlet (bounded, counts what it loses) ──► stdout, a thread
//!                              └──► outlet ─────────────────────────────────► syslog over TCP or TLS
//! ```
//!
//! Who emits never waits: it takes one short lock, under which something is counted or put into a bounded queue. Nothing
//! wakes up while nothing happens. EVENTS.md is the list of all events and their fields.

mod event;
mod sums;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

pub use event::{Event, Transport};
use sums::{Sums, Told};

/// Events that wait to be made into text; more come only while the runtime stands still.
const QUEUE: usize = 1024;

/// Where events are handed in. Cheap to clone; without any sink it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Events {
    hub: Option<Arc<Hub>>,
}

/// What was handed in and not made into text yet.
#[derive(Debug, Default)]
struct Hub {
    pending: Mutex<Pending>,
    /// Something is in the queue, or will have to be told at some time.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    sums: Sums,
    queue: VecDeque<Told>,
    /// Events for which there was no room in the queue.
    lost: u64,
}

impl Events {
    /// Events that go nowhere.
    pub fn none() -> Self {
        Self::default()
    }

    /// Tells of an event. Never waits, and costs next to nothing where it repeats one that was told a moment ago.
    pub fn emit(&self, event: Event) {
        if let Some(hub) = &self.hub {
            hub.take(event, SystemTime::now(), Instant::now());
        }
    }
}

impl Hub {
    fn take(&self, event: Event, at: SystemTime, now: Instant) {
        let mut pending = self.pending();
        if let Some(told) = pending.sums.add(event, at, now) {
            pending.put(told);
            drop(pending);
            self.changed.notify_one();
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn put(&mut self, told: Told) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(told);
        } else {
            self.lost += 1;
        }
    }
}
