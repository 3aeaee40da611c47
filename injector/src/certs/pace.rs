//! How often something is put right that others put wrong: at once a few times, then slowly.

use std::time::Duration;

use tokio::time::Instant;

/// So often at once.
const BURST: u32 = 10;
/// Then once in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// What may still be done.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    /// Since when something more has been earned.
    since: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether it may be done now; it is counted if so.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.since).as_secs() / INTERVAL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(BURST).min(BURST);
            self.left = (self.left + earned).min(BURST);
            self.since = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    /// Whether somebody else seems to be at it as well.
    pub(super) fn is_strained(&self) -> bool {
        self.left < BURST / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_times_at_once_and_then_once_in_ten_seconds() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!((0..BURST).all(|_| pace.take(start)));
        assert!(!pace.take(start) && pace.is_strained());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(!pace.take(later(9)));
        assert!(pace.take(later(10)) && !pace.take(later(19)) && pace.take(later(20)));
        assert!((0..BURST).all(|_| pace.take(later(100_000))));
        assert!(!pace.take(later(100_000)));
    }
}
