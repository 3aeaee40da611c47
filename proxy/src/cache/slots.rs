//! Where entries live: slots of 32 octets in segments that never move, so that growth copies nothing, and queues that
//! link them.

use super::key::Variant;
use crate::wire::response::Answer;

/// A slot's index; [`NONE`] is no slot.
pub(super) type Index = u32;

/// No slot.
pub(super) const NONE: Index = Index::MAX;

/// One entry, or room for one.
pub(super) struct Slot {
    /// `None` in a slot that is free.
    pub(super) answer: Option<Answer>,
    /// The upper half of the key's hash.
    pub(super) hash: u32,
    /// When it was put here, in ticks.
    pub(super) since: u32,
    /// What follows in the queue, or in the list of free slots.
    next: Index,
    pub(super) variant: Variant,
    /// 0 for an answer; for a failure, how many came in a row.
    pub(super) failures: u8,
    /// Hits that eviction has not yet counted against it, and the queue.
    uses: u8,
    /// Hits since the answer came; [`REFRESHED`] when that has led to a refresh.
    pub(super) hits: u8,
}

/// More uses than these do not keep an entry longer.
const MOST_USES: u8 = 3;

/// In `uses`: the entry is in the main queue.
const IN_MAIN: u8 = 0x80;

/// In `hits`: the refresh of this answer has been asked for.
pub(super) const REFRESHED: u8 = u8::MAX;

const SEGMENT: usize = 128;

/// All slots of a shard.
#[derive(Default)]
pub(super) struct Slots {
    segments: Vec<Box<[Slot; SEGMENT]>>,
    free: Option<Index>,
}

/// Slots in the order in which they came.
pub(super) struct Queue {
    head: Index,
    tail: Index,
    /// Where the sweep stands: the slot before the one it looks at next.
    sweep: Index,
    /// What its entries weigh.
    pub(super) bytes: usize,
}

impl Slot {
    const FREE: Self =
        Self { answer: None, hash: 0, since: 0, next: NONE, variant: Variant::PLAIN, failures: 0, uses: 0, hits: 0 };

    /// What it costs with its answer, in octets.
    pub(super) fn weight(&self) -> usize {
        size_of::<Self>() + self.answer.as_ref().map_or(0, Answer::allocated)
    }

    pub(super) fn is_in_main(&self) -> bool {
        self.uses & IN_MAIN != 0
    }

    /// Puts it into the main queue, as far as the slot itself goes, with all its uses spent.
    pub(super) fn promote(&mut self) {
        self.uses = IN_MAIN;
    }

    pub(super) fn uses(&self) -> u8 {
        self.uses & !IN_MAIN
    }

    pub(super) fn note_use(&mut self) {
        self.uses += u8::from(self.uses() < MOST_USES);
        self.hits += u8::from(self.hits < REFRESHED - 1);
    }

    pub(super) fn spend_use(&mut self) {
        self.uses -= u8::from(self.uses() > 0);
    }
}

impl Slots {
    pub(super) fn get(&self, index: Index) -> &Slot {
        let index = index as usize;
        &self.segments[index / SEGMENT][index % SEGMENT]
    }

    pub(super) fn get_mut(&mut self, index: Index) -> &mut Slot {
        let index = index as usize;
        &mut self.segments[index / SEGMENT][index % SEGMENT]
    }

    /// All there are, the free ones too.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.segments.iter_mut().flat_map(|segment| segment.iter_mut())
    }

    /// A free slot, in a new segment where none is left.
    pub(super) fn take(&mut self) -> Index {
        if self.free.is_none() {
            self.grow();
        }
        let index = self.free.expect("a new segment has free slots");
        let next = self.get(index).next;
        self.free = (next != NONE).then_some(next);
        index
    }

    fn grow(&mut self) {
        let first = self.segments.len() * SEGMENT;
        self.segments.push(Box::new([const { Slot::FREE }; SEGMENT]));
        for offset in (0..SEGMENT).rev() {
            let index = Index::try_from(first + offset).expect("memory ends long before 2^32 slots of 32 octets");
            self.release(index);
        }
    }

    /// Frees a slot, and gives back the answer that was in it.
    pub(super) fn release(&mut self, index: Index) -> Option<Answer> {
        let next = self.free.unwrap_or(NONE);
        self.free = Some(index);
        std::mem::replace(self.get_mut(index), Slot { next, ..Slot::FREE }).answer
    }

    /// Octets of the slots that are free or not yet used.
    pub(super) fn allocated(&self) -> usize {
        self.segments.len() * (size_of::<[Slot; SEGMENT]>() + 2 * size_of::<usize>())
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, sweep: NONE, bytes: 0 }
    }
}

impl Queue {
    /// Appends a slot.
    pub(super) fn push(&mut self, slots: &mut Slots, index: Index) {
        slots.get_mut(index).next = NONE;
        match self.tail {
            NONE => self.head = index,
            tail => slots.get_mut(tail).next = index,
        }
        self.tail = index;
        self.bytes += slots.get(index).weight();
    }

    /// Takes the oldest slot out.
    pub(super) fn pop(&mut self, slots: &Slots) -> Option<Index> {
        let index = self.head;
        (index != NONE).then(|| {
            self.unlink(slots, index);
            index
        })
    }

    fn unlink(&mut self, slots: &Slots, head: Index) {
        let slot = slots.get(head);
        self.head = slot.next;
        self.bytes -= slot.weight();
        if self.tail == head {
            self.tail = NONE;
        }
        if self.sweep == head {
            self.sweep = NONE;
        }
    }

    /// Looks at one slot, the next with each call: takes it out and gives it back if it is worthless.
    pub(super) fn sweep(&mut self, slots: &mut Slots, is_worthless: impl FnOnce(&Slot) -> bool) -> Option<Index> {
        let before = self.sweep;
        let index = if before == NONE { self.head } else { slots.get(before).next };
        if index == NONE || !is_worthless(slots.get(index)) {
            self.sweep = index;
            return None;
        }
        if before == NONE {
            self.unlink(slots, index);
        } else {
            self.bytes -= slots.get(index).weight();
            slots.get_mut(before).next = slots.get(index).next;
            if self.tail == index {
                self.tail = before;
            }
        }
        Some(index)
    }
}

#[cfg(test)]
impl Queue {
    pub(super) fn iter(&self, slots: &Slots) -> impl Iterator<Item = Index> {
        std::iter::successors((self.head != NONE).then_some(self.head), |index| {
            let next = slots.get(*index).next;
            (next != NONE).then_some(next)
        })
    }
}
