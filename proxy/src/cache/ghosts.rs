//! What was evicted lately, as far as can be told at four octets a name: who comes back so soon was in use after all.

/// Hashes in buckets, the newest first, in each of which a new one pushes out the oldest. Nothing is allocated before
/// the first eviction.
#[derive(Default)]
pub(super) struct Ghosts {
    buckets: Box<[[u32; BUCKET]]>,
}

const BUCKET: usize = 8;

/// For how few entries it is worth it.
const FEWEST: usize = 64;

impl Ghosts {
    /// Remembers one that is evicted from a cache of so many entries.
    pub(super) fn add(&mut self, hash: u32, entries: usize) {
        if self.buckets.is_empty() {
            self.buckets = vec![[0; BUCKET]; entries.max(FEWEST).next_power_of_two() / BUCKET].into();
        }
        if let Some(bucket) = self.bucket(hash) {
            bucket.rotate_right(1);
            bucket[0] = hash;
        }
    }

    /// Whether it was evicted lately; it is forgotten with that.
    pub(super) fn take(&mut self, hash: u32) -> bool {
        let ghost = self.bucket(hash).and_then(|bucket| bucket.iter_mut().find(|ghost| **ghost == hash));
        ghost.is_some_and(|ghost| std::mem::take(ghost) != 0)
    }

    fn bucket(&mut self, hash: u32) -> Option<&mut [u32; BUCKET]> {
        let place = hash as usize & self.buckets.len().wrapping_sub(1);
        self.buckets.get_mut(place)
    }

    /// Octets that it takes.
    pub(super) fn allocated(&self) -> usize {
        self.buckets.len() * size_of::<[u32; BUCKET]>()
    }
}
