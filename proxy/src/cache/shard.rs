//! One part of the cache: a table over slots, and what to do without when there is no more room.
//!
//! Eviction is S3-FIFO: a name comes into a small queue, and only one that is asked again there goes on to the main
//! queue, so that a burst of unique names pushes out nothing but itself. One that is evicted and comes back soon goes
//! to the main queue at once. Both queues count octets, not entries.

use hashbrown::HashTable;

use super::Settings;
use super::ghosts::Ghosts;
use super::key::{Key, Variant, hash_name, hash_with};
use super::slots::{Index, Queue, REFRESHED, Slot, Slots};
use super::ticks::Ticks;
use crate::wire::name::Name;
use crate::wire::response::Answer;

/// How long failures are remembered, in seconds, the first time and when they come again (RFC 9520 §3.2 wants at least
/// one second, at most five minutes, and growth). Five seconds are the most: with that, what asks without pause costs a
/// failing upstream a fifth of a query a second, and libc, which gives up after 5 s, finds a repaired one with its next try.
const FAILURE_SECONDS: [u32; 4] = [1, 2, 4, 5];

/// A failure that comes again within so many seconds of the last is one more in a row.
const ROW_SECONDS: u32 = 60;

/// An entry is in use when it was hit so often since it came: then it is refreshed before it ends.
const IN_USE: u8 = 2;

/// The small queue's share of the budget: one in so many octets.
const SMALL_SHARE: usize = 10;

/// An answer that would take more than one in so many octets of a shard is not kept: it would push out all others.
const LARGEST_SHARE: usize = 8;

/// How many entries in use one eviction may pass over, so that no query waits for a walk through all of them; some 20 µs.
const PATIENCE: usize = 1024;

/// What is found under a key and can be used.
pub(super) struct Kept {
    pub(super) answer: Answer,
    pub(super) age: Ticks,
    /// Whether its lifetime has not ended.
    pub(super) is_fresh: bool,
    /// Once in its lifetime: it is in use and about to end.
    pub(super) is_due: bool,
}

/// What an attempt to evict came to.
enum Evicted {
    Gone,
    /// The entry is in use, and stays.
    PassedOver,
    /// There is no entry.
    Nothing,
}

/// What happened, to be told as metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) stale: u64,
    pub(super) failures: u64,
    pub(super) refreshes: u64,
    pub(super) evictions: u64,
}

/// A slot in the table, under its key's hash; or, marked, that of an NXDOMAIN under the hash of the name alone.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u32);

const BY_NAME: u32 = 1 << 31;

/// One part of the cache.
pub(super) struct Shard {
    table: HashTable<Place>,
    slots: Slots,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    entries: usize,
    budget: usize,
    settings: Settings,
    pub(super) counts: Counts,
}

impl Slot {
    fn lifetime(&self) -> Ticks {
        let seconds = match self.failures {
            0 => self.answer.as_ref().map_or(0, Answer::lifetime),
            count => FAILURE_SECONDS[usize::from(count - 1).min(FAILURE_SECONDS.len() - 1)],
        };
        Ticks::from_seconds(seconds)
    }

    /// Notes a hit, and tells whether it is the one that should lead to a refresh.
    fn hit(&mut self, now: Ticks) -> bool {
        self.note_use();
        let in_use = (IN_USE..REFRESHED).contains(&self.hits) && self.failures == 0;
        let is_due = in_use && now.since(self.since).is_in_last_tenth_of(self.lifetime());
        if is_due {
            self.hits = REFRESHED;
        }
        is_due
    }

    /// Whether it is of no use any more, not even stale.
    fn is_dead(&self, now: Ticks, settings: &Settings) -> bool {
        let kept = match self.failures {
            0 => Ticks::from_duration(settings.stale_for),
            _ => Ticks::from_seconds(ROW_SECONDS),
        };
        now.since(self.since) >= self.lifetime().saturating_add(kept)
    }

    fn has_ended(&self, now: Ticks) -> bool {
        now.since(self.since) >= self.lifetime()
    }
}

impl Shard {
    pub(super) fn new(budget: usize, settings: Settings) -> Self {
        Self {
            table: HashTable::new(),
            slots: Slots::default(),
            small: Queue::default(),
            main: Queue::default(),
            ghosts: Ghosts::default(),
            entries: 0,
            budget,
            settings,
            counts: Counts::default(),
        }
    }

    /// What is kept under a key, as an answer or as a failure; nothing when it is of no use any more.
    pub(super) fn look(&mut self, key: &Key<'_>, failure: bool, now: Ticks) -> Option<Kept> {
        let index = self.find(key, failure)?;
        let slot = self.slots.get_mut(index);
        let is_fresh = !slot.has_ended(now);
        if !is_fresh && slot.is_dead(now, &self.settings) {
            return None;
        }
        let is_due = is_fresh && slot.hit(now) && self.settings.prefetch;
        Some(Kept { answer: slot.answer.clone()?, age: now.since(slot.since), is_fresh, is_due })
    }

    /// A fresh NXDOMAIN of a name, with its age.
    pub(super) fn look_for_denial(
        &mut self,
        name: Name<'_>,
        name_hash: u64,
        class: u16,
        variant: Variant,
        now: Ticks,
    ) -> Option<(Answer, Ticks)> {
        let hash = denial_hash(name_hash, class, variant);
        let place = self.table.find(spread(hash), |place| {
            place.0 & BY_NAME != 0 && {
                let slot = self.slots.get(place.index());
                let question = slot.answer.as_ref().and_then(Answer::question);
                slot.variant == variant && question.is_some_and(|asked| asked.class() == class && asked.name().is(name))
            }
        });
        let index = place?.index();
        let slot = self.slots.get_mut(index);
        let age = now.since(slot.since);
        if slot.has_ended(now) {
            return None;
        }
        slot.note_use();
        Some((slot.answer.clone()?, age))
    }

    /// Lets go of entries for names of which this says no.
    pub(super) fn retain(&mut self, stays: impl Fn(Name<'_>) -> bool, now: Ticks) {
        for slot in self.slots.iter_mut() {
            let question = slot.answer.as_ref().and_then(Answer::question);
            if question.is_some_and(|question| !stays(question.name())) {
                // It is worthless now, and not found any more; the sweep will find it so.
                slot.since = now.long_ago();
            }
        }
    }

    /// Keeps otherwise from now on.
    pub(super) fn configure(&mut self, budget: usize, settings: Settings, now: Ticks) {
        (self.budget, self.settings) = (budget, settings);
        self.shrink(now);
    }

    /// Keeps an answer, and forgets the failures before it.
    pub(super) fn keep(&mut self, key: &Key<'_>, answer: &Answer, now: Ticks) {
        if let Some(failure) = self.find(key, true) {
            // It is worthless now; the sweep will find it so.
            self.slots.get_mut(failure).since = now.long_ago();
        }
        self.store(key, answer, 0, now);
    }

    /// Keeps a failure for a while that grows with each in a row.
    pub(super) fn keep_failure(&mut self, key: &Key<'_>, failure: &Answer, now: Ticks) {
        let earlier = self.find(key, true).map(|index| self.slots.get(index));
        let row = earlier.filter(|slot| !slot.is_dead(now, &self.settings)).map_or(0, |slot| slot.failures);
        self.store(key, failure, row.saturating_add(1), now);
    }

    fn store(&mut self, key: &Key<'_>, answer: &Answer, failures: u8, now: Ticks) {
        if answer.allocated() > self.budget / LARGEST_SHARE {
            return;
        }
        match self.find(key, failures > 0) {
            Some(index) => self.replace(key, index, answer, failures, now),
            None => self.insert(key, answer, failures, now),
        }
        self.sweep(now);
        self.shrink(now);
    }

    fn replace(&mut self, key: &Key<'_>, index: Index, answer: &Answer, failures: u8, now: Ticks) {
        self.unlist_denial(index);
        let slot = self.slots.get_mut(index);
        let before = slot.weight();
        (slot.answer, slot.since, slot.failures, slot.hits) = (Some(answer.clone()), now.into_raw(), failures, 0);
        let queue = if slot.is_in_main() { &mut self.main } else { &mut self.small };
        queue.bytes = queue.bytes - before + slot.weight();
        self.list_denial(key, index);
    }

    fn insert(&mut self, key: &Key<'_>, answer: &Answer, failures: u8, now: Ticks) {
        let index = self.slots.take();
        let hash = entry_hash(key, failures > 0);
        let slot = self.slots.get_mut(index);
        (slot.answer, slot.since, slot.failures) = (Some(answer.clone()), now.into_raw(), failures);
        (slot.hash, slot.variant) = (hash, key.variant());
        if self.ghosts.take(hash) {
            slot.promote();
            self.main.push(&mut self.slots, index);
        } else {
            self.small.push(&mut self.slots, index);
        }
        self.entries += 1;
        self.list(hash, Place(index));
        self.list_denial(key, index);
    }

    /// Frees the slot of an entry that is in no queue any more.
    fn drop_entry(&mut self, index: Index) {
        self.unlist_denial(index);
        let hash = self.slots.get(index).hash;
        if let Ok(entry) = self.table.find_entry(spread(hash), |place| *place == Place(index)) {
            entry.remove();
        }
        self.slots.release(index);
        self.entries -= 1;
    }

    /// Looks at two entries of each queue, and frees those that are worthless. One would not do: whoever takes one step
    /// for each entry that comes never gets round.
    fn sweep(&mut self, now: Ticks) {
        for _ in 0..2 {
            let Self { slots, small, main, settings, .. } = self;
            let worthless = [small, main].map(|queue| queue.sweep(slots, |slot| slot.is_dead(now, settings)));
            for index in worthless.into_iter().flatten() {
                self.drop_entry(index);
            }
        }
    }

    /// Evicts until the budget is kept.
    fn shrink(&mut self, now: Ticks) {
        let mut patience = PATIENCE;
        while self.allocated() > self.budget {
            match self.evict(now, patience > 0) {
                Evicted::Gone => patience = PATIENCE,
                Evicted::PassedOver => patience -= 1,
                Evicted::Nothing => return,
            }
        }
    }

    /// Takes the oldest entry of a queue, and lets it go unless it is in use.
    fn evict(&mut self, now: Ticks, patient: bool) -> Evicted {
        let from_small = self.small.bytes > self.budget / SMALL_SHARE || self.main.bytes == 0;
        let queue = if from_small { &mut self.small } else { &mut self.main };
        let Some(index) = queue.pop(&self.slots) else { return Evicted::Nothing };
        let slot = self.slots.get_mut(index);
        let has_ended = slot.has_ended(now);
        if patient && slot.uses() > 0 && !has_ended {
            if from_small {
                slot.promote();
            } else {
                slot.spend_use();
            }
            self.main.push(&mut self.slots, index);
            return Evicted::PassedOver;
        }
        if from_small && !has_ended {
            let hash = slot.hash;
            self.ghosts.add(hash, self.entries);
        }
        self.counts.evictions += 1;
        self.drop_entry(index);
        Evicted::Gone
    }

    /// Octets that it takes, all told.
    pub(super) fn allocated(&self) -> usize {
        let answers = self.small.bytes + self.main.bytes - self.entries * size_of::<Slot>();
        answers + self.slots.allocated() + self.table.allocation_size() + self.ghosts.allocated()
    }

    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    fn find(&self, key: &Key<'_>, failure: bool) -> Option<Index> {
        let hash = entry_hash(key, failure);
        let found = self.table.find(spread(hash), |place| {
            place.0 & BY_NAME == 0 && {
                let slot = self.slots.get(place.0);
                slot.hash == hash
                    && slot.variant == key.variant()
                    && (slot.failures > 0) == failure
                    && slot.answer.as_ref().is_some_and(|answer| answer.is_to(key.question()))
            }
        });
        found.map(|place| place.0)
    }

    fn list(&mut self, hash: u32, place: Place) {
        let slots = &self.slots;
        self.table.insert_unique(spread(hash), place, |place| spread(place.hash(slots)));
    }

    /// Lets an NXDOMAIN be found by its name alone.
    fn list_denial(&mut self, key: &Key<'_>, index: Index) {
        let slot = self.slots.get(index);
        if slot.answer.as_ref().is_some_and(Answer::denies_name) && slot.failures == 0 {
            let hash = denial_hash(key.name_hash(), key.question().class(), key.variant());
            self.list(hash, Place(index | BY_NAME));
        }
    }

    fn unlist_denial(&mut self, index: Index) {
        let place = Place(index | BY_NAME);
        if !self.slots.get(index).answer.as_ref().is_some_and(Answer::denies_name) {
            return;
        }
        if let Ok(entry) = self.table.find_entry(spread(place.hash(&self.slots)), |listed| *listed == place) {
            entry.remove();
        }
    }
}

impl Place {
    fn index(self) -> Index {
        self.0 & !BY_NAME
    }

    fn hash(self, slots: &Slots) -> u32 {
        let slot = slots.get(self.index());
        match (self.0 & BY_NAME, slot.answer.as_ref().and_then(Answer::question)) {
            (BY_NAME, Some(question)) => denial_hash(hash_name(question.name()), question.class(), slot.variant),
            _ => slot.hash,
        }
    }
}

/// The half of the key's hash that the slot keeps.
fn entry_hash(key: &Key<'_>, failure: bool) -> u32 {
    (key.hash() >> 32) as u32 ^ u32::from(failure)
}

#[expect(clippy::cast_possible_truncation, reason = "half of a good hash is a good hash")]
fn denial_hash(name_hash: u64, class: u16, variant: Variant) -> u32 {
    hash_with(name_hash, u64::from(class) << 16 | u64::from(variant.bits()) << 32) as u32
}

/// As the table wants it, which looks at the upper seven bits and at the lower ones.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
impl Shard {
    /// Table, slots and queues tell of the same entries.
    pub(super) fn check(&self) {
        let queued: Vec<_> =
            [&self.small, &self.main].map(|queue| queue.iter(&self.slots).collect::<Vec<_>>()).concat();
        assert_eq!(queued.len(), self.entries);
        let all: std::collections::HashSet<_> = queued.iter().copied().collect();
        let (mut denials, mut entries) = (0, 0);
        for place in &self.table {
            assert!(all.contains(&place.index()));
            *(if place.0 & BY_NAME == 0 { &mut entries } else { &mut denials }) += 1;
        }
        let denying = |index: &&Index| self.slots.get(**index).answer.as_ref().is_some_and(Answer::denies_name);
        assert_eq!((entries, denials), (self.entries, queued.iter().filter(denying).count()));
        for (queue, is_main) in [(&self.small, false), (&self.main, true)] {
            let weight = |index| self.slots.get(index).weight();
            assert_eq!(queue.iter(&self.slots).map(weight).sum::<usize>(), queue.bytes);
            assert!(queue.iter(&self.slots).all(|index| self.slots.get(index).is_in_main() == is_main));
        }
    }
}
