//! Answers kept until their TTL ends and a while beyond, in wire form, bounded in octets.
//!
//! Knows no clock: `now` is an argument. A hit allocates nothing and copies no answer. What an entry costs: its answer,
//! which is one allocation, a slot of 32 octets, and 5 to 10 octets of the table; nothing is allocated before the first.
//!
//! ```text
//! Key ─► shard (by the name) ─► table ─► slot ─► Answer
//!                                 small ─► main queue: who is evicted (S3-FIFO)
//! ```

mod ghosts;
mod key;
mod metrics;
mod shard;
mod slots;
mod ticks;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;

use crate::wire::flag;
use crate::wire::name::Name;
use crate::wire::request::Asked;
use crate::wire::response::Answer;
pub use key::Key;
use shard::{Kept, Shard};
use ticks::Ticks;

/// How the cache keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Memory that it may take, in octets; with 0 it keeps nothing.
    pub budget: u64,
    /// How long an answer is kept after its end, for when the upstream fails (RFC 8767); zero for not at all.
    pub stale_for: Duration,
    /// Whether entries in use are to be refreshed before they end.
    pub prefetch: bool,
}

/// What is kept under a key.
#[derive(Debug)]
pub enum Found {
    /// An answer in its lifetime.
    Fresh(Hit),
    /// An answer that has ended: for when the upstream fails. [`Hit::refresh`] says whether to ask it.
    Stale(Hit),
    /// A failure, remembered briefly so that the upstream is not asked in vain (RFC 9520): to be replied as it came.
    Failed(Hit),
    /// Nothing.
    Missing,
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The answer.
    pub answer: Answer,
    /// Its age, in whole seconds.
    pub age: u32,
    /// Whether the upstream is to be asked. Of a fresh answer, it is told once: it is in use and about to end. Of a stale
    /// one always, but for a while after a failure (RFC 8767 §5, the failure recheck timer). Of a failure, never.
    pub refresh: bool,
}

/// The cache; shared by all workers.
#[derive(Debug)]
pub struct Cache {
    shards: Arc<Shards>,
    epoch: Instant,
}

/// The parts, each under a lock of its own; their number is a power of two.
struct Shards(Box<[Mutex<Shard>]>);

/// Workers that look at the same time rarely meet in one of so many parts.
const MOST_SHARDS: u64 = 8;

/// A part is at least so large, in octets, that full-size answers fit.
const LEAST_SHARD: u64 = 1 << 20;

impl Cache {
    /// An empty cache.
    pub fn new(settings: Settings, registry: &mut Registry) -> Self {
        let count = (settings.budget / LEAST_SHARD).clamp(1, MOST_SHARDS);
        let count = if count.is_power_of_two() { count } else { count.next_power_of_two() / 2 };
        let budget = usize::try_from(settings.budget / count).unwrap_or(usize::MAX);
        let shards = Arc::new(Shards((0..count).map(|_| Mutex::new(Shard::new(budget, settings))).collect()));
        registry.register_collector(Box::new(Arc::clone(&shards)));
        // Callers' clocks may be a little behind.
        let now = Instant::now();
        Self { shards, epoch: now.checked_sub(Duration::from_secs(3600)).unwrap_or(now) }
    }

    /// What is kept of a question.
    pub fn get(&self, key: &Key<'_>, now: Instant) -> Found {
        let now = Ticks::at(now, self.epoch);
        let mut shard = self.shards.of(key.name_hash());
        let kept = match shard.look(key, false, now) {
            Some(Kept { answer, age, is_fresh: true, is_due }) => {
                shard.counts.hits += 1;
                shard.counts.refreshes += u64::from(is_due);
                return Found::Fresh(Hit::new(answer, age, is_due));
            }
            kept => kept,
        };
        let failure = shard.look(key, true, now).filter(|failure| failure.is_fresh);
        match (kept, failure) {
            (Some(kept), failure) => {
                shard.counts.stale += 1;
                Found::Stale(Hit::new(kept.answer, kept.age, failure.is_none()))
            }
            (None, Some(failure)) => {
                shard.counts.failures += 1;
                Found::Failed(Hit::new(failure.answer, failure.age, false))
            }
            (None, None) => {
                shard.counts.misses += 1;
                Found::Missing
            }
        }
    }

    /// An NXDOMAIN for a question whose name lies at or below one that does not exist (RFC 8020), made for this question.
    /// Not for names of a cluster, whose DNS may deny a name because it knows no record of one type.
    pub fn nothing_below(&self, key: &Key<'_>, now: Instant) -> Option<Hit> {
        let now = Ticks::at(now, self.epoch);
        let (class, variant) = (key.question().class(), key.variant());
        let names = key.question().name().and_ancestors().filter(|name| name.labels().next().is_some());
        for name in names {
            let hash = key::hash_name(name);
            let denial = self.shards.of(hash).look_for_denial(name, hash, class, variant, now);
            if let Some((denial, age)) = denial {
                return Some(Hit::new(denial.for_name_below(key.question())?, age, false));
            }
        }
        None
    }

    /// Keeps what an upstream answered: an answer for its lifetime, a failure as [`Cache::put_failure`] does, and nothing
    /// that was truncated or asked without recursion desired, which may lack what recursion finds.
    pub fn put(&self, key: &Key<'_>, asked: Asked, answer: &Answer, now: Instant) {
        if !asked.has(flag::RD) {
            return;
        }
        if answer.is_failure() {
            self.put_failure(key, answer, now);
        } else if answer.lifetime() > 0 {
            self.shards.of(key.name_hash()).keep(key, answer, Ticks::at(now, self.epoch));
        }
    }

    /// Keeps nothing of names of which this says no. It is asked once an entry, under the lock of a part of the cache.
    pub fn retain(&self, stays: impl Fn(Name<'_>) -> bool, now: Instant) {
        let now = Ticks::at(now, self.epoch);
        self.shards.0.iter().for_each(|shard| Shards::lock(shard).retain(&stays, now));
    }

    /// Keeps otherwise from now on. The number of its parts stays.
    pub fn configure(&self, settings: Settings, now: Instant) {
        let now = Ticks::at(now, self.epoch);
        let budget = usize::try_from(settings.budget / self.shards.0.len() as u64).unwrap_or(usize::MAX);
        self.shards.0.iter().for_each(|shard| Shards::lock(shard).configure(budget, settings, now));
    }

    /// Remembers a failure for one second, and up to five when it comes again and again (RFC 9520 §3.2). An answer that
    /// is kept stays, and can be used stale.
    pub fn put_failure(&self, key: &Key<'_>, failure: &Answer, now: Instant) {
        self.shards.of(key.name_hash()).keep_failure(key, failure, Ticks::at(now, self.epoch));
    }
}

impl Hit {
    fn new(answer: Answer, age: Ticks, refresh: bool) -> Self {
        Self { answer, age: age.whole_seconds(), refresh }
    }
}

impl Shards {
    /// The part that everything about a name is in.
    fn of(&self, name_hash: u64) -> MutexGuard<'_, Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "only as many bits as there are shards count")]
        let index = name_hash as usize & (self.0.len() - 1);
        Self::lock(&self.0[index])
    }

    fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
