//! How a connection is used: what tells whether it is idle, and whether it was any good.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How a connection is used.
#[derive(Debug)]
pub struct Usage {
    in_flight: AtomicUsize,
    last_asked: Mutex<Instant>,
    was_asked: AtomicBool,
    has_answered: AtomicBool,
}

/// A query that waits for its answer. Dropping it says that nobody waits any more.
pub struct InFlight(Arc<Usage>);

impl Usage {
    /// That of a connection just opened.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicUsize::new(0),
            last_asked: Mutex::new(Instant::now()),
            was_asked: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
        })
    }

    /// A query is asked.
    pub fn asks(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        *self.last_asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.was_asked.store(true, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// An answer came.
    pub fn answered(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether any query was asked.
    pub fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Relaxed)
    }

    /// Whether any answer came.
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// Completes when no query waits and none was asked for so long.
    pub async fn idle_for(&self, idle: Duration) {
        loop {
            let idle_at = *self.last_asked.lock().unwrap_or_else(PoisonError::into_inner) + idle;
            let now = Instant::now();
            if idle_at > now {
                sleep_until(idle_at).await;
            } else if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            } else {
                sleep_until(now + idle).await;
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nobody_waits_and_nobody_has_asked_for_long() {
        let (usage, began) = (Usage::new(), Instant::now());
        drop(usage.asks());
        tokio::time::advance(IDLE / 2).await;
        let waiting = usage.asks();
        let until_answered = async {
            tokio::time::sleep(IDLE * 3).await;
            drop(waiting);
        };
        tokio::join!(usage.idle_for(IDLE), until_answered);
        assert!(began.elapsed() >= IDLE / 2 + IDLE * 3, "{:?}", began.elapsed());
        assert!(usage.was_asked() && !usage.has_answered());
    }
}
