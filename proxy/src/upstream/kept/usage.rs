//! How a connection is used: how many queries wait on it, whether it is idle, and whether it was any good.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::super::health::Health;

/// How a connection is used.
#[derive(Debug)]
pub struct Usage {
    health: Arc<Health>,
    in_flight: AtomicUsize,
    /// No more queries are taken.
    finishing: AtomicBool,
    /// There may be room for another query, or nothing in flight any more.
    room: Notify,
    last_asked: Mutex<Instant>,
    was_asked: AtomicBool,
    has_answered: AtomicBool,
    /// It ended with queries in flight, and the server's health was told.
    was_cut_short: AtomicBool,
}

/// A query that waits for its answer. Dropping it says that nobody waits any more.
pub struct InFlight(Arc<Usage>);

impl Usage {
    /// That of a connection just opened.
    pub fn new(health: Arc<Health>) -> Arc<Self> {
        Arc::new(Self {
            health,
            in_flight: AtomicUsize::new(0),
            finishing: AtomicBool::new(false),
            room: Notify::new(),
            last_asked: Mutex::new(Instant::now()),
            was_asked: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            was_cut_short: AtomicBool::new(false),
        })
    }

    /// A query is asked, once there is room for it: a server that ends connections with queries in flight gets fewer at once.
    pub async fn asks(self: &Arc<Self>) -> InFlight {
        loop {
            let room = self.room.notified();
            let window = self.health.window();
            let one_more = |in_flight| (in_flight < window).then_some(in_flight + 1);
            if self.in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok() {
                break;
            }
            room.await;
        }
        *self.last_asked.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.was_asked.store(true, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// An answer came.
    pub fn answered(&self) {
        let is_first = !self.has_answered.swap(true, Ordering::Relaxed);
        self.health.widen(usize::from(!is_first));
    }

    /// The connection ended, or lost a query that was in flight.
    pub fn cut_short(&self) {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        if in_flight > 0 && !self.was_cut_short.swap(true, Ordering::AcqRel) {
            self.health.cut_short(in_flight);
        }
        self.room.notify_waiters();
    }

    /// Whether any query was asked.
    pub fn was_asked(&self) -> bool {
        self.was_asked.load(Ordering::Relaxed)
    }

    /// Whether any answer came.
    pub fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    /// No more queries are to be taken.
    pub fn finish(&self) {
        self.finishing.store(true, Ordering::Release);
        self.room.notify_waiters();
    }

    /// Whether no more queries are taken.
    pub fn is_finishing(&self) -> bool {
        self.finishing.load(Ordering::Acquire)
    }

    /// Completes when no more queries are taken and none waits.
    pub async fn finished(&self) {
        loop {
            let changed = self.room.notified();
            if self.is_finishing() && self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
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
        self.0.room.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nobody_waits_and_nobody_has_asked_for_long() {
        let (usage, began) = (Usage::new(Arc::default()), Instant::now());
        drop(usage.asks().await);
        tokio::time::advance(IDLE / 2).await;
        let waiting = usage.asks().await;
        let until_answered = async {
            tokio::time::sleep(IDLE * 3).await;
            drop(waiting);
        };
        tokio::join!(usage.idle_for(IDLE), until_answered);
        assert!(began.elapsed() >= IDLE / 2 + IDLE * 3, "{:?}", began.elapsed());
        assert!(usage.was_asked() && !usage.has_answered());
    }

    #[tokio::test]
    async fn after_a_connection_was_cut_short_the_next_takes_fewer_queries_until_answers_come() {
        let health = Arc::<Health>::default();
        let usage = Usage::new(Arc::clone(&health));
        let mut waiting = Vec::new();
        for _ in 0..8 {
            waiting.push(usage.asks().await);
        }
        usage.cut_short();
        usage.cut_short(); // once a connection
        drop(waiting);
        assert_eq!(health.window(), 2);
        let usage = Usage::new(health);
        let (first, _second) = (usage.asks().await, usage.asks().await);
        let third = {
            let usage = Arc::clone(&usage);
            tokio::spawn(async move { usage.asks().await })
        };
        tokio::task::yield_now().await;
        assert!(!third.is_finished());
        drop(first);
        third.await.unwrap();
    }
}
