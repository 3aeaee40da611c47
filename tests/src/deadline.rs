//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// The time between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks at `check` until it is `Ok`; past the deadline, panics with `what` was awaited and with the last reason.
pub fn eventually<T>(what: &str, within: Duration, mut check: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + within;
    loop {
        match check() {
            Ok(value) => return value,
            Err(reason) => {
                assert!(Instant::now() < deadline, "not within {within:?}: {what}\n{reason}");
            }
        }
        thread::sleep(PAUSE);
    }
}
