//! Time in four octets: sixteenths of a second since the cache was made, which reach for eight years.

use std::time::{Duration, Instant};

/// A moment, or a span between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticks(u32);

const A_SECOND: u32 = 16;

impl Ticks {
    /// The moment `now`, counted from another.
    pub(super) fn at(now: Instant, epoch: Instant) -> Self {
        let passed = now.saturating_duration_since(epoch);
        let part = passed.subsec_nanos() / (1_000_000_000 / A_SECOND);
        #[expect(clippy::cast_possible_truncation, reason = "moments may wrap around: only spans between them count")]
        let seconds = passed.as_secs() as u32;
        Self(seconds.wrapping_mul(A_SECOND).wrapping_add(part))
    }

    /// A span.
    pub(super) fn from_seconds(seconds: u32) -> Self {
        Self(seconds.saturating_mul(A_SECOND))
    }

    /// A span, in whole seconds.
    pub(super) fn from_duration(span: Duration) -> Self {
        Self::from_seconds(u32::try_from(span.as_secs()).unwrap_or(u32::MAX))
    }

    /// The span from a moment to this one; none where another thread's clock was read a little later.
    pub(super) fn since(self, earlier: u32) -> Self {
        let span = self.0.wrapping_sub(earlier);
        Self(if span > u32::MAX / 2 { 0 } else { span })
    }

    /// The two spans together.
    pub(super) fn saturating_add(self, other: Self) -> Self {
        // A span of more than half the range would be taken for none.
        Self(self.0.saturating_add(other.0).min(u32::MAX / 2))
    }

    pub(super) fn is_in_last_tenth_of(self, lifetime: Self) -> bool {
        u64::from(self.0) * 10 >= u64::from(lifetime.0) * 9
    }

    pub(super) fn whole_seconds(self) -> u32 {
        self.0 / A_SECOND
    }

    /// The moment, as a slot keeps it.
    pub(super) fn into_raw(self) -> u32 {
        self.0
    }

    /// A moment so long before this one that all that began then has ended, and will have for two years more.
    pub(super) fn long_ago(self) -> u32 {
        self.0.wrapping_sub(u32::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_across_the_wrap_around_and_what_is_long_ago_stays_so() {
        let epoch = Instant::now();
        let before = Ticks::at(epoch + Duration::from_secs(u64::from(u32::MAX / A_SECOND)), epoch);
        let after = Ticks::at(epoch + Duration::from_secs(u64::from(u32::MAX / A_SECOND) + 100), epoch);
        assert!(after < before);
        assert_eq!(after.since(before.into_raw()), Ticks::from_seconds(100));
        assert_eq!(before.since(after.into_raw()), Ticks::from_seconds(0));
        let a_year = Ticks::from_seconds(365 * 86_400);
        assert!(after.since(before.long_ago()) > a_year && before.since(before.long_ago()) > a_year);
    }
}
